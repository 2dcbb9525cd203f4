"""Single flight: identical requests under way share one upstream call.

A flight is one upstream call in a task of its own. Each request that shares it has a seat: it gets what has come so
far, then what comes. The seat that began it leads: the attempts stand in its record. Its client may leave, as any
other; when nobody is left, the upstream call is closed.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

from one_api.cache.backlog import Backlog
from one_api.cache.inbox import Inbox, Sized, sized
from one_api.cache.policy import is_plain
from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.errors import ShuttingDown, UpstreamError
from one_api.observability.records import CallRecord, current_call

logger = logging.getLogger(__name__)

#: The upstream is read while the fastest client is no further behind than this, in bytes: it sets the pace.
_AHEAD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Whose answer it is, and what had been dropped or altered of the request."""

    deployment: str | None
    warnings: tuple[str, ...]


class Call(ABC):
    """What a flight is made of: how to ask, and what to do with a whole answer."""

    #: No upstream was asked: nobody here stands for the cost.
    free = False

    @abstractmethod
    async def ask(self, flight: "Flight") -> JSONObject | ChunkStream:
        """Ask; the current call's record is that of whoever leads. It may be called a second time after an error."""

    @abstractmethod
    async def keep(self, answer: JSONObject, source: Source) -> None:
        """Keep a complete answer for later, if it may be kept."""

    @abstractmethod
    async def aclose(self, *, complete: bool) -> None:
        """Let go of what is held: there will be no more."""


class Seat(ChunkStream):
    """One request's part in a flight; or, if it is not ``local``, the part of all who listen in other processes."""

    def __init__(self, flight: "Flight", record: CallRecord, *, include_usage: bool, local: bool = True) -> None:
        self.record = record
        self.local = local
        self.inbox = Inbox()
        self._flight = flight
        self._include_usage = include_usage
        self._whole: JSONObject | None = None

    def finish(self, whole: JSONObject | None) -> None:
        """Learn that the answer is complete; ``whole`` if it is no stream."""
        self._whole = whole
        self.inbox.finish()

    async def answer(self) -> JSONObject | ChunkStream:
        """Wait for the whole answer, or for the first chunks of a stream; raises what a call raises."""
        try:
            await self.inbox.wait()
        except BaseException:
            await self.aclose()
            raise
        self._flight.tell(self.record)
        if self._whole is None:
            return self
        await self.aclose()
        return self._whole

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        shown: list[JSONObject] = []
        while not shown and not self.ended:
            await self.inbox.wait()
            shown = [*map(self._shown, filter(self._wanted, self.inbox.take()))]
            self._flight.room.set()
            self.ended = self.inbox.complete
            self.usage = self._flight.usage
        return shown

    def _wanted(self, chunk: JSONObject) -> bool:
        return self._include_usage or bool(chunk["choices"]) or chunk.get("usage") is None

    def _shown(self, chunk: JSONObject) -> JSONObject:
        if self._include_usage or "usage" not in chunk:
            return chunk
        return {name: value for name, value in chunk.items() if name != "usage"}

    async def aclose(self) -> None:
        """See ``ChunkStream``; the last one who leaves closes the upstream call."""
        self.ended = True
        self.inbox.close()
        await self._flight.leave(self)


