"""``/v1/completions``: legacy completions, which go to upstreams that have them and are never made into chats."""

from flask import Blueprint, Response

from one_api.api.bodies import read_body
from one_api.api.request_log import call_context
from one_api.api.snapshot import snapshot
from one_api.api.streaming import stream_response
from one_api.dialects.openai.chat_events import ChatEventWriter
from one_api.dialects.openai.text_completion import TextRequest
from one_api.serving.responses import json_response
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

completions = Blueprint("completions", __name__)


@completions.post("/v1/completions")
@verify_api_key
@check_rate_limit
async def create_text() -> Response:
    """Answer with text that goes on from a prompt, whole or as a stream of events."""
    wanted = TextRequest.read(await read_body())
    context, registry = call_context(wanted.model, stream=wanted.stream), snapshot().registry
    if wanted.stream:
        # The events of both kinds of completion are written alike.
        return await stream_response(registry.stream(wanted, context), ChatEventWriter())
    return await json_response(await registry.complete(wanted, context))
