"""``verify_api_key``: who may call."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import urlsplit

from flask import g, request
from werkzeug.datastructures import Headers

from one_api.contract import Caller
from one_api.errors import Forbidden, Unauthorized
from one_api.observability.records import current_call
from one_api.serving.bridge import async_to_sync
from one_api.settings.sections import KeyConfig, key_names

#: Headers that a proxy on this machine adds to what comes from elsewhere.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
#: Where a key may stand, beside ``Authorization``.
KEY_HEADERS = ("x-api-key", "api-key")


class KeyRing:
    """The keys that clients may use, as SHA-256 digests."""

    def __init__(self, keys: tuple[KeyConfig, ...]) -> None:
        digests = [hashlib.sha256(entry.key.reveal().encode()).digest() for entry in keys]
        self._callers = [(digest, Caller(name)) for digest, name in zip(digests, key_names(keys), strict=True)]

    @property
    def names(self) -> list[str]:
        """Return what the keys are called."""
        return [caller.name for _, caller in self._callers]

    def caller(self, key: str) -> Caller | None:
        """Return whose key this is. Every digest is compared, each in constant time."""
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def authenticate(self, headers: Headers | dict[str, str]) -> Caller:
        """Return the caller that the headers of a request name; raises Unauthorized.

        The key is read from ``Authorization``, ``x-api-key`` (Anthropic's clients) and ``api-key`` (Azure's). Headers
        that are empty count as not sent; of several keys all must be the same, and no header is sent twice.
        """
        if not self._callers:
            raise Unauthorized("This gateway has no API key yet: set API_KEYS in its environment, and restart it.")
        authorization = headers.get("Authorization", "").strip()
        scheme, _, bearer = authorization.partition(" ")
        if authorization and scheme.lower() != "bearer":
            raise _not_a_bearer()
        given = {bearer.strip(), *(headers.get(name, "").strip() for name in KEY_HEADERS)} - {""}
        if not given:
            if authorization:
                raise _not_a_bearer()
            raise Unauthorized("No API key: send it in the header `Authorization: Bearer YOUR_KEY`.")
        if len(given) > 1:
            raise Unauthorized(
                "The headers hold different API keys: send one, in `Authorization: Bearer YOUR_KEY`, and remove "
                f"{' and '.join(f'`{name}`' for name in KEY_HEADERS)}."
            )
        caller = self.caller(given.pop())
        if caller is None:
            raise Unauthorized("This API key is not known here: use one that this gateway's operator gave out.")
        return caller


def _not_a_bearer() -> Unauthorized:
    return Unauthorized("The Authorization header is not `Bearer YOUR_KEY`.")


def verify_api_key(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only known keys through; ``g.caller`` says whose it was."""

    run = async_to_sync(view) if iscoroutinefunction(view) else view

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        authenticate()
        return run(*args, **kwargs)

    return guarded


def authenticate() -> None:
    """Set ``g.caller`` to the caller of the current request; raises Unauthorized."""
    ring: KeyRing = g.snapshot.keys
    g.caller = caller = ring.authenticate(request.headers)
    if (record := current_call.get()) is not None:
        record.caller = caller.name


def for_the_operator(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only the operator's key through, from a process of this machine, and nobody behind a proxy."""

    run = async_to_sync(view) if iscoroutinefunction(view) else view

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        authenticate_operator()
        return run(*args, **kwargs)

    return guarded


def authenticate_operator() -> None:
    """Set ``g.caller`` to the operator; raises Forbidden, or Unauthorized for another key.

    ``Host`` must be one of this machine's own names: a page whose name was made to lead here sends its own.
    """
    if not is_from_this_machine() or not _is_own_name(request.headers.get("Host", "")):
        raise Forbidden("This address answers on the gateway's own machine only.")
    ring: KeyRing = g.snapshot.admin
    if not ring.names:
        raise Forbidden("This address is closed: set ADMIN_KEY in the gateway's environment, and reload or restart it.")
    try:
        g.caller = caller = ring.authenticate(request.headers)
    except Unauthorized as error:
        raise Unauthorized(f"This address is for the operator's key, ADMIN_KEY. {error.message}") from None
    if (record := current_call.get()) is not None:
        record.caller = caller.name


def _is_own_name(host: str) -> bool:
    """Say whether a ``Host`` header names this machine by itself: a loopback address, or localhost."""
    name = urlsplit(f"//{host}").hostname if _HOST.fullmatch(host) else None
    return name is not None and (name == "localhost" or _is_loopback(name))


def is_from_this_machine() -> bool:
    """Say whether the current request comes from a process of this machine, and not through a proxy."""
    return _is_loopback(request.remote_addr) and not any(name in request.headers for name in _FORWARDED)


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False
