"""The gateway's windows as a storage and a strategy of the ``limits`` library, on which Flask-Limiter stands.

The schemes ``one-api+memory``, ``one-api+file`` and ``one-api+redis`` name them. Other than the library's own storages
they are exact among processes, never block the event loop, and hold tokens and requests at a time beside requests.
"""

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limits.storage import MovingWindowSupport, Storage
from limits.strategies import STRATEGIES, MovingWindowRateLimiter

from one_api.limits.shared import SharedStore
from one_api.limits.stores import LimitStore, MemoryStore, Ticket
from one_api.limits.window import Limits, Verdict
from one_api.serving.bridge import await_

#: Stands before the schemes of the gateway's storages, which the library's own have without it.
SCHEME = "one-api+"
#: The scope of the limits of keys: their windows go on when a limit changes.
SCOPE = "key"
#: The strategy's name in ``limits.strategies.STRATEGIES``.
STRATEGY = "one-api-moving-window"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a storage needs to know of its process."""

    #: Where the file of processes that share is, or else ``spare``; processes of one scope share.
    folder: Path = Path()
    scope: str = ""
    spare: Path | None = None
    #: Returns how many processes share.
    processes: Callable[[], int] = lambda: 1
    #: How long one trip to Redis may take, in seconds.
    call_s: float = 0.05


def open_store(uri: str, around: Surroundings) -> LimitStore:
    """Return the windows at a storage's address."""
    address = uri.removeprefix(SCHEME)
    match address.partition(":")[0]:
        case "memory":
            return MemoryStore()
        case "file":
            return SharedStore(around.folder, around.scope, around.spare, around.processes)
    # Only here, so that a gateway without Redis imports nothing of its client.
    from one_api.limits.redis import RedisStore

    return RedisStore(address, around.processes, around.call_s)


class WindowStorage(Storage, MovingWindowSupport):
    """A storage of the ``limits`` library: the synchronous face of a ``LimitStore``.

    It never raises: without its file or Redis it counts in the process.
    """

    STORAGE_SCHEME = [SCHEME + each for each in ("memory", "file", "redis", "rediss", "unix")]  # noqa: RUF012

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        around: Surroundings | None = None,
        **_: float | str | bool,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self.uri = uri or f"{SCHEME}memory:"
        self.store = open_store(self.uri, around or Surroundings())

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return what it raises, which it does not."""
        return OSError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` requests if that keeps the limit; return whether."""
        return await_(self.store.hit(window_of(key), limit, expiry, amount))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the window began, in Unix seconds, and how many requests count in it."""
        stats = await_(self.store.stats(window_of(key), expiry))
        return time.time() + stats.oldest_leaves_s - (expiry if stats.used else 0), stats.used

    def check(self) -> bool:
        """Return whether counts are as exact as they should be."""
        return self.store.degraded is None

    def clear(self, key: str) -> None:
        """Forget what a key has used."""
        await_(self.store.clear(window_of(key)))

    def reset(self) -> int | None:
        """Cannot forget all keys at once: other processes and machines may share them."""
        raise NotImplementedError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not kept: they let in twice the limit at their edge."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """See ``incr``."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """See ``incr``."""
        raise NotImplementedError


class KeyWindows(MovingWindowRateLimiter):
    """Moving windows, and in the same step tokens and requests at a time, which the library does not have."""

    storage: WindowStorage

    def take(self, key: str, limits: Limits, tokens: int, lease: int) -> Coroutine[Any, Any, tuple[Verdict, Ticket]]:
        """See ``LimitStore``."""
        return self.storage.store.take(key, limits, tokens, lease)

    def settle(self, ticket: Ticket, tokens: int) -> Coroutine[Any, Any, None]:
        """See ``LimitStore``."""
        return self.storage.store.settle(ticket, tokens)

    def renew(self, tickets: Sequence[Ticket]) -> Coroutine[Any, Any, None]:
        """See ``LimitStore``."""
        return self.storage.store.renew(tickets)


STRATEGIES[STRATEGY] = KeyWindows


def window_of(key: str) -> str:
    """Return the name of a window: of the library's keys, NAMESPACE/IDENTIFIERS/AMOUNT/MULTIPLES/PERIOD, the whole.

    That of a key of the gateway is its name alone, so that it goes on when the limit changes, and is the same for all
    routes.
    """
    identifiers = key.rsplit("/", 3)[0]
    name = identifiers.partition("/")[2].removesuffix(f"/{SCOPE}")
    return name if identifiers.endswith(f"/{SCOPE}") else key
