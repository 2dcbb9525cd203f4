"""``/v1/models``: which ids a request may name, in the form that the client reads."""

import asyncio
from typing import cast

from flask import Blueprint, Response, g, request

from one_api.api.response_headers import is_anthropic
from one_api.api.snapshot import Snapshot, snapshot
from one_api.contract import CONTEXT_NAMES, Caller
from one_api.dialects.anthropic.inbound.models import model_info, model_page
from one_api.dialects.json import JSONObject
from one_api.dialects.responses.codex_models import codex_models
from one_api.errors import UnknownModel
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import check_model, verify_api_key
from one_api.utils.rate_limit import limit_requests

models = Blueprint("models", __name__)

#: The prices of longer lists are looked up beside the loop: for the first time that takes a while.
_SHORT_LIST = 20


@models.get("/v1/models")
@verify_api_key
@limit_requests
async def list_models() -> Response:
    """List all that the key may use; Anthropic's clients may ask for a page of it."""
    used, caller = snapshot(), cast(Caller, g.caller)
    settings = used.config.models
    data = [entry for entry in await used.registry.list_all_models() if caller.may_use(entry["id"])]
    data = await asyncio.to_thread(_priced, data, used) if len(data) > _SHORT_LIST else _priced(data, used)
    if is_anthropic():
        return JSONResponse(model_page(data, settings.anthropic_alias_prefix, request.args))
    # Codex sends its version, and reads nothing but its own form of the list.
    own = {"models": codex_models(data, settings.codex_instructions)} if "client_version" in request.args else {}
    return JSONResponse({"object": "list", "data": data, **own})


@models.get("/v1/models/<path:model_id>")
@verify_api_key
@limit_requests
async def get_model(model_id: str) -> Response:
    """Describe one; its id may hold slashes and colons."""
    used = snapshot()
    asked = used.config.models.without_alias(model_id) if is_anthropic() else model_id
    check_model(g.caller, asked)
    try:
        entry = await used.registry.get_model(asked)
    except UnknownModel as error:
        raise UnknownModel(error.message, param="model") from None
    (entry,) = _priced([entry], used)
    return JSONResponse(model_info(entry) | {"id": model_id} if is_anthropic() else entry)


def _priced(entries: list[JSONObject], used: Snapshot) -> list[JSONObject]:
    """Return entries with what is known of their prices; the upstream's context window goes before ours."""
    if used.prices is None:
        return entries
    return [
        _with_price(entry, used.prices.listing(used.registry.routes.deployments_of(entry["id"]))) for entry in entries
    ]


def _with_price(entry: JSONObject, prices: JSONObject) -> JSONObject:
    windows = dict.fromkeys(CONTEXT_NAMES, prices.pop("context_window", None))
    return {**{name: size for name, size in windows.items() if size is not None}, **entry, **prices}
