"""The keys whose answers this process is asking upstreams for: identical requests wait until these are kept, or not."""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress


class PendingKeys:
    """The keys that requests of this process have claimed, each with the event of its release."""

    def __init__(self) -> None:
        self._released: dict[bytes, asyncio.Event] = {}

    def __len__(self) -> int:
        """Return how many keys are claimed now."""
        return len(self._released)

    def claim(self, keys: Iterable[bytes]) -> "Claim":
        """Claim those of ``keys`` that no other request has claimed, for a request that asks for all of them."""
        return Claim(self._released, keys)

    async def wait(self, keys: Collection[bytes], limit_s: float) -> bool:
        """Wait for the requests that have claimed these keys; False, at once, when one of the keys is not claimed."""
        if not all(key in self._released for key in keys):
            return False
        releases = {self._released[key] for key in keys}
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for released in releases:
                    await released.wait()
        return True


class Claim:
    """The keys that one request asks upstreams for."""

    def __init__(self, released: dict[bytes, asyncio.Event], keys: Iterable[bytes]) -> None:
        self._all = released
        self._released = asyncio.Event()
        self._keys = {key for key in keys if key not in released}
        released.update(dict.fromkeys(self._keys, self._released))

    def release(self) -> None:
        """Let the others look for the answers: they are kept, or will not be. A second time does nothing."""
        self._released.set()
        while self._keys:
            del self._all[self._keys.pop()]
