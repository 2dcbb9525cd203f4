"""Clients that come on a new connection each, ask one thing, and stay for the answer or leave before it is whole."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import httptools

from bench.target import FAST_MODEL, LOOPBACK, SLOW_MODEL, BenchError, Kind, Target, check_answer

VISIT_S = 60.0
"""No visit may take longer."""

_STREAM_BYTES = 16_000
"""About the size of a stream of the fast model."""


@dataclass(frozen=True)
class Leave:
    """When a client goes: after so many seconds or so many bytes; with a reset, or with a decent close."""

    after_s: float = VISIT_S
    after_bytes: int = 1 << 30
    reset: bool = False


@dataclass(frozen=True)
class Visit:
    """One request; without `leave` its client stays to the end."""

    kind: Kind
    model: str = FAST_MODEL
    leave: Leave | None = None


def visits(rng: random.Random, count: int) -> Iterator[Visit]:
    """A mixture: a third not streamed, about half of the streams left early, among those all of the slow model.

    A few who mean to leave find the answer whole before they do, so a little more than half of them mean to.
    """
    for _ in range(count):
        if rng.random() < 1 / 3:
            yield Visit(Kind.COMPLETION)
        elif rng.random() < 0.45:
            yield Visit(Kind.STREAM)
        else:
            yield _left_early(rng)


def _left_early(rng: random.Random) -> Visit:
    reset = rng.random() < 0.5
    how = rng.random()
    if how < 0.3:
        return Visit(Kind.STREAM, SLOW_MODEL, Leave(after_s=rng.uniform(0, 1), reset=reset))
    if how < 0.8:
        return Visit(Kind.STREAM, leave=Leave(after_s=rng.uniform(0, 0.02), reset=reset))
    return Visit(Kind.STREAM, leave=Leave(after_bytes=rng.randrange(_STREAM_BYTES), reset=reset))


class Visitor(asyncio.Protocol):
    """One client; `over` is done when its connection is, and tells whether the answer had come whole."""

    def __init__(self, request: bytes, visit: Visit) -> None:
        self._request = request
        self._visit = visit
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._received = 0
        self._whole = False
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask, and set the clock for leaving."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)
        leave = self._visit.leave
        after_s = leave.after_s if leave else VISIT_S
        self._timer = asyncio.get_running_loop().call_later(after_s, self._go)
        if leave and not leave.after_bytes:
            self._go()

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer, or leave over it."""
        self._received += len(data)
        self._parser.feed_data(data)
        if self._visit.leave and self._received >= self._visit.leave.after_bytes:
            self._go()

    def on_body(self, body: bytes) -> None:
        """The parser's callback for a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The parser's callback for the whole answer: nothing keeps a client any longer."""
        self._whole = True
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Judge: a client that stayed must have had a right answer, one that left is owed nothing."""
        self._timer.cancel()
        if self.over.done():
            return
        try:
            if self._whole:
                check_answer(self._visit.kind, self._parser.get_status_code(), b"".join(self._body))
            elif self._visit.leave is None:
                raise BenchError(f"a {self._visit.kind} answer broke off after {self._received} bytes: {exc!r}")
        except BenchError as error:
            self.over.set_exception(error)
        else:
            self.over.set_result(self._whole)

    def _go(self) -> None:
        if self._visit.leave and self._visit.leave.reset:
            self._transport.abort()
        else:
            self._transport.close()


async def visit_all(target: Target, coming: Iterable[Visit], concurrency: int) -> Counter[str]:
    """Make all visits, so many at a time; returns how many of each kind came `whole` and were `left`.

    Raises BenchError at the first wrong answer.
    """
    outcomes: Counter[str] = Counter()
    queue = iter(coming)
    loop = asyncio.get_running_loop()

    async def keep_visiting() -> None:
        for visit in queue:
            client = partial(Visitor, target.chat_request(visit.kind, visit.model), visit)
            try:
                async with asyncio.timeout(2 * VISIT_S):
                    _, visitor = await loop.create_connection(client, LOOPBACK, target.port)
                    whole = await visitor.over
            except OSError as error:
                raise BenchError(f"a visit failed: {error!r}") from error
            outcomes[f"{visit.kind} {'whole' if whole else 'left'}"] += 1

    await asyncio.gather(*(keep_visiting() for _ in range(concurrency)))
    return outcomes
