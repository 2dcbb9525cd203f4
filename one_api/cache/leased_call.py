"""A call that processes share: the process with the lease asks and publishes the answer, the others follow it."""

import asyncio
import secrets
import time
from collections import deque
from typing import Any

from one_api.cache.chunk_buffer import join
from one_api.cache.followed_stream import TICK_S, FollowedStream, Segment
from one_api.cache.lease import LEASE_S, LISTENING_S, CallKey, LeaseKeeper, LeaseStatus
from one_api.cache.single_flight import Flight, Subscriber
from one_api.serving.tasks import stop

#: How often the holder renews its lease and looks for subscribers, in seconds.
_RENEW_S = 0.1
#: How long the end of a call waits until its last segment is published, in seconds.
_MAX_FINAL_PUBLISH_S = 1.0


class LeasedCall:
    """One process's part in ``call``; the owner calls ``release()``. At most ``max_bytes`` of segments are kept."""

    def __init__(self, keeper: LeaseKeeper, call: CallKey, wait_s: float, max_bytes: int) -> None:
        self._keeper = keeper
        self._call = call
        self._wait_s = wait_s
        self._token = secrets.token_hex(8)
        self._max_bytes = max_bytes
        self._asked_before = False
        #: This process has the lease, or Redis was asked for it and has not refused.
        self._may_hold_lease = False
        self._flight: Flight | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._segments = _SegmentWindow(max_bytes)
        #: All segments were published, or there will be no more.
        self._stopped = False

    async def acquire_or_follow(self, flight: Flight) -> bytes | FollowedStream | None:
        """Return the kept answer, or the one that another process receives; None if this process has to ask.

        It has to ask when it got the lease, when there is nothing to wait for, and when nothing arrived for ``wait_s``.
        While it has the lease, or may have it, the chunks of ``flight`` are published for other processes.
        """
        if self._asked_before:
            return None  # asked before, and failed: this process still has to ask
        self._asked_before = True
        deadline = time.monotonic() + self._wait_s
        while True:
            self._may_hold_lease = True
            taken = await self._keeper.take(self._call, self._token)
            self._may_hold_lease = taken.status is not LeaseStatus.HELD
            if taken.kept is not None:
                return taken.kept
            if self._may_hold_lease:
                # Also when Redis did not answer in time: it may have granted the lease.
                self._flight = flight
                self._renewing = asyncio.create_task(self._renew_lease(flight))
                return None
            followed = FollowedStream(self._keeper, self._call, taken.holder)
            status = await followed.begin(deadline)
            if status is LeaseStatus.HELD:
                return followed
            if status is LeaseStatus.ALONE or time.monotonic() >= deadline:
                return None
            await self._keeper.tick(TICK_S)

    async def _renew_lease(self, flight: Flight) -> None:
        """Renew the lease. One subscriber stands for all other processes: it keeps the call running."""
        subscriber, last_seen_s, leased = None, 0.0, True
        while not self._stopped:
            await self._keeper.tick(_RENEW_S)
            has_subscribers, now = await self._keeper.renew(self._call, self._token), time.monotonic()
            last_seen_s = now if has_subscribers else last_seen_s
            if has_subscribers and subscriber is None and flight.open:
                subscriber = self._start_publishing(flight)
            left = has_subscribers is False or now - last_seen_s > LISTENING_S
            if left and subscriber is not None and flight.has_only(subscriber):
                await self._stop_publishing(subscriber)
            if leased and (not flight.open or self._segments.dropped):
                leased = False  # too late to join: the next request asks again
                await self._keeper.release(self._call, self._token, forget=False)

    def _start_publishing(self, flight: Flight) -> Subscriber:
        subscriber = flight.add_remote_subscriber()
        self._publishing = asyncio.create_task(self._publish(subscriber))
        return subscriber

    async def _publish(self, subscriber: Subscriber) -> None:
        """Publish the chunks of ``subscriber``, at most one segment per tick, and then how the stream ends."""
        try:
            answer = await subscriber.answer()
            if isinstance(answer, dict):
                published = await self._publish_segment(subscriber, whole=answer, complete=True)
            else:
                published = await self._publish_stream(subscriber)
        except Exception:  # clients of this process get the error from their own subscribers
            published = await self._publish_segment(subscriber, complete=False) if self._segments.number else True
            await self._keeper.release(self._call, self._token, forget=False)
        if not published:
            await self._stop_publishing(subscriber)

    async def _publish_stream(self, subscriber: Subscriber) -> bool:
        while True:
            chunks = join(await subscriber.read())
            if subscriber.ended and not chunks and not self._segments.number:
                return False  # an empty stream is no answer: other processes ask for themselves
            published = await self._publish_segment(
                subscriber, chunks=chunks, complete=True if subscriber.ended else None
            )
            if subscriber.ended or not published:
                return published
            await self._keeper.tick(TICK_S)

    async def _publish_segment(self, subscriber: Subscriber, **what: Any) -> bool:
        """Publish the next segment; return whether that worked. A failing Redis is retried for the time of a lease."""
        if self._stopped:
            return True
        record = subscriber.record
        segment = Segment(deployment=record.deployment, warnings=record.warnings, **what)
        data, last = segment.encode(), segment.complete is not None
        if segment.whole is not None and len(data) > self._max_bytes:
            return False
        self._segments.add(len(data))
        number, oldest = self._segments.number, self._segments.oldest
        deadline = time.monotonic() + LEASE_S
        while not await self._keeper.publish(self._call, self._token, number, data, oldest=oldest, last=last):
            if time.monotonic() >= deadline:
                return False
            await self._keeper.tick(TICK_S)
        self._stopped = last
        return True

    async def _stop_publishing(self, subscriber: Subscriber) -> None:
        """Publish no more, and drop the segments, so that subscribers notice."""
        self._stopped = True
        await self._keeper.release(self._call, self._token, forget=True)
        await subscriber.aclose()

    async def _has_new_subscribers(self, flight: Flight) -> bool:
        """Return whether there are subscribers without any segment yet, for which nothing was dropped."""
        if self._publishing is not None or not flight.open:
            return False
        has_subscribers = await self._keeper.renew(self._call, self._token)
        return bool(has_subscribers) and self._publishing is None

    async def release(self, *, unkept: bool) -> None:
        """End the part of this process; ``unkept`` if the answer is not in the store, where other processes look."""
        if self._flight is None or self._renewing is None:
            if self._may_hold_lease:  # all clients left before Redis answered
                await self._keeper.release(self._call, self._token, forget=False)
            return
        if unkept and await self._has_new_subscribers(self._flight):
            self._start_publishing(self._flight)
        if self._publishing is not None and not self._stopped:
            await asyncio.wait({self._publishing}, timeout=_MAX_FINAL_PUBLISH_S)
        await stop(self._renewing, self._publishing)
        cut = self._publishing is not None and not self._stopped
        await self._keeper.release(self._call, self._token, forget=cut)


class _SegmentWindow:
    """The numbers of the published segments, and which of them are kept: at most ``max_bytes``, and always the last."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self.number = 0

    @property
    def oldest(self) -> int:
        """Return the number of the first segment that is kept."""
        return self.number - len(self._sizes) + 1

    @property
    def dropped(self) -> bool:
        """Return whether the first segment was dropped."""
        return self.oldest > 1

    def add(self, size_bytes: int) -> None:
        """Count the next segment."""
        self.number += 1
        self._sizes.append(size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._max_bytes and len(self._sizes) > 1:
            self._bytes -= self._sizes.popleft()
