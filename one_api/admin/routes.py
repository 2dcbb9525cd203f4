"""``/admin/routes``: for the operator on this machine, why requests for a model go where they go."""

import os
import time

from flask import Blueprint, Response

from one_api.api.service import Service, service
from one_api.dialects.json import JSONObject
from one_api.errors import UnknownModel
from one_api.serving.bridge import await_
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import from_this_machine, verify_api_key

admin = Blueprint("admin", __name__)

#: How many of the last requests are told.
_MOST_RECENT = 20


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
