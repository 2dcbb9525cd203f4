"""Who may be chosen, why others may not, and which one is chosen."""

import copy
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from one_api.errors import UpstreamFailed
from one_api.routing.circuit import State
from one_api.routing.deployment import Deployment
from one_api.routing.route import Route
from one_api.routing.selection import Candidate, candidates, choose, probe_others_now, shares
from tests.utils.fake_adapter import FakeAdapter

NOW = 1000.0
STRATEGIES = ["adaptive", "weighted", "ordered", "round_robin", "least_busy"]


def well(name: str = "a", weight: float = 1.0, in_flight: int = 0, answer_s: float = 0.0) -> Deployment:
    """A deployment that is well; with ``answer_s`` its speed is known."""
    made = Deployment(name, FakeAdapter(), "m", weight, max_concurrency=100)
    made.health.in_flight = in_flight
    for _ in range(100 if answer_s else 0):
        made.health.whole.answered(answer_s, 1, NOW)
        made.health.succeeded(NOW, NOW)
    return made


def cooling(name: str, seconds: float = 9.0) -> Deployment:
    """One that cools down."""
    made = well(name)
    made.health.cooling_until = NOW + seconds
    return made


def opened(name: str, ago: float = 1.0) -> Deployment:
    """One whose circuit has opened."""
    made = well(name)
    for _ in range(3):
        made.health.failed(UpstreamFailed("x"), NOW - ago)
    return made


def look(
    targets: list[Deployment], fallbacks: Sequence[Deployment] = (), tried: Sequence[Deployment] = ()
) -> list[Candidate]:
    """The candidates of a route."""
    return candidates(Route("m", targets, list(fallbacks)), tried, NOW)


def chosen(found: list[Candidate], strategy: str = "ordered", turn: int = 0, seed: int = 0) -> str | None:
    """The name of the one that is chosen."""
    candidate = choose(found, strategy, turn, random.Random(seed))
    return candidate.deployment.adapter_name if candidate else None


def counted(found: list[Candidate], strategy: str, times: int = 4000) -> Counter[str]:
    """How often each is chosen."""
    rng = random.Random(7)
    picked = [choose(found, strategy, turn, rng) for turn in range(times)]
    return Counter(each.deployment.adapter_name for each in picked if each)


# Who may be chosen


def test_everyone_is_listed_with_state_and_reason() -> None:
    full, tried, probed = well("b", in_flight=100), well("f"), opened("e", ago=20)
    probed.health.circuit.begin(NOW)
    targets = [well("a"), full, cooling("c"), opened("d"), probed, opened("g", ago=20)]

    found = candidates(Route("m", targets, [tried]), [tried], NOW)

    assert [(each.deployment.adapter_name, each.fallback, each.state) for each in found] == [
        ("a", False, "closed"), ("b", False, "full"), ("c", False, "cooling-down"), ("d", False, "open"),
        ("e", False, "probing"), ("g", False, "half-open"), ("f", True, "tried"),
    ]  # fmt: skip
    assert [each.excluded for each in found if each.state in ("closed", "half-open")] == [None, None]
    assert [each.excluded for each in found][1:5] == [
        "100 requests are in flight there", "it cools down for 9 s more", found[3].excluded,
        "its circuit is open, and a probe is under way",
    ]  # fmt: skip
    assert str(found[3].excluded).startswith("its circuit is open for ")
    assert all(each.cost_s > 0 for each in found)


def test_one_that_was_tried_is_out_under_every_weight() -> None:
    place = well("a")
    same = copy.copy(place)
    same.weight = 9.0

    assert [each.state for each in look([place], [same], [place])] == ["tried", "tried"]


def test_looking_and_choosing_change_nothing() -> None:
    targets = [well("a", answer_s=1.0), opened("b", ago=20), cooling("c")]

    assert look(targets) == look(targets)
    assert [chosen(look(targets), strategy) for strategy in STRATEGIES] == ["b"] * 5
    assert [each.health.in_flight for each in targets] == [0, 0, 0]


def test_nobody_of_none_and_nobody_when_all_are_full_or_tried() -> None:
    full, tried = well("a", in_flight=100), well("b")

    assert chosen(look([])) is None
    assert chosen(look([full, tried], tried=[tried])) is None


# Targets, fallbacks, and the least bad


@pytest.mark.parametrize(
    ("targets", "fallbacks", "expected"),
    [
        ([well("a")], [well("b")], "a"),
        ([opened("a")], [well("b"), well("c")], "b"),
        ([cooling("a"), well("b", in_flight=100)], [well("c")], "c"),
        ([opened("a")], [], "a"),
        ([opened("a")], [opened("b")], "a"),
        ([cooling("a")], [opened("b")], "b"),
        ([cooling("a", 9), cooling("b", 3), cooling("c", 5)], [], "b"),
        ([cooling("a", 9)], [cooling("b", 3)], "b"),
        ([well("a", in_flight=100), cooling("b")], [], "b"),
    ],
)
def test_who_serves_when_some_are_not_well(
    targets: list[Deployment], fallbacks: list[Deployment], expected: str
) -> None:
    assert chosen(look(targets, fallbacks)) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_probe_comes_first_when_it_is_due(strategy: str) -> None:
    assert chosen(look([well("a", answer_s=0.1), opened("b", ago=20)]), strategy) == "b"


def test_when_more_than_half_are_out_probes_are_due_earlier() -> None:
    again, other = opened("b", ago=20), opened("c", ago=1)
    again.health.circuit.begin(NOW - 6)
    again.health.circuit.failed(NOW - 6, probe=True)

    assert [each.state for each in look([well("a"), again, well("c")])] == ["closed", "open", "closed"]
    assert [each.state for each in look([well("a"), again, other])] == ["closed", "half-open", "open"]


