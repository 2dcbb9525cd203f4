"""``/v1/models``: which ids a chat request may name."""

from flask import Blueprint, Response

from one_api.api.snapshot import snapshot
from one_api.errors import UnknownModel
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

models = Blueprint("models", __name__)


@models.get("/v1/models")
@verify_api_key
@check_rate_limit
async def list_models() -> Response:
    """List all of them; there is one page."""
    data = await snapshot().registry.list_all_models()
    return JSONResponse({"object": "list", "data": data})


@models.get("/v1/models/<path:model_id>")
@verify_api_key
@check_rate_limit
async def get_model(model_id: str) -> Response:
    """Describe one; its id may hold slashes and colons."""
    try:
        entry = await snapshot().registry.get_model(model_id)
    except UnknownModel as error:
        raise UnknownModel(error.message, param="model") from None
    return JSONResponse(entry)
