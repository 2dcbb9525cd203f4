"""``check_rate_limit``: how much a key may ask for."""

import asyncio
import getpass
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from flask import g, request

from one_api.config import Config
from one_api.errors import RateLimited
from one_api.limits.handover import copy_windows
from one_api.limits.stores import Layout, LimitStore, MemoryStore, SharedStore, Ticket
from one_api.limits.window import LEASE_S, Limits, Verdict
from one_api.observability.records import CallRecord
from one_api.serving.bridge import async_to_sync, await_
from one_api.serving.gunicorn import runs_under_gunicorn
from one_api.settings.sections import RateLimitConfig

#: Characters per token, for the estimate of what nobody has counted yet.
_BYTES_PER_TOKEN = 4

#: How often the store is looked after, in seconds.
_LOOK_S = 0.5

_REFUSALS = {
    "requests": "{limit} requests per minute",
    "tokens": "{limit} tokens per minute",
    "concurrent": "{limit} requests at a time",
}


class RateLimits:
    """Requests and tokens per minute, and requests at a time, for each key.

    Those of a later configuration count on in the same ``books``, from ``take_over`` on.
    """

    def __init__(self, config: RateLimitConfig, store: "LimitStore | Place", books: "Books | None" = None) -> None:
        """``store`` alone has room for any key."""
        self.enabled = config.enabled
        self.limits = Limits(config.requests_per_minute, config.tokens_per_minute, config.concurrent)
        self.place = Place(store) if isinstance(store, LimitStore) else store
        self.books = books or Books(self.place)
        #: Does the end of a request change anything?
        self._settles = config.tokens_per_minute is not None or config.concurrent is not None

    @property
    def degraded(self) -> str | None:
        """Say why limits are less exact than they should be."""
        return self.books.place.store.degraded

    async def take_over(self) -> None:
        """Count in this place from now on; what the one before has counted goes with it."""
        old, self.books.place = self.books.place, self.place
        if old.store is not self.place.store:
            await copy_windows(
                old.store, self.place.store, (old.keys or frozenset()) & (self.place.keys or frozenset())
            )
            await old.store.aclose()

    async def admit(self, caller: str, request_id: str, size_bytes: int) -> dict[str, str]:
        """Count a request with a body of ``size_bytes``; returns the headers that tell what is left.

        Raises:
            RateLimited: when one of the limits is reached; says which, and when to come back.
        """
        if not self.books.place.has(caller):
            return {}  # the key went away while its last request arrived
        tokens = size_bytes // _BYTES_PER_TOKEN if self.limits.tokens_per_minute is not None else 0
        verdict, ticket = await self.books.place.store.take(caller, self.limits, tokens, random.getrandbits(63) | 1)
        if verdict.refused_by is None and self._settles:
            self.books.tickets[request_id] = ticket
        headers = self._headers(verdict)
        if verdict.refused_by is not None:
            g.limit_headers = headers
            raise self._refusal(verdict)
        return headers

    def _headers(self, verdict: Verdict) -> dict[str, str]:
        headers = {
            "x-ratelimit-limit-requests": str(self.limits.requests_per_minute),
            "x-ratelimit-remaining-requests": str(verdict.remaining_requests),
            "x-ratelimit-reset-requests": duration(verdict.reset_requests_s),
        }
        if verdict.remaining_tokens is not None:
            headers |= {
                "x-ratelimit-limit-tokens": str(self.limits.tokens_per_minute),
                "x-ratelimit-remaining-tokens": str(verdict.remaining_tokens),
                "x-ratelimit-reset-tokens": duration(verdict.reset_tokens_s),
            }
        return headers

    def _refusal(self, verdict: Verdict) -> RateLimited:
        kind = verdict.refused_by or "requests"
        limit = {
            "requests": self.limits.requests_per_minute,
            "tokens": self.limits.tokens_per_minute,
            "concurrent": self.limits.concurrent,
        }[kind]
        return RateLimited(
            f"Rate limit reached for this key: {_REFUSALS[kind].format(limit=limit)}. "
            f"Try again in {duration(verdict.retry_after_s)}.",
            type="tokens" if kind == "tokens" else "requests",
            retry_after_s=max(1.0, verdict.retry_after_s),
        )

    async def settle(self, record: CallRecord) -> None:
        """End what was counted for a request: estimated tokens become those that it used, as far as is known."""
        ticket = self.books.tickets.pop(record.request_id, None)
        if ticket is None or not self.books.place.has(ticket.key):
            return
        if record.free:
            tokens = 0  # also when its client has left and nobody knows more
        elif record.usage is not None:
            tokens = record.usage.prompt_tokens + record.usage.completion_tokens
        else:
            # An error before any answer used nothing; an answer that was cut is taken as estimated.
            tokens = ticket.tokens if record.first_event is not None or record.status == 499 else 0
        await self.books.place.store.settle(ticket, tokens)

    async def start(self) -> None:
        """Begin to look after the store, and to keep the leases of long requests alive."""
        if self.enabled:
            self.books.start(renews=self.limits.concurrent is not None)

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await self.books.aclose()