@pytest.mark.parametrize(("sound", "state"), [(2, State.HALF_OPEN), (3, State.OPEN)])
def test_when_one_of_most_that_were_out_is_back_the_others_are_probed_at_once(sound: int, state: State) -> None:
    out = opened("z")
    route = Route("m", [*(well(name) for name in "abc"[:sound]), out])

    probe_others_now(route, NOW)

    assert out.health.circuit.state(NOW) is state


def test_who_was_probed_in_a_hurry_and_failed_rests_as_ever() -> None:
    out = opened("z")
    probe_others_now(Route("m", [well("a"), out]), NOW)
    probe = out.health.circuit.begin(NOW)

    out.health.circuit.failed(NOW, probe)

    assert (probe, out.health.circuit.state(NOW + 4, short_cooldown=True)) == (True, State.OPEN)


def test_when_all_are_out_all_share_what_comes() -> None:
    found = look([opened(name) for name in "abc"])

    assert min(counted(found, "adaptive", 300).values()) > 60


# Strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_only_one_is_chosen(strategy: str) -> None:
    assert chosen(look([well("a"), cooling("b")]), strategy, 7) == "a"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_choices(strategy: str) -> None:
    found = look([well("a"), well("b"), well("c")])

    assert counted(found, strategy, 50) == counted(found, strategy, 50)


def test_ordered_chooses_the_first() -> None:
    assert counted(look([well("a", weight=0.1), well("b", weight=9)]), "ordered") == {"a": 4000}


def test_round_robin_takes_turns() -> None:
    found = look([well(name) for name in "abc"])

    assert [chosen(found, "round_robin", turn) for turn in range(7)] == list("abcabca")


def test_weighted_shares_by_weight() -> None:
    shared = counted(look([well("a", weight=3, answer_s=9), well("b", answer_s=1)]), "weighted")

    assert shared["a"] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("states", "expected"),
    [([(1, 5), (1, 4)], "b"), ([(2, 4), (1, 3)], "a"), ([(1, 0), (9, 0)], "b"), ([(1, 1), (1, 1)], "a")],
)
def test_least_busy_weighs_what_is_in_flight(states: list[tuple[float, int]], expected: str) -> None:
    targets = [well(name, weight, busy) for name, (weight, busy) in zip("ab", states, strict=True)]

    assert chosen(look(targets), "least_busy") == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_that_comes_back_gets_a_part_of_its_traffic(strategy: str) -> None:
    back = opened("a", ago=20)
    back.health.circuit.begin(NOW - 3)
    back.health.succeeded(NOW - 3, NOW)

    shared = counted(look([back, well("b", in_flight=1)]), strategy)

    assert shared["a"] / 4000 < 0.15


# Adaptive


def test_equals_share_by_weight() -> None:
    shared = counted(look([well("a", weight=3, answer_s=1.0), well("b", answer_s=1.05)]), "adaptive")

    assert shared["a"] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(("answer_s", "share"), [(1.05, 0.5), (1.3, 0.16), (2.0, 0.005), (10.0, 0.005)])
def test_the_slower_gets_less(answer_s: float, share: float) -> None:
    first, second = shares(look([well("a", answer_s=1.0), well("b", answer_s=answer_s)]))

    assert second / (first + second) == pytest.approx(share, rel=0.25)


def test_who_fails_and_who_is_loaded_gets_less() -> None:
    failing, loaded = well("b", answer_s=1.0), well("c", answer_s=1.0, in_flight=60)
    for _ in range(100):
        failing.health.failed(UpstreamFailed("x"), NOW)
        failing.health.succeeded(NOW, NOW)
        failing.health.succeeded(NOW, NOW)

    parts = shares(look([well("a", answer_s=1.0), failing, loaded]))

    assert parts[0] == 1
    assert max(parts[1:]) < 0.5


def test_one_that_is_busier_than_usual_gets_less() -> None:
    usual, busier = well("a", answer_s=1.0, in_flight=1), well("b", answer_s=1.0, in_flight=20)

    first, second = shares(look([usual, busier]))

    assert second < first / 100


@pytest.mark.parametrize(("weight", "in_flight", "dearer"), [(1, 10, False), (1, 30, True), (3, 30, False)])
def test_one_that_is_out_gets_less_beyond_its_fair_part(weight: float, in_flight: int, dearer: bool) -> None:
    busy, others = opened("a"), [opened("b"), opened("c")]
    busy.weight, busy.health.in_flight = weight, in_flight
    for other in others:
        other.health.in_flight = 10

    first, second, _ = shares(look([busy, *others]))

    assert (first < second * weight / 10) == dearer


def test_one_that_nobody_knows_is_taken_for_the_median() -> None:
    found = look([well("a", answer_s=1.0), well("b", answer_s=5.0), well("c", answer_s=1.0), well("new")])

    assert found[3].cost_s == pytest.approx(found[0].cost_s, rel=0.25)


def test_times_of_streams_say_nothing_of_whole_answers() -> None:
    slow = well("a", answer_s=9.0)
    route = Route("m", [slow, well("b", answer_s=1.0)])

    costs = [[each.cost_s for each in candidates(route, (), NOW, stream)] for stream in (False, True)]

    assert costs[0][0] > 5 * costs[0][1]
    assert costs[1][0] == costs[1][1]


def test_differences_that_nobody_notices_make_none() -> None:
    first, second = shares(look([well("a", answer_s=0.0001), well("b", answer_s=0.001)]))

    assert first == second
