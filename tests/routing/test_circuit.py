"""The circuit breaker: what opens it, how long it cools down, its one probe, and its way back."""

import itertools
import random
from collections.abc import Callable

import pytest

from one_api.routing.circuit import LEASE_S, RAMP_S, Circuit, State

NOW = 1000.0
CLOSED, OPEN, HALF_OPEN, PROBING, RAMPING = State.CLOSED, State.OPEN, State.HALF_OPEN, State.PROBING, State.RAMPING


class Even(random.Random):
    """Without jitter."""

    def random(self) -> float:
        """The middle."""
        return 0.5


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(Even())


def fail(circuit: Circuit, now: float, times: int = 1) -> None:
    """Failures at one time, none of them a probe's."""
    for _ in range(times):
        circuit.failed(now)


def opened(circuit: Circuit) -> Circuit:
    """Open from NOW to NOW + 5."""
    fail(circuit, NOW, 3)
    return circuit


def half_open(circuit: Circuit) -> Circuit:
    """Open from NOW to NOW + 5, and looked at later."""
    return opened(circuit)


def probing(circuit: Circuit) -> Circuit:
    """Its probe begins at NOW + 6."""
    assert opened(circuit).begin(NOW + 6)
    return circuit


def ramping(circuit: Circuit) -> Circuit:
    """Its probe succeeds at NOW + 7."""
    probing(circuit).succeeded(NOW + 6, NOW + 7)
    return circuit


def probe_fails(circuit: Circuit) -> None:
    """The probe of NOW + 6 fails a second later."""
    circuit.failed(NOW + 7, probe=True)


@pytest.mark.parametrize(
    ("state", "act", "at", "expected"),
    [
        (lambda it: it, lambda it: None, NOW, CLOSED),
        (lambda it: it, lambda it: fail(it, NOW, 2), NOW, CLOSED),
        (lambda it: it, lambda it: fail(it, NOW, 3), NOW, OPEN),
        (opened, lambda it: None, NOW + 4.9, OPEN),
        (opened, lambda it: None, NOW + 5, HALF_OPEN),
        (opened, lambda it: fail(it, NOW + 1, 9), NOW + 5, HALF_OPEN),
        (opened, lambda it: it.succeeded(NOW - 1, NOW + 1), NOW + 2, OPEN),
        (opened, lambda it: it.succeeded(NOW + 1, NOW + 2), NOW + 2, RAMPING),
        (half_open, lambda it: it.begin(NOW + 4), NOW + 6, HALF_OPEN),
        (half_open, lambda it: it.begin(NOW + 6), NOW + 6, PROBING),
        (probing, lambda it: it.release(), NOW + 6, HALF_OPEN),
        (probing, lambda it: None, NOW + 6 + LEASE_S, HALF_OPEN),
        (probing, lambda it: fail(it, NOW + 7), NOW + 7, PROBING),
        (probing, probe_fails, NOW + 16.9, OPEN),
        (probing, probe_fails, NOW + 17, HALF_OPEN),
        (probing, lambda it: it.succeeded(NOW + 6, NOW + 7), NOW + 7, RAMPING),
        (ramping, lambda it: None, NOW + 7 + RAMP_S, CLOSED),
        (ramping, lambda it: fail(it, NOW + 8, 2), NOW + 8, RAMPING),
        (ramping, lambda it: fail(it, NOW + 8, 3), NOW + 8, OPEN),
        (ramping, lambda it: it.failed(NOW + 8, probe=True), NOW + 8, OPEN),
        (ramping, lambda it: it.failed(NOW + 90, probe=True), NOW + 90, CLOSED),
    ],
)  # fmt: skip
def test_what_leads_where(
    circuit: Circuit, state: Callable[[Circuit], Circuit], act: Callable[[Circuit], None], at: float, expected: State
) -> None:
    act(state(circuit))

    assert circuit.state(at) is expected


def test_a_success_ends_the_count(circuit: Circuit) -> None:
    for _ in range(9):
        for _ in range(3):
            circuit.succeeded(NOW, NOW)
        fail(circuit, NOW, 2)
    circuit.succeeded(NOW, NOW)

    assert (circuit.state(NOW), circuit.failures) == (CLOSED, 0)


def test_half_of_ten_open_it_without_three_in_a_row(circuit: Circuit) -> None:
    states = []
    for second in range(5):
        circuit.succeeded(NOW + second, NOW + second)
        fail(circuit, NOW + second)
        states.append(circuit.state(NOW + second))

    assert states == [CLOSED] * 4 + [OPEN]


