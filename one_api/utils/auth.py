"""``verify_api_key``: who may call."""

import hashlib
import hmac
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from flask import Flask, current_app, g, request

from one_api.errors import Unauthorized
from one_api.schema import Caller
from one_api.serving.bridge import async_to_sync
from one_api.settings import KeyConfig, key_names
from one_api.telemetry import current_call

_EXTENSION = "one_api_keys"


class KeyRing:
    """The keys that clients may use, as SHA-256 digests."""

    def __init__(self, keys: tuple[KeyConfig, ...]) -> None:
        digests = [hashlib.sha256(entry.key.reveal().encode()).digest() for entry in keys]
        self._callers = [(digest, Caller(name)) for digest, name in zip(digests, key_names(keys), strict=True)]

    @property
    def names(self) -> list[str]:
        """Return what the keys are called."""
        return [caller.name for _, caller in self._callers]

    def init_app(self, app: Flask) -> None:
        """Guard ``app`` with these keys."""
        app.extensions[_EXTENSION] = self

    def caller(self, key: str) -> Caller | None:
        """Return whose key this is. Every digest is compared, each in constant time."""
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller that an ``Authorization`` header names; raises Unauthorized."""
        if not self._callers:
            raise Unauthorized("This gateway has no API key yet: set API_KEYS in its environment, and restart it.")
        if not authorization:
            raise Unauthorized("No API key: send it in the header `Authorization: Bearer YOUR_KEY`.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("The Authorization header is not `Bearer YOUR_KEY`.")
        caller = self.caller(key.strip())
        if caller is None:
            raise Unauthorized("This API key is not known here: use one that this gateway's operator gave out.")
        return caller


def verify_api_key(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only known keys through; ``g.caller`` says whose it was."""

    run = async_to_sync(view) if iscoroutinefunction(view) else view

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        ring: KeyRing = current_app.extensions[_EXTENSION]
        g.caller = caller = ring.authenticate(request.headers.get("Authorization"))
        if (record := current_call.get()) is not None:
            record.caller = caller.name
        return run(*args, **kwargs)

    return guarded
