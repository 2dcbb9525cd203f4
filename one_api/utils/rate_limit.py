"""``check_rate_limit``: how much a key may ask for, for routes.

Here are the decorators of routes, the headers and the words of a refusal. ``utils.limiter`` is Flask-Limiter, set up
for the gateway; the exact counts, and where they are kept, are in ``limits``.
"""

import asyncio
import random
import time
from dataclasses import asdict
from functools import wraps
from typing import Any

from flask import g, request
from flask_limiter import RateLimitExceeded

from one_api.config import Config
from one_api.contract import Caller
from one_api.dialects import durations
from one_api.errors import RateLimited
from one_api.limits.stores import Stats, Ticket
from one_api.limits.window import LEASE_S, UNLIMITED, WINDOW_S, Limits, Verdict
from one_api.records import CallRecord
from one_api.serving.bridge import await_
from one_api.serving.current import current_globals
from one_api.serving.tasks import stop
from one_api.settings.sections import RateLimitConfig
from one_api.utils.guards import View, guarded
from one_api.utils.limiter import KeyLimiter

#: Bytes per token, for an estimate before the tokens are counted.
_BYTES_PER_TOKEN = 4

#: How often the store is looked after, in seconds.
_LOOK_S = 0.5

#: Requests a minute that only count tokens: for each request that a key may send, and at least.
_COUNTS_PER_REQUEST, _MIN_COUNTS = 20, 50

#: What a caller has that is limited as all are.
_NONE_OF_ITS_OWN = (None, None, None)

#: The longest wait in an answer, in seconds: official clients ignore a longer one, and come back at once. A window ends
#: up to a second after its minute, so a client that has waited this long may have to wait for one second more.
_MAX_WAIT_S = 60.0
_REFUSALS = {
    "requests": "{limit} requests per minute",
    "tokens": "{limit} tokens per minute",
    "concurrent": "{limit} requests at a time",
}


class RateLimits:
    """Requests and tokens per minute, and requests at a time, for each key.

    Those of a later configuration count on with the same ``limiter`` and ``open_tickets``.
    """

    def __init__(self, config: RateLimitConfig, limiter: KeyLimiter, open_tickets: "OpenTickets") -> None:
        self.enabled = config.enabled and limiter.enabled
        self._default = Limits(config.requests_per_minute, config.tokens_per_minute, config.concurrent)
        self.limiter = limiter
        self.open_tickets = open_tickets

    @property
    def degraded(self) -> str | None:
        """Return why limits are less exact than they should be."""
        return self.limiter.storage.store.degraded

    def of(self, caller: Caller) -> Limits:
        """Return the limits of a caller: its own, and for the rest those that are configured for all."""
        default, own = self._default, (caller.requests_per_minute, caller.tokens_per_minute, caller.concurrent)
        if own == _NONE_OF_ITS_OWN:
            return default
        requests, tokens, concurrent = own
        return Limits(
            default.requests_per_minute if requests is None else requests or UNLIMITED,
            default.tokens_per_minute if tokens is None else tokens or None,
            default.concurrent if concurrent is None else concurrent or None,
        )

    def settings_of(self, caller: Caller) -> dict[str, int | None]:
        """Return the limits of a caller by their names in the configuration; None is no limit."""
        limits = self.of(caller) if self.enabled else Limits(UNLIMITED)
        return asdict(limits) | {"requests_per_minute": _or_none(limits.requests_per_minute)}

    async def admit(self, caller: Caller, request_id: str, size_bytes: int) -> dict[str, str]:
        """Count a request with a body of ``size_bytes``; returns the headers with what is left.

        Raises:
            RateLimited: when one of the limits is reached; says which, and when to come back.
        """
        limits = self.of(caller)
        tokens = size_bytes // _BYTES_PER_TOKEN if limits.tokens_per_minute is not None else 0
        verdict, ticket = await self.limiter.limiter.take(caller.name, limits, tokens, random.getrandbits(63) | 1)
        headers = _headers(limits, verdict)
        if verdict.refused_by is not None:
            g.limit_headers = headers
            raise _refusal(limits, verdict)
        if limits.tokens_per_minute is not None or limits.concurrent is not None:
            self.open_tickets.by_request[request_id] = ticket  # its end changes something
        return headers

    async def admit_count(self, caller: Caller) -> None:
        """Count a request that only counts tokens, which takes nothing of the caller's requests; raises RateLimited."""
        limit = max(_MIN_COUNTS, _COUNTS_PER_REQUEST * self.of(caller).requests_per_minute)
        if not await self.limiter.storage.store.hit(f"{caller.name}: counts of tokens", limit, WINDOW_S, 1):
            message = f"Rate limit reached for this key: {limit} counts of tokens per minute. Try again later."
            raise RateLimited(message, retry_after_s=WINDOW_S, limit="requests")

    async def seen(self, caller: Caller) -> dict[str, str]:
        """Return the headers with what is left of a key's requests."""
        limits = self.of(caller)
        return _headers(limits, _verdict(limits, await self.limiter.storage.store.stats(caller.name, WINDOW_S)))

    async def refused(self, caller: Caller) -> RateLimited:
        """Return the refusal of a request for which none was left."""
        limits = self.of(caller)
        verdict = _verdict(limits, await self.limiter.storage.store.stats(caller.name, WINDOW_S))
        g.limit_headers = _headers(limits, verdict)
        return _refusal(limits, verdict)

    async def settle(self, record: CallRecord) -> None:
        """End what was counted for a request: estimated tokens become those that it used, as far as is known."""
        ticket = self.open_tickets.by_request.pop(record.request_id, None)
        if ticket is None:
            return
        if record.free:
            tokens = 0  # also when its client has left and no more is known
        elif record.usage is not None:
            tokens = record.usage.prompt_tokens + record.usage.completion_tokens
        else:
            # An error before any answer used nothing; an answer that was cut is taken as estimated.
            tokens = ticket.tokens if record.first_event is not None or record.status == 499 else 0
        await self.limiter.limiter.settle(ticket, tokens)

    async def start(self) -> None:
        """Begin to look after the store, and to keep the leases of long requests alive."""
        if self.enabled:
            self.open_tickets.start()

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await self.open_tickets.aclose()


