"""Single flight across processes: who holds the lease of a call asks, and tells the others what comes."""

import asyncio
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

#: How long a lease lasts without being renewed, in seconds: so long others wait for a process that has died.
LEASE_S = 5.0
#: How long what was told of a call is there after its end, in seconds.
REST_S = 30.0
#: How long it is known that somebody listens, in seconds.
LISTENING_S = 1.0
#: Parts of a call that are heard at once.
PARTS = 64


class Standing(StrEnum):
    """How a process stands to a call."""

    #: It is the one that asks.
    WON = "won"
    #: Another one asks.
    HELD = "held"
    #: The one that asked is gone: who is first may ask.
    GONE = "gone"
    #: There is nothing to wait for: each asks for itself.
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Shared:
    """A call that processes may share: the key of its answer, and the form of that ("stream", for one)."""

    key: bytes
    form: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of the wish to ask: the answer, if it is there, or the token of who asks already."""

    standing: Standing
    kept: bytes | None = None
    holder: str = ""


class LeaseKeeper(ABC):
    """Keeps leases, and what their holders tell. It never fails: without it, each process stands alone.

    A token names one holder. What it tells are parts, numbered from 1.
    """

    def __init__(self) -> None:
        self._phase_s = random.random()

    async def tick(self, every_s: float) -> None:
        """Sleep until the next of this process's moments: what is asked at one moment shares a trip."""
        now = asyncio.get_running_loop().time() + self._phase_s
        await asyncio.sleep(every_s - now % every_s)

    @abstractmethod
    async def take(self, call: Shared, token: str) -> Taken:
        """Take the lease if nobody has it, unless the answer is there. One act."""

    @abstractmethod
    async def renew(self, call: Shared, token: str) -> bool | None:
        """Begin the time of a lease that is still ours anew; says whether anybody listens, None if nobody knows."""

    @abstractmethod
    async def tell(self, call: Shared, token: str, number: int, part: bytes, *, oldest: int, last: bool) -> bool:
        """Add the next part, and drop those before ``oldest``; says whether that is done. It may be tried again."""

    @abstractmethod
    async def hear(self, call: Shared, holder: str, after: int) -> tuple[Standing, list[tuple[int, bytes]]]:
        """Return what follows part ``after``, and say that somebody listens.

        HELD: these are the next parts, ``PARTS`` at most, and perhaps none yet. GONE: there will be none. ALONE: nobody
        knows.
        """

    @abstractmethod
    async def release(self, call: Shared, token: str, *, forget: bool) -> None:
        """Give back a lease that is still ours; ``forget`` drops what was told, so that nobody waits for more."""
