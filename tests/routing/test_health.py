"""How a deployment has been doing: times, successes, cooldowns; and the attempts that tell."""

import pytest

from one_api.contract import Usage
from one_api.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from one_api.routing.attempt import Attempt
from one_api.routing.circuit import State
from one_api.routing.deployment import Deployment
from one_api.routing.health import CREDIT, HALF_LIFE_S, TYPICAL_TOKENS, Health, Timing
from tests.support.clock import Clock
from tests.utils.fake_adapter import FakeAdapter

NOW = 1000.0
BLAMED = [UpstreamUnreachable, UpstreamFailed, UpstreamTimeout, UpstreamBroken, UpstreamOverloaded]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def place() -> Deployment:
    return Deployment("a", FakeAdapter(), "m")


def stream(place: Deployment, clock: Clock, first_s: float, cooldown_s: float, tokens: int | None) -> None:
    """A stream that is read to its end."""
    attempt = Attempt(place, True, clock)
    clock.now += first_s
    attempt.answered()
    clock.now += cooldown_s
    attempt.settle("ok", None if tokens is None else Usage(0, tokens))


def seen(health: Health, now: float) -> list[object]:
    """Everything that choices rest on."""
    times = [(each.answers, each.answer_s, each.pending) for each in (health.streamed, health.whole)]
    return [
        health.in_flight,
        health.failures,
        health.success(now),
        health.circuit.state(now),
        health.cooling_until,
        times,
    ]


# Times


def test_the_time_of_a_stream_is_that_of_its_first_event_and_of_its_tokens(place: Deployment, clock: Clock) -> None:
    stream(place, clock, first_s=0.5, cooldown_s=2.0, tokens=100)

    timing = place.health.streamed
    assert (timing.first_event_s, timing.per_token_s) == pytest.approx((0.5, 0.02))
    assert timing.answer_s == pytest.approx(0.5 + 0.02 * TYPICAL_TOKENS)
    assert place.health.whole.answer_s == 0


def test_until_a_stream_has_ended_nothing_is_said_about_its_speed(place: Deployment, clock: Clock) -> None:
    attempt = Attempt(place, True, clock)
    clock.now += 0.1
    attempt.answered()

    assert place.health.streamed.expected_s(7.0, clock.now) == 7.0
    attempt.settle("cancelled")


@pytest.mark.parametrize(("tokens", "expected"), [(TYPICAL_TOKENS, 3.0), (None, 3.0), (288, 1.5), (48, 6.0)])
def test_a_whole_answer_counts_by_its_length(
    place: Deployment, clock: Clock, tokens: int | None, expected: float
) -> None:
    attempt = Attempt(place, False, clock)
    clock.now += 3.0
    attempt.answered()
    attempt.settle("ok", None if tokens is None else Usage(0, tokens))

    assert place.health.whole.answer_s == pytest.approx(expected)


def test_old_times_fade_beside_new_ones() -> None:
    timing = Timing(streamed=False)
    timing.answered(1.0, 1, NOW)

    timing.answered(4.0, 1, NOW + HALF_LIFE_S)

    assert (timing.answers, timing.answer_s) == pytest.approx((1.5, (0.5 * 1 + 4) / 1.5))


def test_what_is_idle_drifts_to_the_median() -> None:
    timing = Timing(streamed=False)
    for _ in range(20):
        timing.answered(10.0, 1, NOW)

    expected = [timing.expected_s(1.0, NOW + wait) for wait in (0, 60, 120, 300, 900)]

    assert expected == sorted(expected, reverse=True)
    assert (expected[0], expected[-1]) == pytest.approx(((20 * 10 + CREDIT) / (20 + CREDIT), 1.0), abs=0.02)


def test_silence_shows_before_it_ends() -> None:
    timing = Timing(streamed=False)
    for _ in range(200):
        timing.answered(1.0, 1, NOW)
    for _ in range(10):
        timing.begin(NOW)

    expected = [timing.expected_s(1.0, NOW + wait) for wait in (0, 1, 4, 30)]

    assert expected[:2] == [1.0, pytest.approx(1.0, abs=0.03)]
    assert expected[2] > 2
    assert expected[3] > 10


def test_a_slow_one_is_seen_to_recover() -> None:
    timing = Timing(streamed=False)
    for _ in range(5):
        timing.answered(10.0, 1, NOW)

    for _ in range(3):
        timing.answered(1.0, 1, NOW)

    assert timing.answer_s < 2


def test_many_answers_are_no_more_than_a_memory() -> None:
    timing = Timing(streamed=False)
    for number in range(2000):
        timing.answered(1.0 if number < 1000 else 3.0, 1, NOW)

    assert timing.answers < 202
    assert timing.answer_s > 2.9


def test_time_spent_on_a_failure_counts(place: Deployment, clock: Clock) -> None:
    for outcome in ("ok", UpstreamTimeout("x")):
        attempt = Attempt(place, False, clock)
        clock.now += 2.0
        attempt.settle(outcome)

    assert place.health.whole.answer_s == pytest.approx(4.0, rel=0.05)


# Success


def test_success_is_less_certain_the_less_is_known() -> None:
    fresh, known = Health(), Health()
    for _ in range(200):
        known.succeeded(NOW, NOW)

    assert 0.8 < fresh.success(NOW) < 0.95 < known.success(NOW) < 1
    assert known.success(NOW + 900) == pytest.approx(fresh.success(NOW), abs=0.001)


def test_failures_lower_it() -> None:
    health = Health()
    for number in range(100):
        health.succeeded(NOW, NOW)
        if number % 4 == 0:
            health.failed(UpstreamFailed("x"), NOW)

    assert 0.7 < health.success(NOW) < 0.8


