"""``/admin/routes``: for the operator on this machine, why requests for a model go where they go."""

import ipaddress
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Response, request

from one_api.api.service import service
from one_api.errors import Forbidden
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import verify_api_key

admin = Blueprint("admin", __name__)

#: How many of the last requests are told.
_MOST_RECENT = 20
#: Headers that a proxy on this machine adds to what comes from elsewhere.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def from_this_machine(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only processes of this machine through, and nobody behind a proxy."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _is_loopback(request.remote_addr) or any(name in request.headers for name in _FORWARDED):
            raise Forbidden("This address answers on the gateway's own machine only.")
        return view(*args, **kwargs)

    return guarded


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


@admin.get("/admin/routes/<path:model>")
@verify_api_key
@from_this_machine
def explain_route(model: str) -> Response:
    """Tell how each deployment of a model looks to this process, and what became of the last requests for it."""
    parts = service()
    recent = [record.as_dict() for record in parts.recent.of(model, _MOST_RECENT)]
    tables = [parts.registry.explain(model, stream=stream) for stream in (True, False)]
    body = {"process": os.getpid(), "processes": parts.server.workers, "tables": tables, "recent": recent}
    return JSONResponse(body)
