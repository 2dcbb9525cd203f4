"""Two at a time: when the first candidate is slow the next is asked as well, and whichever answers first is kept."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from one_api.errors import InvalidRequest, UpstreamError
from one_api.routing.health import FADE
from one_api.serving.tasks import abandon
from one_api.settings.sections import HedgeConfig

T = TypeVar("T")

#: Answers whose times are kept, and how many of them a p95 needs.
_SAMPLES, _MIN_SAMPLES = 100, 20
#: The budget may be exceeded by this part of a hedge: counts that fade are not exact.
_EPSILON = 0.001


class Hedging:
    """When a group's requests are asked twice: after which time, and how many of them."""

    def __init__(self, config: HedgeConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = config.after
        self._budget = config.budget
        self._clock = clock
        #: Faded counts, as of the last change.
        self._requests = self._hedges = self._at = 0.0
        self._times_s: deque[float] = deque(maxlen=_SAMPLES)

    def pay_in(self) -> None:
        """Note a request."""
        self._fade()
        self._requests += 1

    def note(self, first_s: float) -> None:
        """Note how long an answer took to its first content, in seconds."""
        self._times_s.append(first_s)

    @property
    def after_s(self) -> float | None:
        """Return how long to wait for the first; None as long as too little is known."""
        if not isinstance(self._after, str):
            return self._after
        if len(self._times_s) < _MIN_SAMPLES:
            return None
        return sorted(self._times_s)[math.ceil(0.95 * len(self._times_s)) - 1]

    def take(self) -> bool:
        """Take one hedge out of the budget; False when nothing is left.

        A hedge costs tokens and rescues no request, so hedges are counted over time: one, and the configured share of
        the recent requests. Both counts fade as all that is known of deployments does.
        """
        self._fade()
        if self._hedges + 1 > 1 + self._budget * self._requests + _EPSILON:
            return False
        self._hedges += 1
        return True

    def _fade(self) -> None:
        now = self._clock()
        factor = math.exp(FADE * (now - self._at))
        self._requests *= factor
        self._hedges *= factor
        self._at = now


async def first_to_answer(
    first: "asyncio.Future[T]",
    after_s: float,
    second: "Callable[[], asyncio.Future[T] | None]",
    hedge_lost: Callable[[], None],
    drop: Callable[[T], Awaitable[None]],
) -> T:
    """Return the first answer to be had; the other question is withdrawn, and its answer, if any, dropped.

    ``second`` is called once ``after_s`` has passed, and may decline; ``hedge_lost`` once there is an answer.

    Raises:
        UpstreamError: when all that were asked have failed.
    """
    racing = [first]
    answers: list[T] = []
    try:
        await asyncio.wait(racing, timeout=after_s)
        if not first.done() and (other := second()) is not None:
            racing.append(other)
        answers.append(await _winner(racing))
        hedge_lost()
        return answers[0]
    finally:
        try:
            await _withdraw(racing, answers, drop)
        finally:
            # They lead to the errors in which they ended, and those to the frames that hold them.
            racing.clear()
            del first


async def _winner(racing: "list[asyncio.Future[T]]") -> T:
    """Return the first result, and take its future out of the list."""
    while True:
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        done = [each for each in racing if each.done()]
        first = next((each for each in done if each.exception() is None), done[0])
        racing.remove(first)
        try:
            return first.result()
        except (UpstreamError, InvalidRequest):
            if not racing:
                raise
        finally:
            del first, done  # see ``first_to_answer``


async def _withdraw(racing: "list[asyncio.Future[T]]", answers: list[T], drop: Callable[[T], Awaitable[None]]) -> None:
    """Let go of those that have not won; if the client leaves meanwhile, of the answers as well."""
    if not racing:
        return
    letting_go = asyncio.gather(*(abandon(each, drop) for each in racing))
    try:
        await asyncio.shield(letting_go)
    except asyncio.CancelledError:
        for answer in answers:
            await drop(answer)
        raise
