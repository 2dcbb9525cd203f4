"""One process's claim on a call that others may make too: it asks and tells them, or follows the one that does."""

import asyncio
import secrets
import time
from collections import deque
from typing import Any

from one_api.cache.backlog import join
from one_api.cache.flight import Flight, Seat
from one_api.cache.lease import LEASE_S, LISTENING_S, LeaseKeeper, Shared, Standing
from one_api.cache.tail import TICK_S, Part, Tail

#: How often a lease is renewed, and who holds it learns whether others listen, in seconds.
_RENEW_S = 0.1
#: How long the end of a call waits for others to be told of it, in seconds.
_LAST_WORDS_S = 1.0


class Claim:
    """A claim on ``call``; whoever made it calls ``release()``. Of what is told, ``most_bytes`` stay to be read."""

    def __init__(self, keeper: LeaseKeeper, call: Shared, wait_s: float, most_bytes: int) -> None:
        self._keeper = keeper
        self._call = call
        self._wait_s = wait_s
        self._token = secrets.token_hex(8)
        self._most_bytes = most_bytes
        self._tried = False
        #: We have the lease, or Redis was asked for it and has not said no.
        self._perhaps_ours = False
        self._flight: Flight | None = None
        self._holding: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._parts = _Parts(most_bytes)
        #: Nobody waits for more parts: all were told, or there will be none.
        self._silent = False

    async def win(self, flight: Flight) -> bytes | Tail | None:
        """Return the answer that is kept meanwhile, or that another process is getting; None when it is ours to ask.

        That is so when the lease is won, when there is nothing to wait for, and when nothing has come for ``wait_s``.
        While the lease is held, or may be, others are told what comes to ``flight``.
        """
        if self._tried:
            return None  # asked before, and failed: it is still for us to ask
        self._tried = True
        deadline = time.monotonic() + self._wait_s
        while True:
            self._perhaps_ours = True
            taken = await self._keeper.take(self._call, self._token)
            self._perhaps_ours = taken.standing is not Standing.HELD
            if taken.kept is not None:
                return taken.kept
            if self._perhaps_ours:
                # Also when there was no answer in time: the wish may have been granted all the same.
                self._flight = flight
                self._holding = asyncio.create_task(self._hold(flight))
                return None
            tail = Tail(self._keeper, self._call, taken.holder)
            standing = await tail.begin(deadline)
            if standing is Standing.HELD:
                return tail
            if standing is Standing.ALONE or time.monotonic() >= deadline:
                return None
            await self._keeper.tick(TICK_S)

    async def _hold(self, flight: Flight) -> None:
        """Renew the lease, if it is ours. All who listen in other processes have one seat: it keeps the call going."""
        seat, heard, leased = None, 0.0, True
        while not self._silent:
            await self._keeper.tick(_RENEW_S)
            listened, now = await self._keeper.renew(self._call, self._token), time.monotonic()
            heard = now if listened else heard
            if listened and seat is None and flight.open:
                seat = self._begin_telling(flight)
            left = listened is False or now - heard > LISTENING_S
            if left and seat is not None and flight.has_only(seat):
                await self._hush(seat)
            if leased and (not flight.open or self._parts.dropped):
                leased = False  # too late to join: the next one asks anew
                await self._keeper.release(self._call, self._token, forget=False)

    def _begin_telling(self, flight: Flight) -> Seat:
        seat = flight.join_from_outside()
        self._telling = asyncio.create_task(self._tell(seat))
        return seat

    async def _tell(self, seat: Seat) -> None:
        """Tell what comes to ``seat``, a few parts a second, and then how it ends."""
        try:
            answer = await seat.answer()
            if isinstance(answer, dict):
                told = await self._put(seat, whole=answer, complete=True)
            else:
                told = await self._tell_stream(seat)
        except Exception:  # whatever it is, the clients of this process hear of it from their own seats
            told = await self._put(seat, complete=False) if self._parts.number else True
            await self._keeper.release(self._call, self._token, forget=False)
        if not told:
            await self._hush(seat)

    async def _tell_stream(self, seat: Seat) -> bool:
        while True:
            chunks = join(await seat.read())
            if seat.ended and not chunks and not self._parts.number:
                return False  # a stream of nothing is no answer: those who listen ask for themselves
            told = await self._put(seat, chunks=chunks, complete=True if seat.ended else None)
            if seat.ended or not told:
                return told
            await self._keeper.tick(TICK_S)

    async def _put(self, seat: Seat, **what: Any) -> bool:
        """Tell the next part, and say whether it could be told. A Redis that stumbles is given the time of a lease."""
        if self._silent:
            return True
        record = seat.record
        part = Part(deployment=record.deployment, warnings=record.warnings, **what)
        data, last = part.encode(), part.complete is not None
        if part.whole is not None and len(data) > self._most_bytes:
            return False
        self._parts.add(len(data))
        number, oldest = self._parts.number, self._parts.oldest
        deadline = time.monotonic() + LEASE_S
        while not await self._keeper.tell(self._call, self._token, number, data, oldest=oldest, last=last):
            if time.monotonic() >= deadline:
                return False
            await self._keeper.tick(TICK_S)
        self._silent = last
        return True

    async def _hush(self, seat: Seat) -> None:
        """Tell no more, and let those who listen know it."""
        self._silent = True
        await self._keeper.release(self._call, self._token, forget=True)
        await seat.aclose()

    async def _is_late_news(self, flight: Flight) -> bool:
        """Say whether somebody listens who has been told nothing yet, and can still be told everything."""
        if self._telling is not None or not flight.open:
            return False
        listened = await self._keeper.renew(self._call, self._token)
        return bool(listened) and self._telling is None

    async def release(self, *, unkept: bool) -> None:
        """Give it back, whether it was won or not; ``unkept`` when an answer came that those who wait cannot find."""
        if self._flight is None or self._holding is None:
            if self._perhaps_ours:  # all have left before Redis had answered
                await self._keeper.release(self._call, self._token, forget=False)
            return
        if unkept and await self._is_late_news(self._flight):
            self._begin_telling(self._flight)
        if self._telling is not None and not self._silent:
            await asyncio.wait({self._telling}, timeout=_LAST_WORDS_S)
        tasks = {task for task in (self._holding, self._telling) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        cut = self._telling is not None and not self._silent
        await self._keeper.release(self._call, self._token, forget=cut)


class _Parts:
    """The numbers of the parts that are told, and which of them stay: ``most_bytes`` at most, and always the last."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self.number = 0

    @property
    def oldest(self) -> int:
        """Return the number of the first one that stays."""
        return self.number - len(self._sizes) + 1

    @property
    def dropped(self) -> bool:
        """Say whether the beginning is gone."""
        return self.oldest > 1

    def add(self, size_bytes: int) -> None:
        """Count the next one."""
        self.number += 1
        self._sizes.append(size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._most_bytes and len(self._sizes) > 1:
            self._bytes -= self._sizes.popleft()
