"""What routing promises, held against the simulator of ``make simulate``: the real choice under a virtual clock."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest

from bench import picture
from bench.scenarios import BEGIN_S, END_S, SCENARIOS, UNTIL_S, all_out
from bench.simulator import Outcome, Simulation

SEEDS = [1, 2]
EVERY_SEED = pytest.mark.parametrize("seed", SEEDS)


@cache
def played(name: str, seed: int, rate: float, strategy: str) -> Outcome:
    """One scenario, played once for all tests."""
    return SCENARIOS[name].run(strategy, seed=seed, rate=rate)


def run(name: str, seed: int = 1, rate: float | None = None, strategy: str = "adaptive") -> Outcome:
    """One scenario, at its own rate if none is given."""
    return played(name, seed, rate or SCENARIOS[name].rate, strategy)


#: Three that were down together have been back for a few seconds.
AFTER_S = BEGIN_S + 37.0


def first_openings(outcome: Outcome) -> int:
    """The attempts on the first deployment from its first failure until it was left alone for two seconds."""
    at = [each.at for each in outcome.attempts if each.place == 0 and each.at >= BEGIN_S]
    last = next(now for now, following in pairwise(at) if following - now > 2)
    return sum(now <= last for now in at)


def recovery_s(outcome: Outcome, since: float) -> float:
    """How long after ``since`` the last request of the outage failed."""
    return max((each.at for each in outcome.requests if not each.ok), default=since) - since


def spans(seconds: float, begin: float = 30.0) -> list[tuple[float, float]]:
    """The run in spans of so many seconds."""
    return [
        (begin + number * seconds, begin + (number + 1) * seconds) for number in range(int((UNTIL_S - begin) / seconds))
    ]


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = SCENARIOS["flapping"].run(rate=5), SCENARIOS["flapping"].run(rate=5)

    assert first == again


@pytest.mark.parametrize("rate", [50.0, 5.0])
@pytest.mark.parametrize("name", ["slow", "dead", "breaking", "flapping", "uneven"])
def test_time_lost_beside_an_oracle_is_at_most_10_per_cent(name: str, rate: float) -> None:
    outcomes = [run(name, seed, rate) for seed in SEEDS]

    assert sum(each.regret(90, END_S) for each in outcomes) / len(SEEDS) <= 0.10


@EVERY_SEED
@pytest.mark.parametrize("rate", [50.0, 5.0])
def test_a_dead_deployment_is_left_within_5_requests(seed: int, rate: float) -> None:
    assert first_openings(run("dead", seed, rate)) <= 5


@EVERY_SEED
@pytest.mark.parametrize("rate", [50.0, 5.0])
def test_a_10_times_slower_one_has_less_than_10_per_cent_within_30_s(seed: int, rate: float) -> None:
    outcome = run("slow", seed, rate)

    assert outcome.share(0, BEGIN_S + 30, END_S) < 0.1
    assert outcome.share(0, 20, BEGIN_S) > 0.2


def test_a_slow_one_is_asked_now_and_then_and_seen_to_recover() -> None:
    outcomes = [run("slow", seed) for seed in SEEDS]

    assert min(each.count(0, BEGIN_S + 30, END_S) for each in outcomes) > 0
    assert min(each.share(0, END_S + 60, UNTIL_S) for each in outcomes) > 0.2


@EVERY_SEED
@pytest.mark.parametrize("name", ["dead", "silent", "breaking"])
def test_probes_are_bounded(name: str, seed: int) -> None:
    outcome = run(name, seed)

    assert outcome.count(0, BEGIN_S + 30, END_S) <= 25
    assert outcome.failed() <= {"dead": 0, "silent": 15, "breaking": 80}[name]


@EVERY_SEED
@pytest.mark.parametrize("name", ["dead", "silent"])
def test_a_dead_deployment_comes_back_within_one_probe_and_a_ramp(name: str, seed: int) -> None:
    outcome = run(name, seed)

    back = next(each.at for each in outcome.attempts if each.place == 0 and each.ok and each.at > END_S)
    at_once, later = outcome.share(0, back, back + 3), outcome.share(0, back + 30, back + 40)

    assert at_once < 0.1
    assert 0.25 < later < 0.42


@EVERY_SEED
def test_one_of_three_that_flaps_fails_no_request(seed: int) -> None:
    outcome = run("flapping", seed, 50.0)

    assert outcome.failed() == 0
    assert outcome.amplification(0, UNTIL_S) < 1.02


@EVERY_SEED
def test_a_total_outage_is_neither_amplified_nor_outlived(seed: int) -> None:
    outcome = run("recovering", seed)

    assert outcome.amplification(BEGIN_S, BEGIN_S + 30) <= 1.11
    assert recovery_s(outcome, BEGIN_S + 30) <= 5
    assert max(outcome.share(place, 150, UNTIL_S) for place in range(3)) <= 0.45


@EVERY_SEED
def test_a_rate_limited_one_is_used_and_left_in_peace(seed: int) -> None:
    outcome = run("rate-limited", seed)

    refused = sum(not each.ok for each in outcome.attempts)

    assert outcome.failed() == 0
    assert refused <= 0.01 * len(outcome.requests)
    assert outcome.count(0, 0, UNTIL_S) > 200


@EVERY_SEED
def test_equals_are_not_herded(seed: int) -> None:
    outcome = run("herd", seed)

    shares = [outcome.share(place, *span) for span in spans(10) for place in range(3)]

    assert max(shares) <= 0.45


@pytest.mark.parametrize("stream", [True, False])
def test_a_crowd_that_comes_after_an_outage_is_shared_out(stream: bool) -> None:
    most = []
    for seed in range(1, 9):
        simulation = Simulation(all_out(), 20.0, stream=stream, seed=seed)
        simulation.crowd(AFTER_S, 500)
        outcome = simulation.run(AFTER_S + 1)
        most.append(max(outcome.share(place, AFTER_S, AFTER_S + 0.001) for place in range(3)))

    assert max(most) <= 0.45


def test_adaptive_does_better_than_others_when_one_is_slow() -> None:
    lost = {name: run("slow", 1, None, name).regret(90, END_S) for name in ("adaptive", "weighted", "round_robin")}

    assert lost["adaptive"] < 0.1 < 1 < min(lost["weighted"], lost["round_robin"])


Shares = list[list[float]]


@pytest.mark.parametrize("make", [lambda: [[0.5, 0.25, 0.25]] * 8, lambda: [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
def test_the_picture_is_a_png(make: Callable[[], Shares], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("picture") / "shares.png"

    picture.draw([make()], path, [1])

    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width = int.from_bytes(content[16:20], "big")
    assert width == picture.COLUMN * len(make())
