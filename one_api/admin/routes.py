"""``/admin``, for the operator: why requests go where they go, and which configuration is in use."""

import os
import time
from collections.abc import AsyncIterator

from flask import Blueprint, Flask, Response
from werkzeug.exceptions import NotFound

from one_api.api.metrics import own_samples
from one_api.api.service import Service, service
from one_api.api.snapshot import Snapshot, snapshot
from one_api.config import ConfigError
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest, UnknownModel
from one_api.serving.bridge import await_
from one_api.serving.current import current_request
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import for_the_operator

admin = Blueprint("admin", __name__)

#: How long another process may be silent, in seconds.
_ANSWER_S = 1.0
#: How many of the last requests are shown.
_MAX_RECENT = 20


def keep_admin_apart(app: Flask) -> None:
    """Where ``/admin`` has an address of its own, have ``app`` know nothing of it at any other."""
    app.before_request(_hide_elsewhere)


def _hide_elsewhere() -> None:
    if current_request().path.startswith("/admin") and not snapshot().admin.is_here():
        raise NotFound


@admin.get("/admin/routes/<path:model>")
@for_the_operator
def explain_route(model: str) -> Response:
    """Show how each deployment of a model looks to each process, and how the last requests for it ended.

    ``tables`` are those of the process that answers, ``others`` those of the other ones; ``recent`` is of all.
    """
    parts = service()
    own = _view(parts, snapshot(), model)
    others = await_(parts.siblings.ask({"model": model}))
    records = [record for view in (own, *others) for record in view.get("recent", [])]
    recent = sorted(records, key=lambda record: float(record["age_s"]))[:_MAX_RECENT]
    shown = [{"process": view["process"], "tables": view["tables"]} for view in others if "tables" in view]
    return JSONResponse(own | {"processes": 1 + len(others), "others": shown, "recent": recent})


@admin.get("/admin/config")
@for_the_operator
async def show_config() -> Response:
    """Return which configuration each process uses, by its digest, and the result of its last reload.

    ``silent`` is how many have not answered.
    """
    parts = service()
    answers = await parts.siblings.ask_each({"config": True}, _ANSWER_S)
    others = [answer[0] for answer in answers.values() if answer]
    return JSONResponse({"processes": [_status(parts), *others], "silent": len(answers) - len(others)})


@admin.post("/admin/config/reload")
@for_the_operator
async def reload_config() -> Response:
    """Check the configuration as the files are now, and have every process load it; 400 says what is wrong with it."""
    parts = service()
    try:
        wanted = await parts.reload.check()
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    parts.reload.begin_everywhere("admin")
    await parts.siblings.ask({"reload": "admin"})
    return JSONResponse(wanted, 202)


async def answer_sibling(parts: Service, question: JSONObject) -> AsyncIterator[JSONObject]:
    """Yield what this process knows of what another process asks for; of a model that it does not know, nothing."""
    if "metrics" in question:
        async for part in own_samples(parts):
            yield part
        return
    if "reload" in question:
        parts.reload.begin_once(str(question["reload"]))
    if "model" not in question:
        yield _status(parts)
        return
    try:
        yield _view(parts, parts.snapshot, str(question["model"]))
    except UnknownModel:
        yield {"process": os.getpid()}


def _status(parts: Service) -> JSONObject:
    """Return which configuration this process uses."""
    return {"process": os.getpid(), **parts.reload.status()}


def _view(parts: Service, used: Snapshot, model: str) -> JSONObject:
    """Return what this process alone knows of a model; raises UnknownModel."""
    now = time.monotonic()
    recent = [{"age_s": round(now - each.started, 3), **each.as_dict()} for each in parts.recent.of(model, _MAX_RECENT)]
    tables = [used.registry.explain(model, stream=stream) for stream in (True, False)]
    return {"process": os.getpid(), "tables": tables, "recent": recent}
