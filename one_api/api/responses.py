"""``/v1/responses``: OpenAI's newer dialect, in front of every model."""

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from one_api.api.bodies import read_body
from one_api.api.kept_responses import ResponseStore, find_items, history
from one_api.api.request_log import call_context
from one_api.api.service import service
from one_api.api.snapshot import snapshot
from one_api.api.streaming import STREAM_HEADERS, Keep, stream_response
from one_api.contract import Caller
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.responses.items import COMPACT_YOURSELF
from one_api.dialects.responses.kept import ChainTooLong, KeptResponse, page_of
from one_api.dialects.responses.outbound.native import client_headers, counts_otherwise, native_body
from one_api.dialects.responses.request import Translated, own_items, referred, translate, untranslated
from one_api.dialects.responses.required import RequiredFields, own_response
from one_api.dialects.responses.response import Identity, whole_response
from one_api.dialects.responses.stream import ResponseWriter
from one_api.dialects.sealing import Sealer
from one_api.dialects.tokens import estimate_tokens
from one_api.errors import InvalidRequest, NoDeployment, UnknownPath, UpstreamOverloaded
from one_api.records import CallRecord
from one_api.serving.fairness import aside
from one_api.serving.responses import JSONResponse, PlainResponse, json_response
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit, limit_counts

responses = Blueprint("responses", __name__)

#: A longer input is translated beside the loop, in items.
_SHORT_ITEMS = 100


@responses.post("/v1/responses")
@verify_api_key
@check_rate_limit
async def create_response() -> Response:
    """Answer a request, whole or as a stream of events."""
    sealer = _sealer()
    wanted, settings = await _wanted(await read_body(), sealer), snapshot().config.responses
    if settings.reasoning == "hide":
        wanted = replace(wanted, reasoning="nothing")
    context, registry = call_context(wanted.chat.model, stream=wanted.chat.stream), snapshot().registry
    identity = Identity(f"resp_{os.urandom(16).hex()}", _now())
    seal, keep = sealer.seal if wanted.carries else None, _keeper(wanted, context.record)
    if wanted.chat.stream:
        writer = ResponseWriter(
            wanted, identity, _now, seal=seal, keep=keep is not None, error_frame=settings.error_frame
        )
        try:
            return await stream_response(registry.stream(wanted.chat, context), writer, keep)
        except (NoDeployment, UpstreamOverloaded) as error:
            if not settings.overload_as_event:
                raise
            context.record.fail(error)
            return PlainResponse(writer.fail(error) + writer.last(kept=False), headers=STREAM_HEADERS)
    completion = await registry.complete(wanted.chat, context)
    if (native := completion.get("native")) is not None:
        required = RequiredFields(identity, wanted.echo)
        answer = own_response(wanted, identity, native, required, stored=keep is not None)
    else:
        answer = whole_response(wanted, identity, completion, _now(), seal=seal, stored=keep is not None)
    if keep is not None and not await keep(answer):
        answer["store"] = False
    return await json_response(answer)


@responses.get("/v1/responses")
@verify_api_key
def refuse_websocket() -> NoReturn:
    """Send clients that would rather have a WebSocket back to POST, at once: after any other answer they try again."""
    offered = request.headers.get("Upgrade", "").lower() == "websocket"
    if offered or "Sec-WebSocket-Key" in request.headers:
        raise InvalidRequest("WebSockets are not available here: use POST.", status=426)
    raise MethodNotAllowed(valid_methods=["POST"])


@responses.get("/v1/responses/<response_id>")
@verify_api_key
async def get_response(response_id: str) -> Response:
    """Return a response that is kept, as it was given."""
    if request.args.get("stream", "").lower() in ("true", "1"):
        message = "A response that is kept can be had whole only."
        raise InvalidRequest(message, param="stream", code="unsupported_value")
    return JSONResponse((await _kept(response_id)).read())


