"""Kinds of settings that say where requests may come from: web pages, proxies, and the path they come by."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta

from one_api.settings.validation import checked


def _check_origin(origin: str) -> tuple[str, str] | None:
    """Return what is wrong with an origin."""
    if not re.match(_ORIGIN, origin):
        return (
            "has a bad value: it is no origin",
            "Write it like https://app.example.com, without a path, or *",
        )
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


_ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?)\Z"
#: No pattern: Flask-CORS would take it for a regular expression, without an end, that other origins match as well.
Origin = Annotated[str, checked(_check_origin)]


def are_origins(value: Any) -> bool:
    """Return whether this is a text with origins between commas, or a list of them; patterns are not origins."""
    entries = [entry for entry in value.split(",") if entry.strip()] if isinstance(value, str) else value
    return isinstance(entries, (list, tuple, set)) and all(
        isinstance(entry, str) and re.match(_ORIGIN, entry.strip()) for entry in entries
    )


RootPath = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*/?\Z")]
Network = Annotated[str, checked(_check_network)]


def is_within(address: str | None, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether an address is in one of the networks; what is no IP address is in none."""
    try:
        own = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(own, "ipv4_mapped", None)
    return any(each in network for each in (own, mapped) if each is not None for network in networks)