def test_what_is_older_than_half_a_minute_does_not_count(circuit: Circuit) -> None:
    for second in range(0, 200, 8):
        circuit.succeeded(NOW + second, NOW + second)
        fail(circuit, NOW + second)

    assert circuit.state(NOW + 200) is CLOSED


@pytest.mark.parametrize(
    ("took_s", "expected"),
    [
        (0.0, [5, 10, 13, 13, 13, 13, 13, 13, 13]),
        (1.0, [5, 10, 13, 13, 13, 13, 13, 13, 13]),
        (4.0, [5, 10, 20, 40, 40, 40, 40, 40, 40]),
        (30.0, [5, 10, 20, 40, 80, 160, 300, 300, 300]),
        (600.0, [5, 10, 20, 40, 80, 160, 300, 300, 300]),
    ],
)
def test_each_probe_that_fails_doubles_the_rest_up_to_ten_times_what_it_took(
    circuit: Circuit, took_s: float, expected: list[float]
) -> None:
    now, cooldowns = NOW, []
    fail(circuit, now, 3)
    for _ in range(9):
        cooldowns.append(circuit.open_until - now)
        now = circuit.open_until
        assert circuit.begin(now)
        circuit.failed(now, probe=True, took_s=took_s)

    assert cooldowns == expected


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("down_s", [30.0, 60.0, 600.0])
def test_one_that_fails_at_once_is_asked_again_within_20_s_of_its_recovery(down_s: float, seed: int) -> None:
    circuit = Circuit(random.Random(seed))
    back = NOW + down_s
    for now in itertools.count(NOW, 4.0):
        if circuit.state(now) in (OPEN, PROBING):
            continue
        probe = circuit.begin(now)
        if now >= back:
            break
        circuit.failed(now, probe, took_s=0.05)

    assert now - back <= 20


def test_a_whole_way_back_makes_the_next_rest_short_again(circuit: Circuit) -> None:
    ramping(circuit)
    fail(circuit, NOW + 8, 3)
    second_rest = circuit.open_until - (NOW + 8)
    circuit.begin(NOW + 20)
    circuit.succeeded(NOW + 20, NOW + 21)

    fail(circuit, NOW + 60, 3)

    assert (second_rest, circuit.open_until - (NOW + 60)) == (10, 5)


def test_rests_differ_by_at_most_15_per_cent() -> None:
    rng, cooldowns = random.Random(3), set()
    for _ in range(200):
        circuit = Circuit(rng)
        fail(circuit, NOW, 3)
        cooldowns.add(circuit.open_until - NOW)

    assert len(cooldowns) == 200
    assert (4.25 <= min(cooldowns) < 4.4, 5.6 < max(cooldowns) <= 5.75) == (True, True)


def test_one_probe_at_a_time(circuit: Circuit) -> None:
    assert [opened(circuit).begin(NOW + 6) for _ in range(5)] == [True, False, False, False, False]


def test_the_share_grows_from_a_tenth_to_the_whole(circuit: Circuit) -> None:
    begin = NOW + 7

    shares = [ramping(circuit).share(begin + part * RAMP_S) for part in (0,)]
    shares += [circuit.share(begin + part * RAMP_S) for part in (0.5, 1, 2)]

    assert shares == pytest.approx([0.1, 0.55, 1, 1])


def test_in_a_group_that_is_mostly_out_a_probe_is_due_after_the_shortest_rest(circuit: Circuit) -> None:
    probing(circuit)
    probe_fails(circuit)

    assert (circuit.state(NOW + 12), circuit.state(NOW + 12, short_cooldown=True)) == (OPEN, HALF_OPEN)
    assert circuit.begin(NOW + 12)
    assert circuit.state(NOW + 12, short_cooldown=True) is PROBING


def test_streams_that_always_break_after_their_first_event_open_it(circuit: Circuit) -> None:
    for second in range(3):
        mark = circuit.succeeded(NOW + second, NOW + second)
        circuit.failed(NOW + second, mark=mark)

    assert circuit.state(NOW + 3) is OPEN


def test_a_stream_that_ends_well_between_those_that_break_ends_the_count(circuit: Circuit) -> None:
    for second in range(3):
        mark = circuit.succeeded(NOW + second, NOW + second)
        circuit.confirm(NOW + second)
        circuit.failed(NOW + second, mark=mark)

    assert circuit.state(NOW + 3) is CLOSED


def test_the_end_of_a_stream_that_began_before_the_failures_does_not_end_their_count(circuit: Circuit) -> None:
    fail(circuit, NOW, 2)
    circuit.confirm(NOW - 1)
    fail(circuit, NOW, 1)

    assert circuit.state(NOW) is OPEN
