"""Single flight across processes: the holder of a call's lease asks, and publishes the answer for the others."""

import asyncio
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

#: How long a lease lasts without a renewal, in seconds. Other processes wait this long for a process that died.
LEASE_S = 5.0
#: How long the segments of a call are kept after its end, in seconds.
KEPT_AFTER_END_S = 30.0
#: How long a poll counts as a subscriber, in seconds.
LISTENING_S = 1.0
#: The most segments that one poll returns.
MAX_SEGMENTS = 64


class LeaseStatus(StrEnum):
    """The state of a call's lease, as one process sees it."""

    #: This process asks.
    WON = "won"
    #: Another process asks.
    HELD = "held"
    #: The process that asked is gone: the first to take the lease may ask.
    GONE = "gone"
    #: There is nothing to wait for: each process asks for itself.
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class CallKey:
    """A call that processes may share: the key of its answer, and the form of the answer ("stream", for example)."""

    key: bytes
    form: str


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """The result of ``take``: the answer, if it is kept, or the token of the process that already asks."""

    status: LeaseStatus
    kept: bytes | None = None
    holder: str = ""


class LeaseKeeper(ABC):
    """Keeps leases, and the segments that their holders publish. It never fails: at worst each process asks for itself.

    A token names one holder. Its segments are numbered from 1.
    """

    def __init__(self) -> None:
        self._phase_s = random.random()

    async def tick(self, every_s: float) -> None:
        """Sleep until this process's next tick: commands of one tick are sent together."""
        now = asyncio.get_running_loop().time() + self._phase_s
        await asyncio.sleep(every_s - now % every_s)

    @abstractmethod
    async def take(self, call: CallKey, token: str) -> LeaseResult:
        """Take the lease if it is free and no answer is kept. Atomic."""

    @abstractmethod
    async def renew(self, call: CallKey, token: str) -> bool | None:
        """Renew the lease if this token holds it. Return whether there are subscribers; None if that is not known."""

    @abstractmethod
    async def publish(self, call: CallKey, token: str, number: int, segment: bytes, *, oldest: int, last: bool) -> bool:
        """Add the next segment, and drop those before ``oldest``. Return whether it worked; it may be tried again."""

    @abstractmethod
    async def poll(self, call: CallKey, holder: str, after: int) -> tuple[LeaseStatus, list[tuple[int, bytes]]]:
        """Return the segments after number ``after``, and register a subscriber.

        HELD: the next segments, at most ``MAX_SEGMENTS``, perhaps none yet. GONE: there will be none. ALONE: unknown.
        """

    @abstractmethod
    async def release(self, call: CallKey, token: str, *, forget: bool) -> None:
        """Release the lease if this token holds it; ``forget`` drops the segments, so that none waits for more."""
