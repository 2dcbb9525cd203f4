"""A page for people that open the gateway's address in a browser; programs get the same errors there as ever."""

import re

from flask import Flask, Response, render_template, request

from one_api import __version__
from one_api.api.health import why_unready
from one_api.api.snapshot import Snapshot, snapshot
from one_api.serving.bridge import await_
from one_api.serving.current import current_request
from one_api.serving.host import name_in
from one_api.utils.auth import is_from_this_machine

#: Where people look first.
_PATHS = frozenset({"", "/v1", "/docs"})
#: What browsers accept takes some 200 characters; to read a list of thousands takes long, and needs no key.
_MAX_ACCEPT = 1024
#: No script, no frame, nothing from elsewhere.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#: What can stand in the lines that people copy.
_MODEL = re.compile(r"[A-Za-z0-9._:@/+-]+")


def register(app: Flask) -> None:
    """Show the page at the addresses that have nothing for programs."""
    app.before_request(_welcome)


def _welcome() -> Response | None:
    asked = current_request()
    if asked.path.rstrip("/") not in _PATHS or asked.method not in ("GET", "HEAD"):
        return None
    if len(asked.environ.get("HTTP_ACCEPT", "")) > _MAX_ACCEPT:
        return None
    accepted = asked.accept_mimetypes
    if accepted["text/html"] <= accepted["application/json"]:
        return None
    used = snapshot()
    page = render_template(
        "welcome.html",
        version=__version__,
        reason=await_(why_unready()),
        has_keys=bool(used.config.api_keys),
        root=_root(used),
        model=_model(used),
    )
    headers = {"content-security-policy": _POLICY, "vary": "Accept", "x-content-type-options": "nosniff"}
    return Response(page, headers=headers, content_type="text/html; charset=utf-8")


def _root(used: Snapshot) -> str:
    """Return the address that the browser has used, without a path of ours."""
    host = request.headers.get("Host", "")
    if name_in(host) is None:
        return used.config.server.url + request.root_path
    return f"{request.scheme}://{host}{request.root_path}"


def _model(used: Snapshot) -> str:
    """Return a model for the examples; strangers do not learn which there are."""
    listed = used.registry.routes.listed if is_from_this_machine() else []
    return next((model for model in listed if _MODEL.fullmatch(model)), "MODEL")
