"""Single flight: identical requests under way share one upstream call.

A flight is one upstream call in a task of its own. Each request that shares it is a subscriber: it gets the chunks so
far, then each new chunk. The subscriber that started the flight leads it: the attempts are written to its record. Its
client may leave like any other. When the last client has left, the upstream call is closed.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

from one_api.cache.chunk_buffer import ChunkBuffer
from one_api.cache.policy import is_plain
from one_api.cache.read_buffer import ReadBuffer, Sized, sized
from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.errors import AccountsUnavailable, BudgetExceeded, GatewayError, ShuttingDown, Unpriced, UpstreamError
from one_api.records import CallContext, CallRecord
from one_api.serving.tasks import stop

logger = logging.getLogger(__name__)

#: The upstream is read while the fastest client is no further behind than this, in bytes: it sets the pace.
_MAX_AHEAD_BYTES = 256 * 1024
#: What concerns the budgets of the request that pays, and of no other one.
_OF_PAYER = (AccountsUnavailable, BudgetExceeded, Unpriced)


@dataclass(frozen=True, slots=True)
class Source:
    """The deployment that answered, and what was dropped or altered of the request."""

    deployment: str | None
    warnings: tuple[str, ...]


class SharedCall(ABC):
    """The call behind a flight: how to ask, and what to do with a whole answer."""

    #: No upstream was asked: no request of this process pays for the answer.
    free = False

    @abstractmethod
    async def ask(self, flight: "Flight", context: CallContext) -> JSONObject | ChunkStream:
        """Ask; ``context`` is that of the leader. It may be called a second time after an error."""

    @abstractmethod
    async def keep(self, answer: JSONObject, source: Source) -> None:
        """Keep a complete answer for later, if it may be kept."""

    @abstractmethod
    async def aclose(self, *, complete: bool) -> None:
        """Release everything: the call has ended."""


class Subscriber(ChunkStream):
    """One request that shares a flight; if it is not ``local``, it stands for all requests of other processes."""

    def __init__(self, flight: "Flight", context: CallContext, *, include_usage: bool, local: bool = True) -> None:
        self.context = context
        self.record = context.record
        self.local = local
        self.buffer = ReadBuffer()
        self._flight = flight
        self._include_usage = include_usage
        self._whole: JSONObject | None = None

    def finish(self, whole: JSONObject | None) -> None:
        """Mark the answer as complete; ``whole`` is the answer, if it is not a stream."""
        self._whole = whole
        self.buffer.finish()

    async def answer(self) -> JSONObject | ChunkStream:
        """Wait for the whole answer, or for the first chunks of a stream; raises what a call raises."""
        try:
            await self.buffer.wait()
        except BaseException:
            await self.aclose()
            raise
        self._flight.write_source(self.record)
        if self._whole is None:
            return self
        await self.aclose()
        return self._whole

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        shown: list[JSONObject] = []
        while not shown and not self.ended:
            await self.buffer.wait()
            shown = [*map(self._shown, filter(self._wanted, self.buffer.take()))]
            self._flight.has_read.set()
            self.ended = self.buffer.complete
            self.usage = self._flight.usage
        return shown

    def _wanted(self, chunk: JSONObject) -> bool:
        return self._include_usage or bool(chunk["choices"]) or chunk.get("usage") is None

    def _shown(self, chunk: JSONObject) -> JSONObject:
        if self._include_usage or "usage" not in chunk:
            return chunk
        return {name: value for name, value in chunk.items() if name != "usage"}

    async def aclose(self) -> None:
        """See ``ChunkStream``; the last subscriber that leaves closes the upstream call."""
        self.ended = True
        self.buffer.close()
        await self._flight.leave(self)


class Flight:
    """One upstream call, and its subscribers."""

    def __init__(self, call: SharedCall, max_bytes: int) -> None:
        self._call = call
        #: The longest history: a longer stream cannot be joined or kept.
        self._max_bytes = max_bytes
        self._history: ChunkBuffer | None = ChunkBuffer()
        self._whole: JSONObject | None = None
        self._subscribers: list[Subscriber] = []
        self._complete = self._failed = False
        self._source = Source(None, ())
        self._task: asyncio.Task[None] | None = None
        self.usage = ChunkStream.usage
        #: Set when a subscriber has read.
        self.has_read = asyncio.Event()

    @property
    def open(self) -> bool:
        """Return whether it can be joined."""
        return bool(self._subscribers or self._complete) and not self._failed and self._history is not None

    def join(self, context: CallContext, *, include_usage: bool) -> Subscriber:
        """Add a subscriber for one more request."""
        return self._take(Subscriber(self, context, include_usage=include_usage))

    def add_remote_subscriber(self) -> Subscriber:
        """Add the subscriber for all other processes: it gets everything, and never pays for the call."""
        outside = CallContext(CallRecord("", "", "", free=True))
        return self._take(Subscriber(self, outside, include_usage=True, local=False))

    def has_only(self, subscriber: Subscriber) -> bool:
        """Return whether all other subscribers have left."""
        return self._subscribers == [subscriber]

    def _take(self, subscriber: Subscriber) -> Subscriber:
        if self._history:
            subscriber.buffer.catch_up(self._history)
        if self._complete:
            subscriber.finish(self._whole)
        self._subscribers.append(subscriber)
        return subscriber

    def begin(self) -> "asyncio.Task[None]":
        """Start the call; the first subscriber leads."""
        self._task = asyncio.create_task(self._run())
        return self._task

    def write_source(self, record: CallRecord) -> None:
        """Write the deployment and the warnings to a record."""
        record.deployment = self._source.deployment
        record.warnings += [warning for warning in self._source.warnings if warning not in record.warnings]

    async def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber. If it paid for the call, another local subscriber pays instead."""
        if subscriber not in self._subscribers:
            return
        self._subscribers.remove(subscriber)
        self.has_read.set()
        if self._complete or self._failed or self._task is None:
            return
        if self._subscribers:
            if not subscriber.record.free:
                self._hand_over(subscriber)
            return
        self._failed = True
        await stop(self._task)

    def _hand_over(self, payer: Subscriber) -> bool:
        """Have another local subscriber pay instead of one that is gone; return whether there is one."""
        heir = next((each for each in self._subscribers if each.local), None)
        if heir is None:
            return False
        heir.record.free, payer.record.free = False, True
        own, before = heir.context.within_budgets, payer.context.within_budgets
        if own is not None and before is not None:
            own.inherit(before)
        return True

    async def _run(self) -> None:
        try:
            answer = await self._open()
            if isinstance(answer, ChunkStream):
                await self._relay(answer)
            else:
                await self._finish(answer)
        except Exception as error:  # each subscriber gets it, and returns it to its client
            if self._complete:
                logger.exception("an answer could not be kept")
            self._fail(error)
        finally:
            self.abandon()
            await self._call.aclose(complete=self._complete)

    async def _open(self) -> JSONObject | ChunkStream:
        """Ask. If the upstream fails, the leader gets the error, and another subscriber asks once more.

        A leader whose budgets do not allow it gets the error alone: the next one asks.
        """
        tries = 2
        while True:
            leader = next(subscriber for subscriber in self._subscribers if subscriber.local)
            try:
                answer = await self._call.ask(self, leader.context)
            except (UpstreamError, *_OF_PAYER) as error:
                if isinstance(error, UpstreamError):
                    tries -= 1
                others = [
                    subscriber for subscriber in self._subscribers if subscriber is not leader and subscriber.local
                ]
                if not tries or not others or (isinstance(error, UpstreamError) and not error.retry_elsewhere):
                    raise
                self._dismiss(leader, error)
                others[0].record.cache, others[0].record.free = "miss", False
            else:
                if self._call.free:  # the current leader too
                    for subscriber in self._subscribers:
                        subscriber.record.free = True
                self._source = Source(leader.record.deployment, tuple(leader.record.warnings))
                return answer

    def _dismiss(self, subscriber: Subscriber, error: GatewayError) -> None:
        """Have a subscriber end with an error, and the others go on."""
        subscriber.buffer.fail(error)
        self._subscribers = [each for each in self._subscribers if each is not subscriber]

    async def _read(self, stream: ChunkStream) -> list[JSONObject]:
        """Return the next chunks; where the budgets of the payer are at their end, another subscriber pays."""
        while True:
            try:
                return await stream.read()
            except _OF_PAYER as error:
                payer = next((each for each in self._subscribers if each.local and not each.record.free), None)
                if payer is None:
                    raise
                self._dismiss(payer, error)
                if not self._hand_over(payer):
                    self._subscribers.append(payer)
                    raise

    async def _relay(self, stream: ChunkStream) -> None:
        """Send a stream to every subscriber, at the pace of the fastest one."""
        async with stream:
            while chunks := await self._read(stream):
                self._pass_on(sized(chunks))
                self.usage = stream.usage
                if stream.ended:
                    break
                while self._subscribers and all(
                    subscriber.buffer.size_bytes > _MAX_AHEAD_BYTES for subscriber in self._subscribers
                ):
                    self.has_read.clear()
                    await self.has_read.wait()
            await self._finish(None)

    def _pass_on(self, chunks: list[Sized]) -> None:
        for chunk, size_bytes in chunks:
            if self._history is not None:
                self._history.add(chunk, size_bytes)
                if self._history.size_bytes > self._max_bytes:
                    self._history = None
        for subscriber in self._subscribers:
            subscriber.buffer.push(chunks)

    async def _finish(self, whole: JSONObject | None) -> None:
        self._whole, self._complete = whole, True
        for subscriber in self._subscribers:
            subscriber.finish(whole)
        await self._keep()

    def abandon(self) -> None:
        """Fail the subscribers that still wait; has no effect on a complete flight."""
        self._fail(ShuttingDown("The gateway is shutting down: the answer is not complete."))

    def _fail(self, error: Exception) -> None:
        self._failed = not self._complete
        for subscriber in self._subscribers:
            subscriber.buffer.fail(error)

    async def _keep(self) -> None:
        answer = self._whole
        if answer is None and self._history is not None and is_plain(chunks := self._history.peek()):
            assembler = Assembler()
            for chunk in chunks:
                assembler.add(chunk)
            answer = assembler.completion()
        if answer is not None:
            await self._call.keep(answer, self._source)


class Flights:
    """The running calls."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: The flights that can be joined. Bounded, like the tasks, by the number of running requests.
        self._listed: dict[object, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, key: object, context: CallContext, *, include_usage: bool) -> Subscriber | None:
        """Return a subscriber of the flight under ``key``, if that can be joined; the key None joins none."""
        flight = self._listed.get(key) if key is not None else None
        return flight.join(context, include_usage=include_usage) if flight is not None and flight.open else None

    def begin(self, call: SharedCall, context: CallContext, *, include_usage: bool, key: object = None) -> Subscriber:
        """Start a flight and return its first subscriber; without a ``key`` no other request can join it."""
        flight = Flight(call, self._max_bytes)
        subscriber = flight.join(context, include_usage=include_usage)
        task = flight.begin()
        self._tasks.add(task)
        if key is not None:
            self._listed[key] = flight

        def forget(task: "asyncio.Task[None]") -> None:
            flight.abandon()
            self._tasks.discard(task)
            if self._listed.get(key) is flight:
                del self._listed[key]

        task.add_done_callback(forget)
        return subscriber

    async def aclose(self) -> None:
        """End every call."""
        await stop(*self._tasks)
