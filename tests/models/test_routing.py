"""Who may be chosen, and which; and the health on which that rests."""

import random
from collections import Counter
from typing import Any

import pytest

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
from one_api.models.deployment import Attempt, Deployment, Health
from one_api.models.routing import available, choose
from tests.utils.fake_adapter import FakeAdapter

NOW = 1000.0


def deployment(name: str = "a", weight: float = 1.0, **health: Any) -> Deployment:
    """A deployment in this state."""
    return Deployment(name, FakeAdapter(), "m", weight, max_concurrency=2, health=Health(**health))


def names(deployments: list[Deployment]) -> str:
    """Their adapters' names, together."""
    return "".join(each.adapter_name for each in deployments)


# Who may be chosen


def test_all_that_are_well_may_be_chosen() -> None:
    assert names(available([deployment("a"), deployment("b", in_flight=1)], NOW)) == "ab"


def test_one_that_is_full_may_not() -> None:
    assert names(available([deployment("a", in_flight=2), deployment("b")], NOW)) == "b"


def test_when_all_are_full_nobody_may() -> None:
    assert available([deployment("a", in_flight=2), deployment("b", in_flight=3)], NOW) == []


def test_nobody_of_none_may() -> None:
    assert available([], NOW) == []


@pytest.mark.parametrize(("until", "chosen"), [(NOW + 0.001, "b"), (NOW, "ab"), (NOW - 1, "ab")])
def test_one_that_rests_may_not_until_its_rest_is_over(until: float, chosen: str) -> None:
    assert names(available([deployment("a", resting_until=until), deployment("b")], NOW)) == chosen


def test_when_all_rest_the_one_whose_rest_ends_first_may() -> None:
    resting = [deployment(name, resting_until=NOW + wait) for name, wait in (("a", 9), ("b", 3), ("c", 5))]

    assert names(available(resting, NOW)) == "b"


def test_a_full_one_may_not_even_when_all_others_rest() -> None:
    full, resting = deployment("a", in_flight=2), deployment("b", resting_until=NOW + 5)

    assert names(available([full, resting], NOW)) == "b"
    assert available([full], NOW) == []


# Which is chosen

STRATEGIES = ["weighted", "ordered", "round_robin", "least_busy"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_only_one_is_chosen(strategy: str) -> None:
    only = deployment()

    assert choose([only], strategy, 7, random.Random(0)) is only


def test_ordered_chooses_the_first() -> None:
    candidates = [deployment("a", weight=0.1), deployment("b", weight=9)]

    assert {choose(candidates, "ordered", turn, random.Random(0)).adapter_name for turn in range(9)} == {"a"}


def test_round_robin_takes_turns() -> None:
    candidates = [deployment(name) for name in "abc"]

    assert names([choose(candidates, "round_robin", turn, random.Random(0)) for turn in range(7)]) == "abcabca"


def test_weighted_shares_by_weight() -> None:
    candidates, rng = [deployment("a", weight=3), deployment("b", weight=1)], random.Random(7)

    shares = Counter(choose(candidates, "weighted", 0, rng).adapter_name for _ in range(4000))

    assert shares["a"] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("states", "chosen"),
    [([(1, 5), (1, 4)], "b"), ([(2, 4), (1, 3)], "a"), ([(1, 0), (9, 0)], "b"), ([(1, 1), (1, 1)], "a")],
)
def test_least_busy_weighs_what_is_in_flight(states: list[tuple[float, int]], chosen: str) -> None:
    candidates = [
        deployment(name, weight=weight, in_flight=busy) for name, (weight, busy) in zip("ab", states, strict=True)
    ]

    assert choose(candidates, "least_busy", 0, random.Random(0)).adapter_name == chosen


def test_the_same_seed_gives_the_same_choices() -> None:
    candidates = [deployment(name) for name in "abc"]

    runs = [[choose(candidates, "weighted", 0, rng) for _ in range(50)] for rng in (random.Random(3), random.Random(3))]

    assert runs[0] == runs[1]


# Health


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnreachable("x"), UpstreamFailed("x"), UpstreamTimeout("x"), UpstreamBroken("x"),
        UpstreamOverloaded("x"),
    ],
)  # fmt: skip
def test_three_failures_in_a_row_mean_a_rest(error: UpstreamError) -> None:
    health = Health()

    rests = []
    for _ in range(3):
        health.failed(error, NOW)
        rests.append(health.resting(NOW))

    assert rests == [False, False, True]
    assert health.resting_until == NOW + 5


def test_each_further_failure_doubles_the_rest_up_to_five_minutes() -> None:
    health, rests = Health(), []
    for number in range(40):
        now = NOW + 10_000 * number
        health.failed(UpstreamFailed("x"), now)
        rests.append(health.resting_until - now)

    assert rests[2:10] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert rests[-1] == 300


def test_a_success_ends_rest_and_count() -> None:
    health = Health()
    for _ in range(4):
        health.failed(UpstreamFailed("x"), NOW)

    health.succeeded()

    assert (health.failures, health.resting(NOW)) == (0, False)


@pytest.mark.parametrize("error", [UpstreamRateLimited("x", retry_after_s=7), UpstreamOverloaded("x", retry_after_s=7)])
def test_the_rest_that_an_upstream_asks_for_is_kept(error: UpstreamError) -> None:
    health = Health()

    health.failed(error, NOW)

    assert health.resting(NOW + 6.9)
    assert not health.resting(NOW + 7)


def test_a_rate_limit_is_no_failure() -> None:
    health = Health()
    for _ in range(10):
        health.failed(UpstreamRateLimited("x"), NOW)

    assert health.failures == 0


def test_a_refusal_means_nothing() -> None:
    health = Health()
    for _ in range(10):
        health.failed(UpstreamRejected("x"), NOW)

    assert health == Health()


def test_a_wrong_credential_means_half_an_hour() -> None:
    health = Health()

    health.failed(UpstreamMisconfigured("x"), NOW)

    assert (health.resting(NOW + 1799), health.resting(NOW + 1801)) == (True, False)


def test_a_long_rest_is_not_shortened_by_a_short_one() -> None:
    health = Health()
    health.failed(UpstreamMisconfigured("x"), NOW)

    health.failed(UpstreamRateLimited("x", retry_after_s=1), NOW)

    assert health.resting(NOW + 1000)


# Attempts


def test_an_attempt_is_in_flight_until_it_is_settled_and_only_once() -> None:
    place = deployment()
    first, second = Attempt(place, lambda: NOW), Attempt(place, lambda: NOW)
    assert place.health.in_flight == 2

    for outcome in ("ok", "cancelled", UpstreamFailed("x")):
        first.settle(outcome)

    assert (place.health.in_flight, place.health.failures) == (1, 0)
    second.settle(UpstreamFailed("x"))
    assert (place.health.in_flight, place.health.failures) == (0, 1)
