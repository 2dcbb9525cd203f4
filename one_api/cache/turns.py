"""What requests of this process are asking upstreams for; identical ones wait until it is kept, or will not be."""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress


class Turns:
    """The keys that are asked for now, each with what is set at its end."""

    def __init__(self) -> None:
        self._ends: dict[bytes, asyncio.Event] = {}

    def __len__(self) -> int:
        """Return how many keys are asked for now."""
        return len(self._ends)

    def begin(self, keys: Iterable[bytes]) -> "Turn":
        """Return the turn of a request that asks for what nobody else is asking for among ``keys``."""
        return Turn(self._ends, keys)

    async def wait(self, keys: Collection[bytes], limit_s: float) -> bool:
        """Wait for other requests that ask for all of these; False, at once, when nobody asks for some of them."""
        if not all(key in self._ends for key in keys):
            return False
        ends = {self._ends[key] for key in keys}
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for end in ends:
                    await end.wait()
        return True


class Turn:
    """What one request asks for."""

    def __init__(self, ends: dict[bytes, asyncio.Event], keys: Iterable[bytes]) -> None:
        self._ends = ends
        self._end = asyncio.Event()
        self._keys = {key for key in keys if key not in ends}
        ends.update(dict.fromkeys(self._keys, self._end))

    def end(self) -> None:
        """Let the others look for the answer: it is kept, or it will not be. Again is harmless."""
        self._end.set()
        while self._keys:
            del self._ends[self._keys.pop()]