class Flight:
    """One upstream call, and the seats of those who share it."""

    def __init__(self, call: Call, most_bytes: int) -> None:
        self._call = call
        #: The longest history: a stream with more of it cannot be joined or kept.
        self._most_bytes = most_bytes
        self._history: Backlog | None = Backlog()
        self._whole: JSONObject | None = None
        self._seats: list[Seat] = []
        self._complete = self._failed = False
        self._source = Source(None, ())
        self._task: asyncio.Task[None] | None = None
        self.usage = ChunkStream.usage
        #: Set when somebody has read.
        self.room = asyncio.Event()

    @property
    def open(self) -> bool:
        """Say whether it can be joined."""
        return bool(self._seats or self._complete) and not self._failed and self._history is not None

    def join(self, record: CallRecord, *, include_usage: bool) -> Seat:
        """Return a seat for one more request."""
        return self._take(Seat(self, record, include_usage=include_usage))

    def join_from_outside(self) -> Seat:
        """Return the seat of all who listen in other processes: it gets everything, and stands for nobody's cost."""
        outside = CallRecord("", "", "", free=True)
        return self._take(Seat(self, outside, include_usage=True, local=False))

    def has_only(self, seat: Seat) -> bool:
        """Say whether all others have left."""
        return self._seats == [seat]

    def _take(self, seat: Seat) -> Seat:
        if self._history:
            seat.inbox.catch_up(self._history)
        if self._complete:
            seat.finish(self._whole)
        self._seats.append(seat)
        return seat

    def begin(self) -> "asyncio.Task[None]":
        """Ask; whoever has joined first leads."""
        self._task = asyncio.create_task(self._run())
        return self._task

    def tell(self, record: CallRecord) -> None:
        """Write down who answered."""
        record.deployment = self._source.deployment
        record.warnings += [warning for warning in self._source.warnings if warning not in record.warnings]

    async def leave(self, seat: Seat) -> None:
        """Give a seat back. Somebody of those who stay answers for the cost of the call."""
        if seat not in self._seats:
            return
        self._seats.remove(seat)
        self.room.set()
        if self._complete or self._failed or self._task is None:
            return
        if self._seats:
            heir = next((each.record for each in self._seats if each.local), None)
            if heir is not None and not seat.record.free:
                heir.free, seat.record.free = False, True
            return
        self._failed = True
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            answer = await self._open()
            if isinstance(answer, ChunkStream):
                await self._relay(answer)
            else:
                await self._finish(answer)
        except Exception as error:  # those who wait are told, and each says it to its client
            if self._complete:
                logger.exception("an answer could not be kept")
            self._fail(error)
        finally:
            self.abandon()
            await self._call.aclose(complete=self._complete)

    async def _open(self) -> JSONObject | ChunkStream:
        """Ask. When the upstream fails, the leader is told, and one other tries once more for all who are left."""
        for last in (False, True):
            leader = next(seat for seat in self._seats if seat.local)
            current_call.set(leader.record)
            try:
                answer = await self._call.ask(self)
            except UpstreamError as error:
                others = [seat for seat in self._seats if seat is not leader and seat.local]
                if last or not error.retry_elsewhere or not others:
                    raise
                leader.inbox.fail(error)
                self._seats = [seat for seat in self._seats if seat is not leader]
                others[0].record.cache, others[0].record.free = "miss", False
            else:
                if self._call.free:  # whoever leads by now
                    for seat in self._seats:
                        seat.record.free = True
                self._source = Source(leader.record.deployment, tuple(leader.record.warnings))
                return answer
        raise AssertionError("unreachable")

    async def _relay(self, stream: ChunkStream) -> None:
        """Pass a stream on to every seat, as fast as the fastest takes it."""
        async with stream:
            while chunks := await stream.read():
                self._pass_on(sized(chunks))
                self.usage = stream.usage
                if stream.ended:
                    break
                while self._seats and all(seat.inbox.size_bytes > _AHEAD_BYTES for seat in self._seats):
                    self.room.clear()
                    await self.room.wait()
            await self._finish(None)

    def _pass_on(self, chunks: list[Sized]) -> None:
        for chunk, size_bytes in chunks:
            if self._history is not None:
                self._history.add(chunk, size_bytes)
                if self._history.size_bytes > self._most_bytes:
                    self._history = None
        for seat in self._seats:
            seat.inbox.push(chunks)

    async def _finish(self, whole: JSONObject | None) -> None:
        self._whole, self._complete = whole, True
        for seat in self._seats:
            seat.finish(whole)
        await self._keep()

    def abandon(self) -> None:
        """Tell those who still wait that there will be no more; has no effect on a flight that came to its end."""
        self._fail(ShuttingDown("The gateway is shutting down: the answer is not complete."))

    def _fail(self, error: Exception) -> None:
        self._failed = not self._complete
        for seat in self._seats:
            seat.inbox.fail(error)

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
    """The calls under way."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        #: Those that can be joined. Bounded, as the other, by the number of requests under way.
        self._listed: dict[object, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, key: object, record: CallRecord, *, include_usage: bool) -> Seat | None:
        """Return a seat in the flight under ``key``, if there is one that can be joined; None joins none."""
        flight = self._listed.get(key) if key is not None else None
        return flight.join(record, include_usage=include_usage) if flight is not None and flight.open else None

    def begin(self, call: Call, record: CallRecord, *, include_usage: bool, key: object = None) -> Seat:
        """Begin a flight and return its first seat; without a ``key``, nobody else can join it."""
        flight = Flight(call, self._most_bytes)
        seat = flight.join(record, include_usage=include_usage)
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
        return seat

    async def aclose(self) -> None:
        """End every call."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