@dataclass(frozen=True, slots=True)
class Place:
    """Where limits are counted: a store, what it was made for, and the names of the keys that it counts for."""

    store: LimitStore
    made_for: object = None
    #: None is all keys.
    keys: frozenset[str] | None = None

    def has(self, key: str) -> bool:
        """Say whether this key is counted for."""
        return self.keys is None or key in self.keys


class Books:
    """What is counted for the requests under way; as long as the process."""

    def __init__(self, place: Place) -> None:
        self.place = place
        #: By the ids of requests.
        self.tickets: dict[str, Ticket] = {}
        self._looking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    def start(self, *, renews: bool) -> None:
        """Begin to look after the store, and to keep leases alive if there are any; may be called again."""
        loop = asyncio.get_running_loop()
        if self._looking is None:
            self._looking = loop.create_task(self._keep_looking())
        if renews and self._renewing is None:
            self._renewing = loop.create_task(self._keep_renewing())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.place.store.look_after()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await self.place.store.renew([each for each in self.tickets.values() if self.place.has(each.key)])

    async def aclose(self) -> None:
        """Stop, and close the store."""
        tasks = [task for task in (self._looking, self._renewing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looking = self._renewing = None
        await self.place.store.aclose()


def build_limits(
    config: Config,
    names: list[str],
    folder: Path,
    processes: Callable[[], int] | None = None,
    before: RateLimits | None = None,
) -> RateLimits:
    """Return the limits of the keys called ``names``; a file that processes share lies in ``folder``.

    ``processes`` returns how many there are now; by default as many as are configured. ``before`` are those of the
    configuration before this one, whose books go on.
    """
    made_for, keys = _made_for(config, names), frozenset(names)
    if before is not None and before.place.made_for == made_for:
        store = before.place.store
    else:
        store = _store(config, names, folder, processes)
    place = Place(store, made_for, keys)
    return RateLimits(config.rate_limit, place, before.books if before is not None else None)


def _kind(config: Config) -> str:
    """Return which kind of store is to be used: memory, shared, or the address of a Redis."""
    storage: str = config.rate_limit.storage
    if storage == "auto":
        # Under gunicorn there may be more processes at any time, whatever was configured (-w, TTIN, a replacement).
        storage = "shared" if config.server.workers > 1 or runs_under_gunicorn() else "memory"
    return storage if config.rate_limit.enabled else "memory"


def _layout(config: Config, names: list[str]) -> Layout:
    settings = config.rate_limit
    return Layout(tuple(names), settings.concurrent or 0, settings.tokens_per_minute is not None)


def _made_for(config: Config, names: list[str]) -> object:
    """Return what a store is made for: a shared file has room for certain keys, the others for any."""
    kind = _kind(config)
    return (kind, _layout(config, names)) if kind == "shared" else kind


def _store(config: Config, names: list[str], folder: Path, processes: Callable[[], int] | None) -> LimitStore:
    def count() -> int:
        """Return how many share the limits: a process that has just begun is not there yet for others to count."""
        return max(config.server.workers, processes() if processes is not None else 1)

    kind = _kind(config)
    if kind == "memory":
        return MemoryStore()
    if kind == "shared":
        # Where the folder cannot be written, the user's own corner of the temporary one.
        spare = Path(tempfile.gettempdir()) / f"one_api-{getpass.getuser()}"
        return SharedStore(folder, str(config.server.port), _layout(config, names), spare, count)
    # Only here, so that a gateway without Redis imports nothing of its client.
    from one_api.limits.redis import RedisStore

    return RedisStore(kind, count, config.rate_limit.storage_timeout_s)


def duration(seconds: float) -> str:
    """Return a time span the way OpenAI writes it: 120ms, 1s, 6m0s."""
    if (thousandths := round(seconds * 1000)) < 1000:
        return f"{thousandths}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def check_rate_limit(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let a caller through as often as its limits allow; goes below ``verify_api_key``."""

    run = async_to_sync(view) if iscoroutinefunction(view) else view

    @wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        limits: RateLimits = g.snapshot.limits
        if limits.enabled:
            # The body is read for its size only where tokens count, and not before the caller is known.
            size = len(request.get_data()) if limits.limits.tokens_per_minute is not None else 0
            g.limit_headers = await_(limits.admit(g.caller.name, g.call.request_id, size))
        return run(*args, **kwargs)

    return limited
