"""``check_rate_limit``: how often a key may call."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, current_app, g
from flask_limiter import Limiter
from limits import RateLimitItemPerMinute

from one_api.config import RateLimitConfig
from one_api.errors import RateLimited

_EXTENSION = "one_api_limits"


class _OnDemand(Limiter):
    """Flask-Limiter, asked by our decorator only: its own look at every request costs a fifth of a small one."""

    def _check_request_limit(self, *_: Any, **__: Any) -> None:
        """Do nothing: the routes that have a limit say so."""


class RateLimits:
    """Requests per key in a sliding minute, kept by Flask-Limiter."""

    def __init__(self, config: RateLimitConfig) -> None:
        self._enabled = config.enabled
        self._per_minute = config.requests_per_minute
        self._item = RateLimitItemPerMinute(config.requests_per_minute)
        uri = "memory://" if config.storage == "memory" else config.storage
        self._limiter = _OnDemand(
            key_func=lambda: str(g.caller.name),
            storage_uri=uri,
            strategy="sliding-window-counter",
            enabled=config.enabled,
        )

    def init_app(self, app: Flask) -> None:
        """Limit the requests of ``app``."""
        self._limiter.init_app(app)
        app.extensions[_EXTENSION] = self

    def admit(self, caller: str) -> dict[str, str]:
        """Count one request; returns the headers that tell what is left.

        Raises:
            RateLimited: when none is left, with the time after which there is one.
        """
        if not self._enabled:
            return {}
        admitted = self._limiter.limiter.hit(self._item, caller)
        window = self._limiter.limiter.get_window_stats(self._item, caller)
        reset_s = max(0.0, window.reset_time - time.time())
        headers = {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(max(0, window.remaining)),
            "x-ratelimit-reset-requests": duration(reset_s),
        }
        if not admitted:
            g.limit_headers = headers
            raise RateLimited(
                f"Rate limit reached: {self._per_minute} requests per minute for this key. "
                f"Try again in {max(1, round(reset_s))} s.",
                retry_after_s=max(1.0, reset_s),
            )
        return headers


def duration(seconds: float) -> str:
    """Return a time span the way OpenAI writes it: 120ms, 1s, 6m0s."""
    if (thousandths := round(seconds * 1000)) < 1000:
        return f"{thousandths}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def check_rate_limit(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let a caller through as often as its limit allows; goes below ``verify_api_key``."""

    @wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        limits: RateLimits = current_app.extensions[_EXTENSION]
        g.limit_headers = limits.admit(g.caller.name)
        return current_app.ensure_sync(view)(*args, **kwargs)

    return limited
