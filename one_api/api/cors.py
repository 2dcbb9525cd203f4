"""Calls from web pages of other origins: the origins that may call are configured, what they may send is not limited.

The headers are Flask-CORS's. A preflight (https://fetch.spec.whatwg.org/#cors-preflight-request) carries no key, so it
is answered before the key is looked at; no other ``OPTIONS`` is.
"""

import re
from ipaddress import IPv6Address

from flask import Flask, Response, g, request
from flask_cors.core import DEFAULT_OPTIONS, serialize_options, set_cors_headers

from one_api.utils.auth import authenticate, authenticate_operator

#: Response headers that browsers may read.
_EXPOSED = [
    "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "x-gateway-attempts", "x-gateway-deployment", "x-gateway-warnings", "x-gateway-cache", "age",
]  # fmt: skip
#: And those that begin so: the limits and ids of upstreams, each with names of its own.
_EXPOSED_OF_UPSTREAMS = ("x-upstream-", "anthropic-ratelimit-")
#: Pages of other origins never reach what is for the operator.
_RESOURCES = r"/(?!admin(?:/|$))"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class CrossOrigin:
    """The origins whose pages may call; "*" stands for all."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._allowed = [_pattern(origin) for origin in origins]
        settings = {
            "origins": "*" if "*" in origins else self._allowed,
            "allow_headers": "*",
            "expose_headers": _EXPOSED,
            "max_age": 600,
        }
        self._options = serialize_options({**DEFAULT_OPTIONS, **settings}) if origins else None

    def allows(self, origin: str) -> bool:
        """Say whether pages of this origin may call."""
        return any(each.match(origin) for each in self._allowed)

    def mark(self, response: Response) -> Response:
        """Add what browsers have to see to the answer of the current request."""
        if self._options is not None and re.match(_RESOURCES, request.path):
            _expose_more(set_cors_headers(response, self._options))
        return response


def register(app: Flask) -> None:
    """Let pages of other origins call ``app``, as far as the request's snapshot allows."""
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.before_request(_answer_options)
    app.after_request(lambda response: g.snapshot.cors.mark(response))


def _answer_options() -> Response | None:
    """Answer a preflight; any other ``OPTIONS`` is a method that no route has."""
    if request.method != "OPTIONS":
        return None
    is_preflight = "Access-Control-Request-Method" in request.headers
    cors: CrossOrigin = g.snapshot.cors
    if is_preflight and re.match(_RESOURCES, request.path) and cors.allows(request.headers.get("Origin", "")):
        return Response(status=204)
    if request.path.startswith("/admin"):
        authenticate_operator()
    elif request.path.startswith("/v1"):
        authenticate()
    return None


def _expose_more(response: Response) -> Response:
    """Let pages that may call read what the upstream said in headers, too."""
    if "Access-Control-Expose-Headers" in response.headers:
        names = sorted({name.lower() for name, _ in response.headers if name.lower().startswith(_EXPOSED_OF_UPSTREAMS)})
        response.headers["Access-Control-Expose-Headers"] = ", ".join(
            [response.headers["Access-Control-Expose-Headers"], *names]
        )
    return response


def _pattern(origin: str) -> re.Pattern[str]:
    """Return what matches an origin in the one way in which browsers write it.

    That is in lower case, without the default port, and with the shortest form of an IPv6 address.
    """
    if origin == "*":
        return re.compile(".")
    scheme, _, host = origin.lower().partition("://")
    host = host.removesuffix(_DEFAULT_PORTS.get(scheme, "/"))
    if host.startswith("["):
        address, _, port = host[1:].partition("]")
        host = f"[{IPv6Address(address).compressed}]{port}"
    return re.compile(re.escape(f"{scheme}://{host}") + r"\Z", re.IGNORECASE)
