"""What can befall a group of deployments, for the simulator: which, how fast, and what happens to the first of them."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.simulator import Condition, Outcome, Place, Simulation
from one_api.errors import UpstreamBroken, UpstreamError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable

HEALTHY = Condition()
SLOW = Condition(first_s=5.0, token_s=0.1)
BEGIN_S, END_S, UNTIL_S = 60.0, 180.0, 300.0
"""When something befalls, when it is over, and when the run ends."""


@dataclass(frozen=True)
class Scenario:
    """A group under load. Requests come at `rate` a second."""

    name: str
    summary: str
    places: Callable[[], list[Place]]
    rate: float = 50.0
    fair: bool = True
    """Whether an oracle that knows neither load nor quota can be compared with."""

    def run(
        self, strategy: str = "adaptive", *, rate: float | None = None, stream: bool = True, seed: int = 1
    ) -> Outcome:
        """Play it."""
        return Simulation(self.places(), rate or self.rate, strategy, stream, seed).run(UNTIL_S)


def while_faulty(faulty: Condition, healthy: Condition = HEALTHY) -> Callable[[float], Condition]:
    """Faulty from BEGIN_S to END_S."""
    return lambda now: faulty if BEGIN_S <= now < END_S else healthy


def always(condition: Condition) -> Callable[[float], Condition]:
    """The same all the time."""
    return lambda now: condition


def failing(error: type[UpstreamError], error_s: float, *, breaks: bool = False, cuts: bool = False) -> Condition:
    """Every attempt ends with this error."""
    return Condition(error=lambda: error("scripted"), error_s=error_s, breaks=breaks, cuts=cuts)


REFUSING = failing(UpstreamUnreachable, 0.001, cuts=True)
BROKEN = failing(UpstreamFailed, 0.05)


def first_is(condition: Callable[[float], Condition]) -> Callable[[], list[Place]]:
    """Three deployments: one under `condition`, two that are healthy."""
    return lambda: [Place("a", condition), Place("b", always(HEALTHY)), Place("c", always(HEALTHY))]


def flapping(now: float) -> Condition:
    """Up for a second, down for a second."""
    return BROKEN if now % 2 >= 1 else HEALTHY


def all_out() -> list[Place]:
    """Three that are down together, for 30 s."""
    return [Place(name, lambda now: BROKEN if BEGIN_S <= now < BEGIN_S + 30 else HEALTHY) for name in "abc"]


def uneven() -> list[Place]:
    """Three of different speed."""
    return [
        Place("a", always(HEALTHY)),
        Place("b", always(Condition(0.65, 0.0125))),
        Place("c", always(Condition(1.0, 0.02))),
    ]


def crowded() -> list[Place]:
    """Three equals that become slower with more than 60 requests in flight."""
    return [Place(name, always(Condition(slots=60))) for name in "abc"]


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("slow", "a is ten times slower from 60 to 180 s", first_is(while_faulty(SLOW))),
        Scenario("dead", "a refuses connections from 60 to 180 s", first_is(while_faulty(REFUSING))),
        Scenario("silent", "a takes requests and says nothing from 60 to 180 s",
                 first_is(while_faulty(failing(UpstreamTimeout, 30.0)))),
        Scenario("breaking", "every stream of a breaks after its first event from 60 to 180 s",
                 first_is(while_faulty(failing(UpstreamBroken, 0.0, breaks=True)))),
        Scenario("flapping", "a is up for a second and down for a second", first_is(flapping)),
        Scenario("recovering", "all three answer 500 from 60 to 90 s", all_out),
        Scenario("rate-limited", "a is twice as fast, and takes 5 requests a second",
                 first_is(always(Condition(0.25, 0.005, quota=5))), fair=False),
        Scenario("uneven", "b takes 1.3 and c takes 2 times as long as a", uneven),
        Scenario("herd", "three equals that become slower under load", crowded, rate=100.0, fair=False),
    )
}  # fmt: skip