# Which outcomes move it


@pytest.mark.parametrize("error", BLAMED)
def test_three_failures_in_a_row_open_the_circuit(place: Deployment, clock: Clock, error: type[UpstreamError]) -> None:
    for _ in range(3):
        Attempt(place, True, clock).settle(error("x"))

    assert place.health.circuit.state(NOW) is State.OPEN
    assert place.health.failures == 3


@pytest.mark.parametrize("outcome", ["cancelled", UpstreamRejected("x")])
@pytest.mark.parametrize("wants_stream", [True, False])
def test_whoever_leaves_and_whose_request_is_refused_moves_nothing(
    place: Deployment, clock: Clock, wants_stream: bool, outcome: UpstreamError | str
) -> None:
    before = seen(place.health, NOW)

    for _ in range(20):
        Attempt(place, wants_stream, clock).settle(outcome)

    assert seen(place.health, NOW) == before


def test_all_that_are_well_again_are_equals_however_ill_they_were() -> None:
    chances = []
    for failures in (3, 30):
        health = Health()
        for _ in range(failures):
            health.failed(UpstreamFailed("x"), NOW)
        health.succeeded(NOW + 1, NOW + 2)
        chances.append(health.success(NOW + 2))

    assert chances[0] == chances[1] > Health().success(NOW + 2)


@pytest.mark.parametrize(("retry_after_s", "cooldown_s"), [(7.0, 7), (None, 5), (300.0, 300)])
def test_a_rate_limit_is_a_rest_without_blame(
    place: Deployment, clock: Clock, retry_after_s: float | None, cooldown_s: float
) -> None:
    certain = place.health.success(NOW)

    for _ in range(5):
        Attempt(place, True, clock).settle(UpstreamRateLimited("x", retry_after_s=retry_after_s))

    assert (place.health.cooling_until, place.health.failures) == (NOW + cooldown_s, 0)
    assert (place.health.circuit.state(NOW), place.health.success(NOW)) == (State.CLOSED, certain)


def test_an_overloaded_one_rests_and_is_blamed() -> None:
    health = Health()

    health.failed(UpstreamOverloaded("x", retry_after_s=7), NOW)

    assert (health.cooling_until, health.failures) == (NOW + 7, 1)


def test_a_wrong_credential_means_half_an_hour_or_until_it_answers() -> None:
    health = Health()

    health.failed(UpstreamMisconfigured("x"), NOW)
    health.failed(UpstreamRateLimited("x", retry_after_s=1), NOW)
    health.succeeded(NOW - 1, NOW + 1)
    until = health.cools_until("chat")
    health.succeeded(NOW + 2, NOW + 3)

    assert (until, health.cools_until("chat"), health.failures) == (NOW + 1800, 0, 0)


# Attempts


def test_an_attempt_is_in_flight_until_it_is_settled_and_only_once(place: Deployment, clock: Clock) -> None:
    first, second = Attempt(place, True, clock), Attempt(place, True, clock)
    assert (place.health.in_flight, place.health.streamed.pending) == (2, 2)

    for outcome in ("ok", "cancelled", UpstreamFailed("x")):
        first.settle(outcome)
    first.answered()

    assert (place.health.in_flight, place.health.streamed.pending, place.health.failures) == (1, 1, 0)
    second.settle(UpstreamFailed("x"))
    assert (place.health.in_flight, place.health.streamed.pending, place.health.failures) == (0, 0, 1)


def test_streams_that_always_break_after_their_first_event_count_as_failures(place: Deployment, clock: Clock) -> None:
    for _ in range(3):
        attempt = Attempt(place, True, clock)
        clock.now += 0.1
        attempt.answered()
        clock.now += 0.1
        attempt.settle(UpstreamBroken("x"))

    assert place.health.circuit.state(clock.now) is State.OPEN
    assert place.health.success(clock.now) < 0.6


def open_circuit(place: Deployment, clock: Clock) -> None:
    """Three failures, and so much time that a probe is due."""
    for _ in range(3):
        Attempt(place, True, clock).settle(UpstreamFailed("x"))
    clock.now += 6


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("ok", State.RAMPING), (UpstreamFailed("x"), State.OPEN), ("cancelled", State.HALF_OPEN),
        (UpstreamRejected("x"), State.HALF_OPEN), (UpstreamRateLimited("x"), State.HALF_OPEN),
    ],
)  # fmt: skip
def test_what_becomes_of_a_probe(place: Deployment, clock: Clock, outcome: UpstreamError | str, state: State) -> None:
    open_circuit(place, clock)
    probe = Attempt(place, True, clock)
    assert place.health.circuit.state(clock.now) is State.PROBING

    probe.settle(outcome)

    assert place.health.circuit.state(clock.now) is state


def test_a_probe_that_breaks_after_its_first_event_doubles_the_rest(place: Deployment, clock: Clock) -> None:
    open_circuit(place, clock)
    probe = Attempt(place, True, clock)
    probe.answered()
    assert place.health.circuit.state(clock.now) is State.RAMPING

    probe.settle(UpstreamBroken("x"))

    assert 8 < place.health.circuit.open_until - clock.now < 12


def test_after_an_illness_its_times_are_not_held_against_it(place: Deployment, clock: Clock) -> None:
    stream(place, clock, 0.5, 1.0, 100)
    for _ in range(3):
        attempt = Attempt(place, True, clock)
        clock.now += 30
        attempt.settle(UpstreamTimeout("x"))
    clock.now += 6
    stream(place, clock, 0.5, 1.0, 100)

    assert place.health.streamed.answer_s == pytest.approx(0.5 + TYPICAL_TOKENS * 0.01)
