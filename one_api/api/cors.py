"""Calls from web pages of other origins: the origins that may call are configured, what they may send is not limited.

The headers are Flask-CORS's. A preflight (https://fetch.spec.whatwg.org/#cors-preflight-request) carries no key, so it
is answered before the key is looked at; no other ``OPTIONS`` is.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

from flask import Flask, Response, request
from flask_cors.core import (
    DEFAULT_OPTIONS,
    get_app_kwarg_dict,
    parse_resources,
    serialize_options,
    set_cors_headers,
    try_match_any_pattern,
    try_match_pattern,
)

from one_api.serving.current import current_globals, current_request
from one_api.settings.origins import are_origins
from one_api.utils.auth import authenticate, authenticate_operator

#: Response headers that browsers may read.
EXPOSED = [
    "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "x-gateway-attempts", "x-gateway-deployment", "x-gateway-warnings", "x-gateway-cache", "x-gateway-cost", "age",
]  # fmt: skip
#: And those that begin so: the limits and ids of upstreams, each with names of its own.
_EXPOSED_OF_UPSTREAMS = ("x-upstream-", "anthropic-ratelimit-")
#: Pages of other origins never reach what is for the operator.
_RESOURCES = re.compile(r"/(?!admin(?:/|$))")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class CrossOrigin:
    """The origins whose pages may call, and what they may; "*" stands for all.

    ``given`` are options of Flask-CORS that were set in code as ``CORS_*``; they go before ours.
    """

    def __init__(self, origins: tuple[str, ...], given: Mapping[str, Any] | None = None) -> None:
        ours = {
            "origins": "*" if "*" in origins else [_pattern(origin) for origin in origins],
            "allow_headers": "*",
            "expose_headers": EXPOSED,
            "max_age": 600,
            "resources": _RESOURCES,
        }
        options = {**DEFAULT_OPTIONS, **ours, **(given or {})}
        resources = [
            (path, serialize_options({**options, **own})) for path, own in parse_resources(options["resources"])
        ]
        self._resources = resources if any(each.origins for _, each in resources) else []

    def answers_preflight(self) -> bool:
        """Return whether the current preflight is of a page that may call."""
        options = self._options()
        return (
            options is not None
            and bool(options.automatic_options)
            and try_match_any_pattern(request.headers.get("Origin", ""), options.origins, caseSensitive=False)
        )

    def mark(self, response: Response) -> Response:
        """Add what browsers have to see to the answer of the current request."""
        options = self._options()
        return response if options is None else _expose_more(set_cors_headers(response, options))

    def _options(self) -> Any:
        """Return the options for the path of the current request; None when no page may call it."""
        if not self._resources or not _RESOURCES.match(request.path):
            return None
        found = (options for path, options in self._resources if try_match_pattern(request.path, path))
        return options if (options := next(found, None)) and options.origins else None


def given_options(app: Flask) -> dict[str, Any]:
    """Return the options that ``app.config`` has for Flask-CORS, as ``CORS_*``.

    Without ``CORS_ORIGINS`` where these are plain origins: they are a setting of ours, which means the same.
    """
    given = get_app_kwarg_dict(app)
    if are_origins(given.get("origins")):
        del given["origins"]
    return given


def register(app: Flask) -> None:
    """Let pages of other origins call ``app``, as far as the request's snapshot allows."""
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.before_request(_answer_options)
    app.after_request(_mark)


def _answer_options() -> Response | None:
    """Answer a preflight; any other ``OPTIONS`` is a method that no route has."""
    asked = current_request()
    if asked.method != "OPTIONS":
        return None
    known = current_globals()
    cors: CrossOrigin = known.snapshot.cors
    if "Access-Control-Request-Method" in asked.headers and cors.answers_preflight():
        return Response(status=204)
    if asked.path.startswith("/admin"):
        authenticate_operator()
    elif asked.path.startswith("/v1"):
        authenticate()
    return None


def _mark(response: Response) -> Response:
    known = current_globals()
    cors: CrossOrigin = known.snapshot.cors
    return cors.mark(response)


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
