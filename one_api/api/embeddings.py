"""``/v1/embeddings``."""

import asyncio

from flask import Blueprint, Response

from one_api.api.bodies import read_body
from one_api.api.request_log import call_context
from one_api.api.snapshot import snapshot
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.embeddings import EmbeddingRequest, Encoding, written
from one_api.serving.responses import PlainResponse
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

embeddings = Blueprint("embeddings", __name__)

#: So many vectors are written before others have the loop.
_AT_ONCE = 8


@embeddings.post("/v1/embeddings")
@verify_api_key
@check_rate_limit
async def create_embeddings() -> Response:
    """Answer with a vector for each input, in the encoding that the request asks for."""
    wanted = EmbeddingRequest.read(await read_body())
    answer = await snapshot().registry.embed(wanted, call_context(wanted.model, stream=False))
    return PlainResponse(await _text(answer, wanted.encoding), content_type="application/json")


async def _text(answer: JSONObject, encoding: Encoding) -> bytes:
    pieces = []
    for piece in written(answer, encoding):
        pieces.append(piece)
        if len(pieces) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return b"".join(pieces)
