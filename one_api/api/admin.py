"""``/admin/routes``: for the operator on this machine, why requests for a model go where they go."""

import ipaddress
import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Response, request

from one_api.api.service import Service, service
from one_api.errors import Forbidden, UnknownModel
from one_api.serving.bridge import await_
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import verify_api_key
from one_api.wire.json import JSONObject

admin = Blueprint("admin", __name__)

#: How many of the last requests are told.
_MOST_RECENT = 20
#: Headers that a proxy on this machine adds to what comes from elsewhere.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def from_this_machine(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let only processes of this machine through, and nobody behind a proxy."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not is_from_this_machine():
            raise Forbidden("This address answers on the gateway's own machine only.")
        return view(*args, **kwargs)

    return guarded


def is_from_this_machine() -> bool:
    """Say whether the current request comes from a process of this machine, and not through a proxy."""
    return _is_loopback(request.remote_addr) and not any(name in request.headers for name in _FORWARDED)


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


@admin.get("/admin/routes/<path:model>")
@verify_api_key
@from_this_machine
def explain_route(model: str) -> Response:
    """Tell how each deployment of a model looks to each process, and what became of the last requests for it.

    ``tables`` are those of the process that answers, ``others`` those of the other ones; ``recent`` is of all.
    """
    parts = service()
    own = _view(parts, model)
    others = await_(parts.siblings.ask({"model": model}))
    records = [record for view in (own, *others) for record in view.get("recent", [])]
    recent = sorted(records, key=lambda record: float(record["age_s"]))[:_MOST_RECENT]
    shown = [{"process": view["process"], "tables": view["tables"]} for view in others if "tables" in view]
    return JSONResponse(own | {"processes": 1 + len(others), "others": shown, "recent": recent})


def answer_sibling(parts: Service, question: JSONObject) -> JSONObject:
    """Return what this process knows of the model that another process asks for; nothing if it does not know it."""
    try:
        return _view(parts, str(question.get("model")))
    except UnknownModel:
        return {"process": os.getpid()}


def _view(parts: Service, model: str) -> JSONObject:
    """Return what this process alone knows of a model; raises UnknownModel."""
    now = time.monotonic()
    recent = [
        {"age_s": round(now - each.started, 3), **each.as_dict()} for each in parts.recent.of(model, _MOST_RECENT)
    ]
    tables = [parts.registry.explain(model, stream=stream) for stream in (True, False)]
    return {"process": os.getpid(), "tables": tables, "recent": recent}
