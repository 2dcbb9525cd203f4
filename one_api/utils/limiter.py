"""Flask-Limiter, with the gateway's windows as its storage: one limiter for each application.

``limits.storage`` has the storage and the strategy that it stands on; ``utils.rate_limit`` is what routes use of it.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from flask import Flask, g, request
from flask_limiter import Limiter, RateLimitExceeded

from one_api.config import Config, ConfigError
from one_api.errors import Unauthorized
from one_api.limits.storage import SCHEME, SCOPE, STRATEGY, KeyWindows, Surroundings, WindowStorage
from one_api.serving.gunicorn import runs_under_gunicorn
from one_api.settings.private_files import user_folder
from one_api.settings.validation import Problem

logger = logging.getLogger(__name__)

#: What Flask-Limiter checks for every request, if it is set; its hooks cost as much as a small request.
_FOR_EVERY_REQUEST = ("RATELIMIT_APPLICATION", "RATELIMIT_DEFAULT", "RATELIMIT_META", "RATELIMIT_HEADERS_ENABLED")


class KeyLimiter(Limiter):
    """Flask-Limiter for callers, by the names of their keys; others count by their address.

    Its configuration keys, ``RATELIMIT_*`` in ``app.config``, mean what its documentation says. What they say of the
    storage goes before ``rate_limit.storage``.
    """

    def __init__(self, app: Flask, config: Config, processes: Callable[[], int]) -> None:
        """``processes`` returns how many share the limits now. Raises ConfigError."""
        self._decorated: dict[Callable[..., Any], Callable[..., Any]] = {}

        def count() -> int:
            """Return how many share the limits: one that has just begun is not there yet for others to count."""
            return max(config.server.workers, processes())

        # Where the folder cannot be written, the user's own corner of the temporary one.
        spare = user_folder()
        folder, timeout_s = Path(app.instance_path), config.rate_limit.storage_timeout_s
        options: Any = {"around": Surroundings(folder, str(config.server.port), spare, count, timeout_s)}
        super().__init__(
            caller_name, storage_uri=_storage_named(app) or _address(config), storage_options=options, strategy=STRATEGY
        )
        if not any(app.config.get(name) for name in _FOR_EVERY_REQUEST):
            # So its hooks are left out; see ``Limiter.init_app``.
            app.extensions.setdefault("limiter", set()).add(self)
        self.init_app(app)

    @cached_property
    def storage(self) -> WindowStorage:
        """Return where counts are kept."""
        return cast(WindowStorage, super().storage)

    @cached_property
    def limiter(self) -> KeyWindows:
        """Return the strategy; the storage sees to what is to be done without its file or Redis."""
        return cast(KeyWindows, super().limiter)

    def limited(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``view`` behind the requests per minute of its caller, which all routes share."""
        found = self._decorated.get(view)
        if found is None:
            shared = self.shared_limit(_limit_of_caller, scope=SCOPE, exempt_when=_are_off)
            found = self._decorated[view] = shared(view)
        return found

    def is_limit_of_keys(self, error: RateLimitExceeded) -> bool:
        """Return whether a request was refused for what its key may ask for."""
        return error.limit.shared and error.limit.scope == SCOPE

    def retry_after_s(self) -> float:
        """Return how long the limit lasts that the current request was refused for, in seconds."""
        current = self.current_limit
        return 1.0 if current is None else max(1.0, current.window.reset_time - time.time())


def caller_name() -> str:
    """Return whom the current request counts for: the name of its key, else its address."""
    caller = g.get("caller")
    with suppress(Unauthorized):
        caller = caller or g.snapshot.keys.authenticate(request.headers)
    return caller.name if caller else f"address:{request.remote_addr}"


def _limit_of_caller() -> str:
    return f"{g.snapshot.limits.of(g.caller).requests_per_minute}/minute"


def _are_off() -> bool:
    return not g.snapshot.limits.enabled


def _address(config: Config) -> str:
    """Return the address of the storage that is configured."""
    storage: str = config.rate_limit.storage
    if storage == "auto":
        # Under gunicorn there may be more processes at any time, whatever was configured (-w, TTIN, a replacement).
        storage = "shared" if config.server.workers > 1 or runs_under_gunicorn() else "memory"
    if storage == "memory":
        return f"{SCHEME}memory:"
    return f"{SCHEME}file:" if storage == "shared" else f"{SCHEME}{storage}"


def _storage_named(app: Flask) -> str | None:
    """Return the storage that Flask-Limiter's own settings name; raises ConfigError for one that cannot be used."""
    strategy = app.config.get("RATELIMIT_STRATEGY") or "moving-window"
    if strategy not in ("moving-window", STRATEGY):
        raise ConfigError(
            (Problem("RATELIMIT_STRATEGY", f"is {strategy!r}", "Leave it out: it is moving-window here"),)
        )
    if app.config.get("RATELIMIT_STORAGE_OPTIONS"):
        logger.warning("RATELIMIT_STORAGE_OPTIONS is not used: the gateway has storages of its own")
    uri = str(app.config.get("RATELIMIT_STORAGE_URI") or "")
    if not uri:
        return None
    uri = uri if uri.startswith(SCHEME) else SCHEME + uri
    if uri.partition(":")[0] not in WindowStorage.STORAGE_SCHEME:
        fix = "Name memory:// or redis://HOST:PORT/DB, or leave it out"
        raise ConfigError((Problem("RATELIMIT_STORAGE_URI", "names a storage that cannot be used here", fix),))
    return uri
