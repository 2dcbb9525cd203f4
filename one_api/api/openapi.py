"""``/openapi.json``: the routes, described for clients and tools."""

from functools import cache
from pathlib import Path

import yaml
from flask import Blueprint, Response

from one_api import __version__
from one_api.wire import json

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def describe() -> Response:
    """Return the description of this API, as OpenAPI 3.1."""
    return Response(_document(), content_type="application/json")


@cache
def _document() -> bytes:
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    document["info"]["version"] = __version__
    return json.encode(document)
