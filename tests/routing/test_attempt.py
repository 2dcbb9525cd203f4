"""What is kept of an attempt at one deployment."""

from one_api.contract import Usage
from one_api.errors import UpstreamTimeout
from one_api.routing.attempt import Attempt
from one_api.routing.deployment import Deployment
from tests.support.clock import Clock
from tests.utils.fake_adapter import FakeAdapter


def started(clock: Clock) -> Attempt:
    """An attempt that has just begun."""
    return Attempt(Deployment("a", FakeAdapter(), "m"), clock=clock)


def test_an_attempt_is_recorded_with_its_times_and_tokens() -> None:
    clock = Clock()
    attempt = started(clock)
    assert (attempt.record.deployment, attempt.record.outcome) == ("a/m", "pending")

    clock.now += 0.25
    attempt.answered()
    clock.now += 9
    attempt.settle("ok", Usage(3, 4))

    record = attempt.record
    assert (record.outcome, record.first_s, record.seconds, record.usage) == ("ok", 0.25, 9.25, Usage(3, 4))


def test_an_attempt_is_settled_once_by_whichever_end_comes_first() -> None:
    clock = Clock()
    attempt = started(clock)

    attempt.settle(UpstreamTimeout("late"))
    clock.now += 5
    attempt.settle("ok", Usage(1, 1))

    assert (attempt.record.outcome, attempt.record.seconds, attempt.record.usage) == ("UpstreamTimeout", 0, None)
    assert attempt.deployment.health.in_flight == 0
