"""``/openapi.json``: the routes, described for clients and tools."""

import asyncio
from functools import cache
from pathlib import Path

import yaml
from flask import Blueprint, Response, request

from one_api import __version__
from one_api.api.service import service
from one_api.dialects.json import JSONObject
from one_api.serving.responses import JSONResponse

openapi = Blueprint("openapi", __name__)

#: Stands at a path that there is with a database only.
_ACCOUNTS_ONLY = "x-accounts-only"


@openapi.get("/openapi.json")
async def describe() -> Response:
    """Return the description of this API, as OpenAPI 3.1; to read it for the first time takes long."""
    document = await asyncio.to_thread(_document, accounts=service().accounts is not None)
    if request.root_path:
        document = document | {"servers": [{"url": request.root_path}]}
    return JSONResponse(document)


@cache
def _document(*, accounts: bool) -> JSONObject:
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    # Its C form takes an eighth of the time, where PyYAML was built with it.
    document: JSONObject = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    document["info"]["version"] = __version__
    paths = document["paths"]
    for path in [each for each in paths if paths[each].pop(_ACCOUNTS_ONLY, False) and not accounts]:
        del paths[path]
    return document
