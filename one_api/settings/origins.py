"""Kinds of settings that say where requests may come from: web pages, proxies, and the path they come by."""

from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from one_api.settings.validation import checked


def _check_origin(origin: str) -> tuple[str, str] | None:
    """Return what is wrong with an origin whose host is an IPv6 address."""
    try:
        urlsplit(origin)  # checks what stands in brackets
    except ValueError:
        return "holds no valid IPv6 address", "Write it like http://[::1]:3000"
    return None


def _check_network(network: str) -> tuple[str, str] | None:
    """Return what is wrong with a proxy's address."""
    try:
        ip_network(network, strict=False)
    except ValueError:
        return "is neither an address nor a network", "Write it like 127.0.0.1 or 10.0.0.0/8"
    return None


#: No pattern: Flask-CORS would take it for a regular expression, without an end, that other origins match as well.
Origin = Annotated[
    str,
    Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?)\Z"),
    checked(_check_origin),
]

RootPath = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*/?\Z")]
Network = Annotated[str, checked(_check_network)]
