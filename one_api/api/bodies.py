"""How the doors read the body of a request, compressed or not."""

import asyncio
import codecs
import zlib
from collections.abc import Mapping

from flask import g
from werkzeug.http import parse_options_header

from one_api.api.service import service
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from one_api.serving.current import current_globals, current_request

_GZIP = 16 + zlib.MAX_WBITS
#: A body from this size on, in bytes, is decoded in steps, while no other is.
_LARGE_BYTES = 64 * 1024
#: Decoding one from this size on takes long even in steps: others have the loop before and after that, for so many
#: seconds that what is quickly answered is answered.
_HUGE_BYTES, _OTHERS_S = 1024 * 1024, 0.002


async def read_body() -> JSONObject:
    """Return the object in the request's body; raises as ``read_bytes``."""
    return (await read_bytes())[1]


async def read_bytes() -> tuple[bytes, JSONObject]:
    """Return the request's body, and what it holds: a JSON object in UTF-8, its numbers as they were written.

    Raises:
        UnsupportedMediaType: when it is encoded with anything but gzip, or says that it is not JSON in UTF-8.
        RequestTooLarge: when it is decompressed, and has more than ``server.max_body_bytes``.
        InvalidRequest: when it is not a JSON object.
    """
    request = current_request()
    # A header that was sent twice is a list.
    if (content_type := request.environ.get("CONTENT_TYPE")) != "application/json":
        for media_type in (content_type or "").split(","):
            _check_media_type(*parse_options_header(media_type))
    data = request.get_data(cache=False)
    request.stream.close()  # it would hold the bytes as long as the request lives
    if not data:
        raise InvalidRequest("The request has no body: send a JSON object.")
    encoding = request.environ.get("HTTP_CONTENT_ENCODING")
    encodings = encodings_of(encoding) if encoding else []
    try:
        if len(data) < _LARGE_BYTES and not encodings:
            current_globals().is_short = True
            return data, json.decode_object(data, as_written=True)
        # One at a time, from its first byte that is more than what the client sent.
        async with service().large_bodies:
            if encodings:
                data = await _decompress(data, encodings, g.snapshot.config.server.max_body_bytes)
            return data, await _decode_large(data)
    except json.InvalidJSON as error:
        what = "it begins with a byte-order mark" if data.startswith(codecs.BOM_UTF8) else str(error)
        raise InvalidRequest(f"The request's body is not a JSON object that can be used: {what}.") from None


async def _decode_large(data: bytes) -> JSONObject:
    """Decode in steps; others have the loop between them."""
    others_s = _OTHERS_S if len(data) >= _HUGE_BYTES else 0
    steps = json.decode_large(data)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            body: JSONObject = done.value
            await asyncio.sleep(others_s)
            return body
        await asyncio.sleep(others_s)


def _check_media_type(mimetype: str, parameters: Mapping[str, str]) -> None:
    if mimetype and mimetype.lower() != "application/json":
        raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("Send JSON in UTF-8.")


def encodings_of(header: str) -> list[str]:
    """Return what ``Content-Encoding`` names, in lower case and in its order, but for "identity"."""
    return [name for each in header.split(",") if (name := each.strip().lower()) not in ("", "identity")]


async def _decompress(data: bytes, encodings: list[str], max_bytes: int) -> bytes:
    """Return a body without its encodings, of which gzip is known, once; the work is done in a thread.

    Raises:
        UnsupportedMediaType: for any other encoding, and for a body that is not encoded so.
        RequestTooLarge: when more than ``max_bytes`` come out.
    """
    if encodings not in (["gzip"], ["x-gzip"]):
        raise UnsupportedMediaType(
            f"Send the body as it is, or with gzip: Content-Encoding `{', '.join(encodings)}` is not known."
        )
    reader = zlib.decompressobj(_GZIP)
    try:
        body = await asyncio.to_thread(reader.decompress, data, max_bytes + 1)
    except zlib.error:
        raise _not_gzip() from None
    if len(body) > max_bytes:
        raise RequestTooLarge(f"The request's body has more than {max_bytes} bytes when it is decompressed: send less.")
    if not reader.eof or reader.unused_data:
        raise _not_gzip()
    return body


def _not_gzip() -> UnsupportedMediaType:
    return UnsupportedMediaType("The body is not the one gzip stream that its Content-Encoding names.")
