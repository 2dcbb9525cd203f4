"""Calls from web pages of other origins: the origins that may call are configured, what they may send is not limited.

The headers are Flask-CORS's. A preflight (https://fetch.spec.whatwg.org/#cors-preflight-request) carries no key, so it
is answered before the key is looked at; no other ``OPTIONS`` is.
"""

import re
from ipaddress import IPv6Address

from flask import Flask, Response, request
from flask_cors import CORS

from one_api.utils.auth import authenticate

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


def register(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of ``origins`` call ``app``; "*" stands for all."""
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    allowed = [_pattern(origin) for origin in origins]

    def answer_options() -> Response | None:
        """Answer a preflight; any other ``OPTIONS`` is a method that no route has."""
        if request.method != "OPTIONS":
            return None
        origin = request.headers.get("Origin", "")
        is_preflight = "Access-Control-Request-Method" in request.headers
        if is_preflight and re.match(_RESOURCES, request.path) and any(each.match(origin) for each in allowed):
            return Response(status=204)
        if request.path.startswith(("/v1", "/admin")):
            authenticate()
        return None

    app.before_request(answer_options)
    if allowed:
        app.after_request(_expose_more)  # runs after Flask-CORS, which is registered later
        CORS(
            app,
            resources=_RESOURCES,
            origins="*" if "*" in origins else allowed,
            allow_headers="*",
            expose_headers=_EXPOSED,
            max_age=600,
        )


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
