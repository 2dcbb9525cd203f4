"""What one process knows of a key whose window is in Redis: enough to go on without Redis, and to remind it.

Pure arithmetic: times are ticks of one monotonic clock, seconds for a window of a minute, and are handed in.
"""

import math
from dataclasses import dataclass, field

from one_api.limits.stores import Ticket
from one_api.limits.window import BUCKETS, Limits, Verdict, Window

#: (age in whole seconds, requests, tokens)
Counts = list[tuple[int, int, int]]


@dataclass(slots=True)
class LateTake:
    """A request that was let in here while Redis had not answered: the answer may still come."""

    counted_at: float
    tokens: int
    #: The tokens that it used, once it has ended.
    settled: int | None = None
    requests: int = 1

    @property
    def used(self) -> int:
        """Return the tokens that it counts for."""
        return self.tokens if self.settled is None else self.settled


@dataclass(slots=True)
class KeyUsage:
    """The use of one key, as far as this process knows it."""

    #: What was let in here and is not counted in Redis.
    uncounted: Window = field(default_factory=Window)
    #: What this process let in and Redis has counted.
    counted: Window = field(default_factory=Window)
    #: What all processes together use, by Redis's answers.
    total: Window = field(default_factory=Window)
    #: Requests whose answers are late, by lease; they are in ``uncounted`` until Redis says that it has counted them.
    late: dict[int, LateTake] = field(default_factory=dict)
    #: The seconds of Redis in which late requests were counted after all, by lease.
    counted_late: dict[int, int] = field(default_factory=dict)
    #: Which window in Redis ``counted`` is in: a window that Redis has lost begins anew, with another number.
    birth: int = 0
    #: Until then Redis knows less than ``total`` does, because it has lost its window.
    remembered_until: float = 0.0
    #: When Redis was last lost (went away, or lost its memory), and the requests and tokens that this process had let
    #: in then.
    lost_at: float = -math.inf
    own_then: tuple[int, int] = (0, 0)
    #: The length of a tick of its windows, in seconds; times of this key are in ticks.
    tick_s: float = 1.0

    def known_birth(self, now: float) -> int:
        """Return the window that Redis must still have; 0 when it may begin a new one."""
        return self.birth if any(self.counted.used(now)) else 0

    def is_used(self, now: float) -> bool:
        """Return whether this process has let in anything that still counts."""
        return any(self.counted.used(now)) or any(self.uncounted.used(now))

    def lost(self, at: float, now: float) -> None:
        """Note that Redis was lost ``at`` a time; what is lost again within a minute is lost since then."""
        if at > self.lost_at:
            if at - self.lost_at >= BUCKETS:
                pairs = zip(self.counted.used(now), self.uncounted.used(now), strict=True)
                self.own_then = sum(next(pairs)), sum(next(pairs))
            self.lost_at = at

    def own_bounds(self, share: Limits, processes: int, now: float) -> Limits:
        """Return what this process may have let in of what counts now, while Redis is not to be relied on.

        It is its share. But in the minute after Redis was lost others may have let in more than theirs, and this
        process need not know: until that minute is over, all that had let in less than their share add no more than one
        share together. So never more is let in than the limit and one process's share.
        """

        def bound(part: int, own_then: int) -> int:
            if now - self.lost_at >= BUCKETS or own_then >= part:
                return part
            return min(part, own_then + max(1, part // processes))

        requests, tokens = self.own_then
        return Limits(
            bound(share.requests_per_minute, requests),
            None if share.tokens_per_minute is None else bound(share.tokens_per_minute, tokens),
            share.concurrent,
        )

    def decide(self, limits: Limits, own_bounds: Limits, now: float, tokens: int, lease: int, requests: int) -> Verdict:
        """Count a request without Redis: within this process's bounds, and within what all are known to have left."""
        (own, own_tokens), (all_, all_tokens) = self.counted.used(now), self.total.used(now)
        left_tokens = left_leases = None
        if limits.tokens_per_minute is not None and own_bounds.tokens_per_minute is not None:
            left_tokens = max(0, min(own_bounds.tokens_per_minute - own_tokens, limits.tokens_per_minute - all_tokens))
        if own_bounds.concurrent is not None:
            left_leases = max(0, own_bounds.concurrent - sum(ends > now for ends in self.counted.leases.values()))
        left = max(0, min(own_bounds.requests_per_minute - own, limits.requests_per_minute - all_))
        return self.uncounted.take(Limits(left, left_tokens, left_leases), now, tokens, lease, requests)

    def remembered_refusal(
        self, limits: Limits, own_bounds: Limits, now: float, tokens: int, requests: int
    ) -> Verdict | None:
        """Return a refusal by what is known of a window that Redis has lost; None when Redis is to be asked.

        Others may not have reminded Redis yet, so this process keeps to its bounds until its memory has left the
        window.
        """
        for known, bounds in ((self.total, limits), (self.counted, own_bounds)):
            found = Limits(bounds.requests_per_minute, bounds.tokens_per_minute)
            verdict = known.copy().take(found, now, tokens, 0, requests)
            if verdict.refused_by is not None:
                return verdict
        return None

    def admitted(self, now: float, tokens: int, lease: int | None, requests: int) -> None:
        """Note a request that Redis has counted. ``lease`` is None where requests at a time are not limited."""
        self.counted.add(now, now, requests, tokens)
        if now < self.remembered_until:
            self.total.add(now, now, requests, tokens)
        if lease is not None:
            self.counted.renew(now, lease)

    def update(self, now: float, birth: int, requests: int, tokens: int) -> None:
        """Note what Redis says that all processes use."""
        if birth != self.birth:
            self._begin(now, birth)
        known, known_tokens = self.total.used(now)
        more, more_tokens = requests - known, tokens - known_tokens
        self.total.add(now, now, max(0, more), max(0, more_tokens))
        if now >= self.remembered_until:
            self.total.drop_oldest(max(0, -more), max(0, -more_tokens))

    def forget_birth(self, now: float, birth: int) -> None:
        """Redis has lost its window, and has a new one: what it had counted must be added to that."""
        if birth == self.birth:
            return
        self._begin(now, birth)
        self._move(self.counted.counted(now), now, self.counted, self.uncounted)

    def _begin(self, now: float, birth: int) -> None:
        if self.birth and any(self.total.used(now)):
            self.remembered_until = now + BUCKETS
        self.birth = birth

    def begin_merge(self, now: float) -> Counts:
        """Return what is to be added to Redis; it is taken as counted unless ``merge_failed``. Late ones wait."""
        waiting = Window()
        for late in self.late.values():
            waiting.add(now, late.counted_at, late.requests, late.used)
        held = {age: (requests, tokens) for age, requests, tokens in waiting.counted(now)}
        counts = []
        for age, requests, tokens in self.uncounted.counted(now):
            late_requests, late_tokens = held.get(age, (0, 0))
            if requests > late_requests or tokens > late_tokens:
                counts.append((age, max(0, requests - late_requests), max(0, tokens - late_tokens)))
        self._move(counts, now, self.uncounted, self.counted)
        return counts

    def merge_failed(self, now: float, counts: Counts) -> None:
        """Take back what ``begin_merge`` returned."""
        self._move(counts, now, self.counted, self.uncounted)

    def merged(self, now: float, counts: Counts, birth: int) -> None:
        """Note that Redis has added ``counts`` to the window ``birth``."""
        if birth != self.birth:
            self.forget_birth(now, birth)
            self._move(counts, now, self.uncounted, self.counted)

    @staticmethod
    def _move(counts: Counts, now: float, source: Window, target: Window) -> None:
        for age, requests, tokens in counts:
            source.add(now, now - age, -requests, -tokens)
            target.add(now, now - age, requests, tokens)

    def late_answer(self, now: float, lease: int, second: int | None, *, settles: bool) -> LateTake:
        """Note the late answer to a request that was let in here; ``second`` is when Redis counted it, None if not.

        Returns the request; one that has ended meanwhile is to be settled in Redis.
        """
        late = self.late.pop(lease)
        if second is not None:
            self.uncounted.add(now, late.counted_at, -late.requests, -late.used)
            self.counted.add(now, late.counted_at, late.requests, late.used)
            if (ends := self.uncounted.leases.pop(lease, None)) is not None:
                self.counted.leases[lease] = ends
            if settles and late.settled is None:
                self.counted_late[lease] = second
        return late

    def settle(self, now: float, ticket: Ticket, tokens: int) -> int | None:
        """End a request in the windows of this process. Returns the second in which Redis has counted it, if it has."""
        second = self.counted_late.pop(ticket.lease, ticket.second)
        window = self.uncounted if second is None else self.counted
        window.settle(now, ticket.counted_at, ticket.tokens, tokens)
        self.counted.release(ticket.lease)
        self.uncounted.release(ticket.lease)
        if ticket.lease in self.late:
            self.late[ticket.lease].settled = tokens
        return second

    def renew(self, now: float, lease: int) -> None:
        """Keep a lease alive."""
        for window in (self.counted, self.uncounted):
            if lease in window.leases:
                window.renew(now, lease)
