"""Responses whose headers go out as they are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Response
from werkzeug.datastructures import Headers

from one_api.dialects import json
from one_api.serving.fairness import in_turns

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class PlainResponse(Response):
    """A response with a body that does not redirect: nothing in its headers needs mending, so they are not copied."""

    def get_wsgi_headers(self, environ: "WSGIEnvironment") -> Headers:
        """Return them; an override point of Werkzeug."""
        return self.headers


class JSONResponse(PlainResponse):
    """A JSON value, compact and in UTF-8."""

    def __init__(self, value: Mapping[str, Any], status: int = 200) -> None:
        super().__init__(json.encode(value), status, content_type="application/json")


async def json_response(value: Mapping[str, Any]) -> PlainResponse:
    """Return a ``JSONResponse`` of a value that may be large: others have the loop while it is encoded and sent."""
    pieces = await in_turns(json.encode_large(value))
    size = str(sum(map(len, pieces)))
    return PlainResponse(pieces, content_type="application/json", headers={"Content-Length": size})