@responses.delete("/v1/responses/<response_id>")
@verify_api_key
async def delete_response(response_id: str) -> Response:
    """Forget a response; what goes on from it cannot be gone on from any longer."""
    store = _store()
    if store is None or not await store.delete(g.caller.name, response_id):
        raise _not_found(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@responses.post("/v1/responses/<response_id>/cancel")
@verify_api_key
async def cancel_response(response_id: str) -> NoReturn:
    """Refuse: only responses in the background could be cancelled so."""
    await _kept(response_id)
    raise InvalidRequest("This response was not made in the background, so it cannot be cancelled: close its stream.")


@responses.get("/v1/responses/<response_id>/input_items")
@verify_api_key
async def list_input_items(response_id: str) -> Response:
    """List the items that were sent for a response, a page at a time."""
    return JSONResponse(page_of((await _kept(response_id)).input(), request.args))


@responses.post("/v1/responses/input_tokens")
@verify_api_key
@limit_counts
async def count_input_tokens() -> Response:
    """Return how many tokens the input of a request has: as its upstream counts, else as an estimate."""
    body = await read_body()
    own, history = await _own_items(body), await _history(body)
    wanted = await _translated(body, own, history, _sealer())
    context = call_context(wanted.chat.model, stream=False)
    count = await snapshot().registry.count_tokens(wanted.chat, context)
    if count is None:
        count = estimate_tokens(wanted.chat.body)
        context.record.warnings.append("input_tokens: estimated")
    context.record.warnings += wanted.warnings
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


@responses.post("/v1/responses/compact")
@verify_api_key
def refuse_compaction() -> NoReturn:
    """Refuse: the form of a compacted history is OpenAI's own secret."""
    raise UnknownPath(f"No model here compacts a conversation. {COMPACT_YOURSELF}")


async def _wanted(body: JSONObject, sealer: Sealer) -> Translated:
    """Return the current request for upstreams of any dialect; those of chat refuse what they have no words for."""
    own, history = await _own_items(body), await _history(body)
    g.is_short = g.get("is_short", False) and not history and not referred(body)
    native = NativeRequest(
        "responses",
        b"",
        native_body(body, history, own),
        client_headers(request.headers.items()),
        counts_otherwise=counts_otherwise(history, own),
    )
    try:
        wanted = await _translated(body, own, history, sealer)
    except InvalidRequest as refusal:
        stream = body.get("stream") is True
        chat = ChatRequest(body["model"], stream, stream, body, replace(native, refusal=refusal))
        return untranslated(body, chat, own)
    return replace(wanted, chat=wanted.chat.with_native(replace(native, warnings=wanted.warnings)))


async def _translated(body: JSONObject, own: list[Any], history: list[JSONObject], sealer: Sealer) -> Translated:
    """Return a request in chat's words; raises InvalidRequest for what it has none for."""
    work = partial(translate, body, own, history=history, unseal=sealer.open)
    return await aside(work, is_short=g.get("is_short", False) and not history and len(own) <= _SHORT_ITEMS)


async def _own_items(body: JSONObject) -> list[Any]:
    """Return the input of a request as items, with those that it refers to."""
    store, is_short = _store(), g.get("is_short", False)
    ids = await aside(partial(referred, body), is_short=is_short)
    found = await find_items(store, g.caller.name, ids) if store is not None and ids else {}
    return await aside(partial(own_items, body, found.get), is_short=is_short)


async def _history(body: JSONObject) -> list[JSONObject]:
    """Return the items of the conversation that a request goes on from."""
    previous, store = body.get("previous_response_id"), _store()
    if not isinstance(previous, str):
        return []
    try:
        ttl_s = snapshot().config.responses.ttl_s
        found = await history(store, g.caller.name, previous, ttl_s) if store is not None else None
    except ChainTooLong:
        raise InvalidRequest(
            "This conversation is too long to go on from: send what matters of it as input.",
            param="previous_response_id",
            code="context_length_exceeded",
        ) from None
    if found is None:
        why = "" if store is not None else " This gateway keeps no responses: send the whole input each time."
        raise InvalidRequest(
            f"Previous response with id '{previous[:128]}' not found.{why}",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return found


def _keeper(wanted: Translated, record: CallRecord) -> Keep | None:
    """Return what keeps the response to a request; None when nothing is to be kept."""
    if wanted.store is False:
        return None
    store = _store()
    if store is None:
        if wanted.store:
            record.warnings.append("store")
        return None
    config, caller = snapshot().config.responses, g.caller

    async def keep(response: JSONObject) -> bool:
        items = [_with_id(item, response["id"], i) for i, item in enumerate(wanted.items)]
        return await store.keep(caller.name, response, items, ttl_s=config.ttl_s, max_bytes=config.max_bytes)

    return keep


def _with_id(item: Any, response_id: str, index: int) -> Any:
    """Return an item of the input with an id by which it can be referred to."""
    if not isinstance(item, dict) or isinstance(item.get("id"), str):
        return item
    kind = "msg" if item.get("type", "message") == "message" else "item"
    return {"id": f"{kind}_{response_id.removeprefix('resp_')}in{index:02x}", **item}


def _store() -> ResponseStore | None:
    """Return where responses are kept; None where they are not."""
    state, accounts = snapshot().config.responses.state, service().accounts
    if state in (None, "database"):
        return accounts.responses if accounts is not None else None
    # With several processes the next request may reach one that has not seen them.
    return service().kept_responses if state == "memory" and service().siblings.count() == 1 else None


async def _kept(response_id: str) -> KeptResponse:
    store = _store()
    found = await store.find(g.caller.name, response_id) if store is not None else None
    if found is None:
        raise _not_found(response_id)
    return found


def _not_found(response_id: str) -> InvalidRequest:
    return InvalidRequest(f"Response with id '{response_id[:128]}' not found.", status=404)


def _sealer() -> Sealer:
    """Return what seals reasoning for the current caller, and opens what was sealed for no one else."""
    caller: Caller = g.caller
    return Sealer(caller.secret)


def _now() -> int:
    return int(time.time())
