"""Where the windows of keys are kept: the interface, and windows in this process."""

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from one_api.bounded import BoundedMap
from one_api.limits.window import WINDOW_S, Limits, Verdict, Window

K = TypeVar("K", str, bytes)
T = TypeVar("T")
#: So many keys are known at a time; of more, the one that was used least recently is forgotten.
MAX_KEYS = 8192


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was counted for one request, so that it can be settled: ``counted_at`` is on this machine's own clock."""

    key: str
    lease: int
    tokens: int
    counted_at: float
    #: The second of Redis in which it was counted there; None if it was counted here.
    second: int | None = None
    #: Are requests at a time limited, so that it holds its lease?
    leased: bool = True


@dataclass(frozen=True, slots=True)
class Stats:
    """The requests that count in a window, and how long it takes until the oldest does not, and until none does."""

    used: int = 0
    oldest_leaves_s: float = 0.0
    all_leave_s: float = 0.0

    @classmethod
    def of(cls, window: Window, now: float, tick_s: float) -> "Stats":
        """Return those of a window at ``now``, in its ticks."""
        return cls(window.used(now)[0], window.oldest_leaves(now) * tick_s, window.all_leave(now) * tick_s)


class ByKey(BoundedMap[K, T]):
    """What is known of each key that was used lately."""

    def __init__(self, make: Callable[[K], T]) -> None:
        super().__init__(max_entries=MAX_KEYS)
        self._make: Callable[[K], T] = make

    def known(self, key: K) -> T:
        """Return what is known of ``key``; it is made for one that is not known yet."""
        found = self.get(key)
        if found is None:
            found = self._make(key)
            self.put(key, found)
        return found


class LimitStore(ABC):
    """Keeps one window per key; each call changes one window as a whole, also when others ask at the same time.

    Keys need not be known before. ``take`` and ``settle`` are for a window of a minute; ``hit`` and ``stats`` are the
    same for requests alone, in a window of any length.
    """

    @abstractmethod
    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """Count a request if the limits allow it. ``lease`` is a random number that stands for it."""

    @abstractmethod
    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """End a request that was admitted: its lease, and its estimate, which ``tokens`` replaces."""

    @abstractmethod
    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """Keep the leases of requests that are still under way."""

    @abstractmethod
    async def hit(self, key: str, limit: int, period_s: float, amount: int) -> bool:
        """Count ``amount`` requests if not more than ``limit`` are then counted in ``period_s``; return whether."""

    @abstractmethod
    async def stats(self, key: str, period_s: float) -> Stats:
        """Return what counts now in a window of this length."""

    @abstractmethod
    async def clear(self, key: str) -> None:
        """Forget what a key has used."""

    async def look_after(self) -> None:  # noqa: B027 - some need no care
        """Do what is needed also without requests; called about twice a second."""

    @property
    def degraded(self) -> str | None:
        """Return why limits are kept less exactly than they should be; None when they are not."""
        return None

    async def aclose(self) -> None:  # noqa: B027 - some have nothing open
        """Let go of what is open."""


class LocalStore(LimitStore):
    """Windows within reach of this process: ``change`` runs an act on one of them, alone and at once."""

    async def take(self, key: str, limits: Limits, tokens: int, lease: int) -> tuple[Verdict, Ticket]:
        """See ``LimitStore``."""
        now, leased = time.monotonic(), limits.concurrent is not None
        take = functools.partial(Window.take, limits=limits, now=now, tokens=tokens, lease=lease)
        verdict = await self.change(key, take, leases=leased)
        return verdict, Ticket(key, lease, tokens, now, leased=leased)

    async def settle(self, ticket: Ticket, tokens: int) -> None:
        """See ``LimitStore``."""
        await self.change(
            ticket.key, functools.partial(settle_here, ticket=ticket, tokens=tokens), leases=ticket.leased
        )

    async def renew(self, tickets: Sequence[Ticket]) -> None:
        """See ``LimitStore``."""
        now = time.monotonic()
        for ticket in tickets:
            if ticket.leased:
                await self.change(ticket.key, functools.partial(Window.renew, now=now, lease=ticket.lease), leases=True)

    async def hit(self, key: str, limit: int, period_s: float, amount: int) -> bool:
        """See ``LimitStore``."""
        tick_s = period_s / WINDOW_S
        now, limits = time.monotonic() / tick_s, Limits(limit)
        verdict = await self.change(key, lambda window: window.take(limits, now, 0, 0, amount), tick_s)
        return verdict.refused_by is None

    async def stats(self, key: str, period_s: float) -> Stats:
        """See ``LimitStore``."""
        tick_s = period_s / WINDOW_S
        now = time.monotonic() / tick_s
        return await self.change(key, lambda window: Stats.of(window, now, tick_s), tick_s)

    async def clear(self, key: str) -> None:
        """See ``LimitStore``."""
        await self.change(key, Window.clear, leases=True)

    @abstractmethod
    async def change(self, key: str, act: Callable[[Window], T], tick_s: float = 1.0, *, leases: bool = False) -> T:
        """Let ``act`` read and change the window of ``key``, and return what it returns.

        ``tick_s`` is a sixtieth of the window's length. Without ``leases`` those of the window are left as they are.
        """


def settle_here(window: Window, ticket: Ticket, tokens: int) -> None:
    """End a request in a window of this machine."""
    window.release(ticket.lease)
    window.settle(time.monotonic(), ticket.counted_at, ticket.tokens, tokens)


class MemoryStore(LocalStore):
    """Windows in this process."""

    def __init__(self) -> None:
        self._windows = ByKey(lambda _: Window())

    async def change(self, key: str, act: Callable[[Window], T], tick_s: float = 1.0, *, leases: bool = False) -> T:
        """See ``LocalStore``."""
        return act(self._windows.known(key))
