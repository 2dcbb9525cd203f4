"""Single flight across processes: who holds the lease of a key asks, the others wait for the answer to be kept."""

import asyncio
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")

#: How long a lease lasts without being renewed, in seconds: so long others wait for a process that has died.
LEASE_S = 5.0
#: How long it is known that an answer will not be kept, in seconds.
UNSHARED_S = 1.0
#: Pause between two looks at an answer that another process waits for: grows from the first to the last, in seconds.
_PAUSE_S = (0.03, 0.25)


class Standing(StrEnum):
    """How a process stands to the answer under a key."""

    #: It is the one that asks.
    WON = "won"
    #: Another one asks.
    HELD = "held"
    #: There is nothing to wait for: each asks for itself.
    ALONE = "alone"


class LeaseKeeper(ABC):
    """Keeps leases that processes share. It never fails: without it, each process stands alone."""

    @abstractmethod
    async def take(self, key: bytes, token: str) -> tuple[Standing, bytes | None]:
        """Take the lease if nobody has it, unless the answer is there: then that is returned, too. One act."""

    @abstractmethod
    async def renew(self, key: bytes, token: str) -> None:
        """Begin the time of a lease that is still ours anew."""

    @abstractmethod
    async def release(self, key: bytes, token: str, *, unshared: bool) -> None:
        """Give back a lease that is still ours; ``unshared`` tells those who wait that no answer was kept."""


class Lease:
    """One process's claim on asking for the answer under ``key``."""

    def __init__(self, keeper: LeaseKeeper, key: bytes, wait_s: float) -> None:
        self._keeper = keeper
        self._key = key
        self._wait_s = wait_s
        self._token = secrets.token_hex(8)
        self._tried = False
        self._renewing: asyncio.Task[None] | None = None

    async def win(self, read: Callable[[bytes], T | None]) -> T | None:
        """Return what ``read`` makes of the answer that another process has kept, or None when it is ours to ask.

        That is so when the lease is won, when there is nothing to wait for, or after ``wait_s``.
        """
        if self._tried:
            return None  # asked before, and failed: it is still for us to ask
        self._tried = True
        deadline, (pause_s, longest_s) = time.monotonic() + self._wait_s, _PAUSE_S
        while True:
            standing, kept = await self._keeper.take(self._key, self._token)
            if kept is not None:
                return read(kept)
            if standing is Standing.WON:
                self._renewing = asyncio.create_task(self._keep_renewing())
            if standing is not Standing.HELD or time.monotonic() >= deadline:
                return None
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(pause_s * 1.5, longest_s)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await self._keeper.renew(self._key, self._token)

    async def release(self, *, unshared: bool) -> None:
        """Give it back, whether it was won or not; ``unshared`` when an answer came and was not kept."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        if self._tried:
            await self._keeper.release(self._key, self._token, unshared=unshared)
