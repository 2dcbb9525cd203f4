"""The attempt loop: choose a deployment, try it, and decide whether to go on."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from one_api.errors import NoDeployment, UpstreamError, UpstreamRateLimited, UpstreamTimeout
from one_api.models.adapters.base import ChunkStream
from one_api.models.delivery import Delivery
from one_api.models.deployment import Attempt, Deployment
from one_api.models.routing import Route, candidates, choose
from one_api.telemetry import current_call
from one_api.wire.json import JSONObject

#: First event of a stream while another candidate is left, where nobody has set a limit, in seconds.
_FIRST_EVENT_S = 30.0
#: Retries that are always there, on top of the share of the traffic.
_RESERVE = 3.0


class RetryBudget:
    """Retries as a share of the traffic: each request pays ``ratio`` in, each retry takes one out."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._balance = _RESERVE

    def pay_in(self) -> None:
        """Note a request."""
        self._balance = min(self._balance + self._ratio, _RESERVE + 100 * self._ratio)

    def take(self) -> bool:
        """Take one retry out; False when there is none."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True


@dataclass(slots=True)
class Failover:
    """Tries the deployments of a route until one answers."""

    max_attempts: int = 3
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(0.1))
    rng: random.Random = field(default_factory=random.Random)

    async def run(self, route: Route, body: JSONObject) -> JSONObject | ChunkStream:
        """Return the first answer to be had for ``body``.

        Raises:
            UpstreamError: the last one met, when no deployment answers.
            NoDeployment: when none may be tried.
        """
        self.budget.pay_in()
        errors: list[UpstreamError] = []
        tried: list[Deployment] = []
        while len(tried) < self.max_attempts:
            deployment, others_left = self._next(route, tried, bool(body.get("stream")))
            if deployment is None or (tried and not self.budget.take()):
                break
            tried.append(deployment)
            try:
                return await self._try(deployment, route, body, others_left)
            except UpstreamError as error:
                errors.append(error)
                if not error.try_another:
                    break
        raise _worst_news(errors, route)

    def _next(self, route: Route, tried: list[Deployment], stream: bool) -> tuple[Deployment | None, bool]:
        """Return what to try next, and whether anything would be left after it."""
        found = candidates(route, tried, time.monotonic(), stream)
        chosen = choose(found, route.strategy, route.turn, self.rng)
        route.turn += 1
        return chosen.deployment if chosen else None, len(found) - len(tried) > 1

    async def _try(
        self, deployment: Deployment, route: Route, body: JSONObject, others_left: bool
    ) -> JSONObject | ChunkStream:
        """Try one deployment; the attempt is settled here unless a stream takes it along."""
        attempt = Attempt(deployment, bool(body.get("stream")))
        record = current_call.get()
        outcome: UpstreamError | str = "cancelled"
        try:
            hurry = others_left and body.get("stream") and deployment.first_event_s is None
            limit_s = _FIRST_EVENT_S if hurry else None
            answer = await _ask(deployment, body, limit_s)
            attempt.answered()
            outcome = "ok"
        except UpstreamError as error:
            outcome = error
            raise
        finally:
            if record is not None:
                record.attempts.append(attempt.record(outcome))
            if outcome != "ok":
                attempt.settle(outcome)
        if record is not None:
            record.deployment = deployment.name
        is_alias = deployment in route.targets and route.model != deployment.model
        shown_model = route.model if is_alias else None
        if isinstance(answer, ChunkStream):
            return Delivery(answer, attempt, shown_model)
        attempt.settle("ok", _completion_tokens(answer))
        return answer if shown_model is None else answer | {"model": shown_model}


async def _ask(deployment: Deployment, body: JSONObject, limit_s: float | None) -> JSONObject | ChunkStream:
    """Ask one deployment, at most for ``limit_s``."""
    answer = deployment.adapter.generate_completion(**(body | {"model": deployment.model}))
    if limit_s is None:
        return await answer
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError:
        raise UpstreamTimeout(f"The upstream did not send the first event within {limit_s} s.") from None


def _completion_tokens(answer: JSONObject) -> int | None:
    """Return how long an answer is, where its usage says so."""
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def _worst_news(errors: list[UpstreamError], route: Route) -> Exception:
    """Return the error for the client: the last one; if all were rate limits, the one that is over first."""
    if not errors:
        return NoDeployment(f"Every deployment of `{route.model}` is busy: try again in a moment.", retry_after_s=1)
    if all(isinstance(error, UpstreamRateLimited) for error in errors):
        return min(errors, key=lambda error: error.retry_after_s or float("inf"))
    return errors[-1]
