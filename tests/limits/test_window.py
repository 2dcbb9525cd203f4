"""The arithmetic of limits."""

from hypothesis import given
from hypothesis import strategies as st

from one_api.limits.window import LEASE_S, Limits, Window


def test_a_minute_holds_exactly_the_limit() -> None:
    window = Window()
    verdicts = [window.take(Limits(50), 1000.5, 0, lease) for lease in range(1, 201)]
    assert sum(verdict.refused_by is None for verdict in verdicts) == 50
    assert verdicts[-1].refused_by == "requests"
    assert 60 <= verdicts[-1].retry_after_s <= 61


def test_a_refused_request_is_let_in_after_the_time_that_it_was_told() -> None:
    window = Window()
    for at in (10.0, 20.0, 30.0):
        window.take(Limits(3), at, 0, 1)
    refused = window.take(Limits(3), 40.0, 0, 1)
    assert window.take(Limits(3), 40.0 + refused.retry_after_s - 0.01, 0, 1).refused_by == "requests"
    assert window.take(Limits(3), 40.0 + refused.retry_after_s, 0, 1).refused_by is None


@given(
    limit=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_sixty_seconds_hold_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    window, now, admitted = Window(), 1e6, []
    for gap in gaps:
        now += gap
        if window.take(Limits(limit), now, 0, 1).refused_by is None:
            admitted.append(now)
    for first in admitted:
        assert sum(first <= at < first + 60 for at in admitted) <= limit


def test_tokens_are_settled_to_what_was_used() -> None:
    window, limits = Window(), Limits(100, tokens_per_minute=1000)
    assert window.take(limits, 5.0, 900, 1).refused_by is None
    assert window.take(limits, 6.0, 200, 2).refused_by == "tokens"
    window.settle(7.0, 5.0, 900, 100)
    verdict = window.take(limits, 8.0, 200, 2)
    assert (verdict.refused_by, verdict.remaining_tokens) == (None, 700)


def test_tokens_beyond_the_estimate_count_even_after_the_minute_of_the_request() -> None:
    window, limits = Window(), Limits(100, tokens_per_minute=1000)
    window.take(limits, 5.0, 100, 1)
    window.settle(500.0, 5.0, 100, 900)
    assert window.take(limits, 501.0, 300, 2).refused_by == "tokens"


def test_a_request_larger_than_the_limit_is_always_refused() -> None:
    window, limits = Window(), Limits(100, tokens_per_minute=1000)
    assert window.take(limits, 5.0, 1001, 1).refused_by == "tokens"
    assert window.take(limits, 500.0, 1001, 1).refused_by == "tokens"


def test_leases_bound_requests_at_a_time_and_expire() -> None:
    window, limits = Window(), Limits(100, concurrent=2)
    for lease in (1, 2):
        assert window.take(limits, 5.0, 0, lease).refused_by is None
    assert window.take(limits, 6.0, 0, 3).refused_by == "concurrent"
    window.release(1)
    assert window.take(limits, 7.0, 0, 3).refused_by is None
    assert window.take(limits, 8.0, 0, 4).refused_by == "concurrent"
    window.renew(60.0, 2)
    assert window.take(limits, 8.0 + LEASE_S, 0, 4).refused_by is None
    assert set(window.leases) == {2, 4}


def test_a_refused_request_counts_for_nothing() -> None:
    window, limits = Window(), Limits(100, tokens_per_minute=10, concurrent=5)
    window.take(limits, 5.0, 11, 1)
    verdict = window.take(limits, 5.0, 1, 2)
    assert (verdict.remaining_requests, verdict.remaining_tokens, len(window.leases)) == (99, 9, 1)
