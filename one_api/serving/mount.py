"""The path below which a proxy, or the server, has put the gateway."""

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from one_api.serving.host import name_in
from one_api.settings.origins import is_within

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Mount:
    """Where the gateway's own paths begin: configured, said by the server, or by a proxy that is trusted.

    Requests may come with or without the prefix, so that proxies may keep or strip it, and probes may go round them.
    """

    def __init__(self, root_path: str = "", trusted_proxies: Iterable[str] = ()) -> None:
        """``trusted_proxies`` are addresses or networks; of others no ``X-Forwarded-*`` header is read."""
        self._root_path = root_path.rstrip("/")
        self._proxies = [ipaddress.ip_network(each, strict=False) for each in trusted_proxies]

    def apply(self, environ: "WSGIEnvironment") -> None:
        """Move the prefix of a request from ``PATH_INFO`` to ``SCRIPT_NAME``."""
        prefix = environ.get("SCRIPT_NAME", "").rstrip("/") or self._root_path
        if self._proxies and is_within(environ.get("REMOTE_ADDR"), self._proxies):
            prefix = _read_forwarded(environ) or prefix
        if not prefix:
            return
        path = environ.get("PATH_INFO", "")
        if path == prefix or path.startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        environ["SCRIPT_NAME"] = prefix


def _read_forwarded(environ: "WSGIEnvironment") -> str:
    """Take the client's scheme and host over from a trusted proxy, and return the prefix that it names, if any."""
    scheme, host = _last(environ, "PROTO").lower(), _last(environ, "HOST")
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme
    if name_in(host) is not None:
        environ["HTTP_HOST"] = host
    prefix = _last(environ, "PREFIX").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) else ""


def _last(environ: "WSGIEnvironment", name: str) -> str:
    """Return what the nearest proxy has said: the last entry of a list."""
    return str(environ.get(f"HTTP_X_FORWARDED_{name}", "")).rpartition(",")[2].strip()
