"""``/v1/chat/completions``."""

from functools import partial

from flask import Blueprint, Response

from one_api.api.bodies import read_body
from one_api.api.request_log import call_context
from one_api.api.snapshot import snapshot
from one_api.api.streaming import stream_response
from one_api.dialects.openai.chat_events import ChatEventWriter
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.serving.current import current_globals
from one_api.serving.fairness import aside
from one_api.serving.responses import json_response
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

chat = Blueprint("chat", __name__)


@chat.post("/v1/chat/completions")
@verify_api_key
@check_rate_limit
async def create_completion() -> Response:
    """Answer a chat request, whole or as a stream of events."""
    read = partial(ChatRequest.read, await read_body())
    wanted = await aside(read, is_short=current_globals().get("is_short", False))
    context, registry = call_context(wanted.model, stream=wanted.stream), snapshot().registry
    if wanted.stream:
        return await stream_response(registry.stream(wanted, context), ChatEventWriter())
    return await json_response(await registry.complete_encoded(wanted, context))
