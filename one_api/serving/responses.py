"""Responses whose headers go out as they are."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Response
from werkzeug.datastructures import Headers

from one_api.dialects import json
from one_api.dialects.json import Encoded
from one_api.serving.fairness import in_turns

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


#: Statuses of responses that have no body.
_WITHOUT_BODY = frozenset({*range(100, 200), 204, 304})


def headers_of(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Return headers that are known to be fit to be sent: Werkzeug would look at each of them, in several steps."""
    found = Headers()
    found._list = list(pairs)
    return found


def add_headers(headers: Headers, more: Mapping[str, str]) -> None:
    """Add headers that are known to be fit to be sent, see ``headers_of``."""
    headers._list += more.items()


def has_header(headers: Headers, name: str) -> bool:
    """Return whether there is a header of this name, in small letters; where there is none Werkzeug needs an error."""
    return name in [each.lower() for each, _ in headers._list]


class PlainResponse(Response):
    """A response with a body that does not redirect: nothing in its headers needs mending, so they are not copied."""

    def get_wsgi_headers(self, environ: "WSGIEnvironment") -> Headers:
        """Return them; an override point of Werkzeug."""
        return self.headers

    def calculate_content_length(self) -> int | None:
        """Return the size of the body, if it is there as a whole."""
        body = self.response
        return len(body[0]) if isinstance(body, list) and len(body) == 1 else super().calculate_content_length()

    def get_app_iter(self, environ: "WSGIEnvironment") -> Iterable[bytes]:
        """Return a body that is there as a whole as it is, where nothing else is to be done at its end."""
        has_body = environ["REQUEST_METHOD"] != "HEAD" and self.status_code not in _WITHOUT_BODY
        body = self.response
        if has_body and not self._on_close and isinstance(body, list):
            return body
        return super().get_app_iter(environ)


class JSONResponse(PlainResponse):
    """A JSON value, compact and in UTF-8."""

    def __init__(self, value: Mapping[str, Any], status: int = 200) -> None:
        body = json.encode(value)
        super().__init__([body], status, _json_headers(len(body)))


async def json_response(value: Mapping[str, Any] | Encoded) -> PlainResponse:
    """Return a ``JSONResponse`` of a value that may be large: others have the loop while it is encoded and sent."""
    pieces = [bytes(value)] if isinstance(value, Encoded) else await in_turns(json.encode_large(value))
    return PlainResponse(pieces, 200, _json_headers(sum(map(len, pieces))))


def _json_headers(size: int) -> Headers:
    return headers_of([("Content-Type", "application/json"), ("Content-Length", str(size))])