class OpenTickets:
    """What is counted for the requests under way; as long as the process."""

    def __init__(self, limiter: KeyLimiter) -> None:
        self._limiter = limiter
        #: By the ids of requests.
        self.by_request: dict[str, Ticket] = {}
        self._looking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the store, and to keep leases alive; may be called again."""
        loop = asyncio.get_running_loop()
        if self._looking is None:
            self._looking = loop.create_task(self._keep_looking())
        if self._renewing is None:
            self._renewing = loop.create_task(self._keep_renewing())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._limiter.storage.store.look_after()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            if leased := [ticket for ticket in self.by_request.values() if ticket.leased]:
                await self._limiter.limiter.renew(leased)

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await stop(self._looking, self._renewing)
        self._looking = self._renewing = None
        if self._limiter.initialized:
            await self._limiter.storage.store.aclose()


def build_limits(config: Config, limiter: KeyLimiter, before: RateLimits | None = None) -> RateLimits:
    """Return the limits of a configuration; ``before`` are those of the one before this, whose open tickets stay."""
    return RateLimits(config.rate_limit, limiter, before.open_tickets if before is not None else OpenTickets(limiter))


def _verdict(limits: Limits, stats: Stats) -> Verdict:
    left = max(0, limits.requests_per_minute - stats.used)
    return Verdict("requests", stats.oldest_leaves_s, left, stats.all_leave_s)


def _headers(limits: Limits, verdict: Verdict) -> dict[str, str]:
    """Return the headers of the limits that there are."""
    headers = {}
    if limits.requests_per_minute != UNLIMITED:
        headers = {
            "x-ratelimit-limit-requests": str(limits.requests_per_minute),
            "x-ratelimit-remaining-requests": str(verdict.remaining_requests),
            "x-ratelimit-reset-requests": durations.write(verdict.reset_requests_s),
        }
    if verdict.remaining_tokens is not None:
        headers |= {
            "x-ratelimit-limit-tokens": str(limits.tokens_per_minute),
            "x-ratelimit-remaining-tokens": str(verdict.remaining_tokens),
            "x-ratelimit-reset-tokens": durations.write(verdict.reset_tokens_s),
        }
    return headers


def _refusal(limits: Limits, verdict: Verdict) -> RateLimited:
    kind = verdict.refused_by or "requests"
    limit = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
    }[kind]
    wait_s = min(max(1.0, verdict.retry_after_s), _MAX_WAIT_S)
    return RateLimited(
        f"Rate limit reached for this key: {_REFUSALS[kind].format(limit=limit)}. "
        f"Try again in {durations.write(wait_s)}.",
        type="tokens" if kind == "tokens" else "requests",
        retry_after_s=wait_s,
        limit=kind,
    )


def _or_none(requests: int) -> int | None:
    return None if requests == UNLIMITED else requests


def check_rate_limit(view: View) -> View:
    """Let a caller through as often as its limits allow; goes below ``verify_api_key``.

    It asks Flask-Limiter's strategy itself, which costs a tenth of what Flask-Limiter needs for a request.
    """
    return guarded(view, _count_request)


def _count_request() -> None:
    known = current_globals()
    limits: RateLimits = known.snapshot.limits
    if not limits.enabled:
        return
    # The body is read for its size only where tokens count, and not before the caller is known.
    # A form with files says nothing of tokens by its size.
    counts = limits.of(known.caller).tokens_per_minute is not None and request.mimetype != "multipart/form-data"
    size = len(request.get_data()) if counts else 0
    record: CallRecord = known.call
    asked = time.monotonic()
    try:
        known.limit_headers = await_(limits.admit(known.caller, record.request_id, size))
    finally:
        record.waited_s += time.monotonic() - asked


def limit_counts(view: View) -> View:
    """Let a caller have tokens counted: clients ask for many counts at once, beside their requests.

    Goes below ``verify_api_key``.
    """
    return guarded(view, _count_of_tokens)


def _count_of_tokens() -> None:
    limits: RateLimits = g.snapshot.limits
    if limits.enabled:
        await_(limits.admit_count(g.caller))


def limit_requests(view: View) -> View:
    """Let a caller through as often as its requests per minute allow, by Flask-Limiter's own decorator.

    For routes that use no model: they count with the others, and need no place among the requests at a time. Goes
    below ``verify_api_key``.
    """
    counted = guarded(view, _show_what_is_left)

    @wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        limits: RateLimits = g.snapshot.limits
        return limits.limiter.limited(counted)(*args, **kwargs)

    return limited


def _show_what_is_left() -> None:
    limits: RateLimits = g.snapshot.limits
    if limits.enabled:
        g.limit_headers = await_(limits.seen(g.caller))


def refusal_of(error: RateLimitExceeded) -> RateLimited:
    """Return the answer to a request that Flask-Limiter has refused."""
    limits: RateLimits = g.snapshot.limits
    if limits.limiter.is_limit_of_keys(error):
        return await_(limits.refused(g.caller))
    retry_after_s = limits.limiter.retry_after_s()
    return RateLimited(
        f"Rate limit reached: {error.description}. Try again in {durations.write(retry_after_s)}.",
        type="requests",
        retry_after_s=retry_after_s,
        limit="requests",
    )
