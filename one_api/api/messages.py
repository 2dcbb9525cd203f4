"""``/v1/messages``: Anthropic's dialect, in front of every model."""

import os
from functools import partial

from flask import Blueprint, Response, g, request

from one_api.api.bodies import read_bytes
from one_api.api.request_log import call_context
from one_api.api.snapshot import snapshot
from one_api.api.streaming import stream_response
from one_api.dialects.anthropic.inbound.answer import to_message, with_head
from one_api.dialects.anthropic.inbound.carrier import Carrier
from one_api.dialects.anthropic.inbound.chat import as_chat_request, form_of
from one_api.dialects.anthropic.inbound.native import HEADERS
from one_api.dialects.anthropic.inbound.request import MessagesRequest
from one_api.dialects.anthropic.inbound.writer import MessageWriter
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.tokens import estimate_tokens
from one_api.serving.fairness import aside
from one_api.serving.responses import JSONResponse, json_response
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit, limit_counts

messages = Blueprint("messages", __name__)

#: A larger body is translated beside the loop, in bytes.
_LARGE_BYTES = 256 * 1024


@messages.post("/v1/messages")
@verify_api_key
@check_rate_limit
async def create_message() -> Response:
    """Answer a Messages request, whole or as a stream of events."""
    data, body = await read_bytes()
    wanted = MessagesRequest.read(body)
    context, registry = call_context(_model(wanted), stream=wanted.stream), snapshot().registry
    carrier = Carrier(g.caller.secret, wanted.model)
    chat, form = await _chat_request(wanted, data, carrier), form_of(wanted)
    message_id = f"msg_{os.urandom(12).hex()}"
    if wanted.stream:
        writer = MessageWriter(message_id, form, partial(estimate_tokens, body), carrier.seal)
        return await stream_response(registry.stream(chat, context), writer)
    answer = await registry.complete(chat, context)
    native: JSONObject | None = answer.get("native")
    if native is None:
        return await json_response(to_message(answer, message_id, form, partial(estimate_tokens, body), carrier.seal))
    named = native | {"model": answer["model"]} if "model" in answer else native
    return await json_response(with_head(named, message_id, form.model))


@messages.post("/v1/messages/count_tokens")
@verify_api_key
@limit_counts
async def count_tokens() -> Response:
    """Return how many tokens the input of a request has: as its upstream counts, else as an estimate."""
    data, body = await read_bytes()
    wanted = MessagesRequest.read(body, counts=True)
    context = call_context(_model(wanted), stream=False)
    carrier = Carrier(g.caller.secret, wanted.model)
    count = await snapshot().registry.count_tokens(await _chat_request(wanted, data, carrier), context)
    if count is None:
        count = estimate_tokens(body)
        context.record.warnings.append("input_tokens: estimated")
    return JSONResponse({"input_tokens": count})


def _model(wanted: MessagesRequest) -> str:
    """Return the model that a request asks for, by the id that is not an alias."""
    return snapshot().config.models.without_alias(wanted.model)


async def _chat_request(wanted: MessagesRequest, data: bytes, carrier: Carrier) -> ChatRequest:
    """Return the current request for upstreams of any dialect."""
    headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
    work = partial(as_chat_request, wanted, data, headers, carrier)
    chat = await aside(work, is_short=len(data) <= _LARGE_BYTES)
    return chat.for_model(_model(wanted))
