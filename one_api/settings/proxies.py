"""Which proxy, if any, stands between us and an upstream."""

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from one_api.settings.addresses import ENVIRONMENT, check_proxy, is_loopback
from one_api.settings.kinds import Proxy


def proxy_for(base_url: str, proxy: Proxy | None) -> Proxy | None:
    """Return the proxy to ``base_url``; None when it is asked directly, as loopback addresses always are."""
    return None if proxy is None or proxy == ENVIRONMENT or is_loopback(_host(base_url)) else proxy


def from_environment(base_url: str, variables: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the usual variables name for ``base_url``.

    These are ``HTTPS_PROXY`` or ``HTTP_PROXY`` by the upstream's scheme, ``ALL_PROXY``, and ``NO_PROXY``; in small
    letters they come first. A proxy without a scheme speaks HTTP.

    Raises:
        ValueError: with the variable's name, when what it holds is no proxy that we can use.
    """
    if _excepted(base_url, _variable("no_proxy", variables)[1]):
        return None
    for name in (f"{urlsplit(base_url).scheme}_proxy", "all_proxy"):
        found, value = _variable(name, variables)
        if value:
            proxy = Proxy(value if "://" in value else f"http://{value}")
            if check_proxy(proxy) is not None:
                raise ValueError(found)
            return proxy_for(base_url, proxy)
    return None


def _variable(name: str, variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the name that is set, in small letters or capitals, and its value."""
    found = name if variables.get(name, "").strip() else name.upper()
    return found, variables.get(found, "").strip()


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _excepted(base_url: str, exceptions: str) -> bool:
    """Return whether ``NO_PROXY`` names the upstream: by host, domain, network or ``*``, with or without a port."""
    parts = urlsplit(base_url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
    return any(_matches(entry.lower(), host, port) for entry in exceptions.replace(",", " ").split())


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        with suppress(ValueError):
            return ipaddress.ip_address(host) in network
        return False
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit():
        return int(wanted) == port and _matches(name, host, port)
    domain = entry.removeprefix("*").removeprefix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
