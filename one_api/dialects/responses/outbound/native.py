"""A Responses request on its way to an upstream that speaks Responses, and its answer: little is touched."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from one_api.dialects import json, usage
from one_api.dialects.frames import Translator
from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import DONE, ErrorPayload, InvalidAnswer, check_error, read_event
from one_api.dialects.responses.outbound.shapes import shaped_event, shaped_response
from one_api.dialects.sealing import PREFIX
from one_api.dialects.sse import Event, EventReader

#: Events that come before anything of the answer.
OPENINGS = ("response.created", "response.queued", "response.in_progress")
#: Events with which an answer ends well.
ENDINGS = ("response.completed", "response.incomplete")
_FAILURES = ("response.failed", "error")
#: Says nothing; some clients of OpenAI's own do not know it.
_SILENT = "keepalive"
#: Headers of a client that OpenAI's own server gets, beside all that begin as ``_CODEX`` does.
_CLIENT = ("openai-beta", "originator", "session-id", "thread-id", "user-agent", "x-client-request-id")
_CODEX = "x-codex-"


def client_headers(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return those of a client's headers that belong to this dialect, in small letters."""
    named = ((name.lower(), value) for name, value in given)
    return {name: value for name, value in named if name in _CLIENT or name.startswith(_CODEX)}


def with_tools_of(body: JSONObject, types: Collection[str]) -> tuple[JSONObject, list[str]]:
    """Return a body with the tools of these types alone, and the paths of those that were left out."""
    tools = body.get("tools")
    if not isinstance(tools, list):
        return body, []
    dropped = [f"tools[{i}]" for i, tool in enumerate(tools) if _type_of(tool) not in types]
    kept = [tool for tool in tools if _type_of(tool) in types]
    body = {key: value for key, value in body.items() if key != "tools"}
    return body | ({"tools": kept} if kept else {}), dropped


def has_custom_tools(body: JSONObject) -> bool:
    """Return whether a request has custom tools, also in a namespace or among those that its input adds."""
    items = body.get("input")
    adding = [item for item in items if _type_of(item) == "additional_tools"] if isinstance(items, list) else []
    return any(_holds_custom(holder) for holder in (body, *adding))


def _holds_custom(holder: JSONObject) -> bool:
    tools = holder.get("tools")
    found = tools if isinstance(tools, list) else []
    return any(_type_of(tool) == "custom" or (isinstance(tool, dict) and _holds_custom(tool)) for tool in found)


def _type_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else None


def native_body(body: JSONObject, history: Sequence[JSONObject], items: Sequence[Any]) -> JSONObject:
    """Return the body to send, but for the model's name: ``items`` are its input, and ``history`` what is before it.

    Nothing is stored at the upstream: clients never learn the ids under which it would be.
    """
    kept = {key: value for key, value in body.items() if key not in ("previous_response_id", "store", "input")}
    if isinstance(body.get("input"), str) and not history:
        return kept | {"input": body["input"], "store": False}
    return kept | {"input": [item for item in (*history, *items) if not _is_foreign(item)], "store": False}


def counts_otherwise(history: Sequence[JSONObject], items: Sequence[Any]) -> bool:
    """Return whether the upstream is sent other items than these, which are the client's."""
    return bool(history) or any(map(_is_foreign, items))


def _is_foreign(item: Any) -> bool:
    """Return whether an item is reasoning that the upstream cannot have: ours, or what it would have had to store."""
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    sealed = item.get("encrypted_content")
    return not isinstance(sealed, str) or sealed.startswith(PREFIX)


class NativeResponse(Translator):
    """Passes the events of one response on, and reads beside that what it took and whether it has ended.

    What it returns are chunks whose ``native`` is an event.
    """

    def __init__(self, read: Callable[[Event], JSONObject | None] | None = None) -> None:
        """``read`` reads an event, as ``payload_of`` does."""
        self.finished = False
        self._read = read or payload_of
        self.usage: JSONObject | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether the answer is complete: its last event says so."""
        return self.finished

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to.

        Raises:
            ErrorPayload: when the event reports an error.
            InvalidAnswer: when it is none of a response.
        """
        payload = None if self.finished else self._read(event)
        if payload is None:
            return []
        kind = payload["type"]
        if kind in ENDINGS:
            self.usage = usage_in(payload.get("response"))
            self.finished = True
        content = [] if kind in OPENINGS else [{"index": 0, "delta": {"native": True}}]
        return [{"native": payload, "choices": content}]

    def end(self) -> list[JSONObject]:
        """Return what is owed when the bytes have ended: nothing, for the last event has come or never will."""
        return []


def payload_of(event: Event) -> JSONObject | None:
    """Return an event, which has a type; None if it says nothing.

    Raises:
        ErrorPayload: when it reports a failure, in whatever form.
        InvalidAnswer: when it is no event of this dialect.
    """
    if not event.data:
        return None
    try:
        payload: JSONObject | None = json.decode_object(event.data, as_written=True)
    except json.InvalidJSON:
        payload = read_event(event, by_name=True)
    if payload is None or payload is DONE:
        return None
    kind = payload.get("type") or event.name
    if not kind and payload.get("object") == "response":  # it has come whole, where events were asked for
        response = _checked(payload)
        return {"type": f"response.{response['status']}", "response": response}
    if kind in _FAILURES:
        raise ErrorPayload(_failure_in(payload))
    if not isinstance(kind, str) or not kind:
        check_error(payload)
        raise InvalidAnswer("an event has no type")
    if kind in ENDINGS:
        kind = _ending_of(payload, kind)
    return None if kind == _SILENT else shaped_event(payload | {"type": kind}, kind)


def _ending_of(payload: JSONObject, kind: str) -> str:
    """Return the type of a last event: what its response says of itself counts."""
    response = payload.get("response")
    status = response.get("status") if isinstance(response, dict) else None
    if status == "failed":
        raise ErrorPayload(_failure_in(payload))
    return f"response.{status}" if f"response.{status}" in ENDINGS else kind


def _failure_in(payload: JSONObject) -> JSONObject:
    response = payload.get("response")
    error = response.get("error") if isinstance(response, dict) else payload.get("error")
    if isinstance(error, dict):
        return {"error": error}
    error = {key: payload.get(key) for key in ("message", "code", "param")}
    return {"error": error | {"message": error["message"] or "The upstream gave the answer up."}}


def usage_in(response: Any) -> JSONObject | None:
    """Return what a response took, under chat's names."""
    found = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(found, dict):
        return None
    counts = usage.merge(None, found)
    renamed = {"input_tokens_details": "prompt_tokens_details", "output_tokens_details": "completion_tokens_details"}
    return {renamed.get(key, key): value for key, value in counts.items()}


def read_response(data: bytes, decoded: Any = None) -> JSONObject:
    """Return a whole response; ``decoded`` is the value of ``data``, if that has been decoded already.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it is no response that has ended.
    """
    try:
        response = json.decode_object(data, as_written=True) if decoded is None else json.only_object(decoded)
    except json.InvalidJSON as error:
        if events := EventReader().feed(data):
            return _assembled(events)
        raise InvalidAnswer(str(error)) from None
    return _checked(response)


def _assembled(events: list[Event]) -> JSONObject:
    """Return the response that events amount to, which came where a whole one was asked for."""
    items: list[Any] = []
    for event in events:
        payload = payload_of(event) or {}
        if payload.get("type") == "response.output_item.done":
            items.append(payload.get("item"))
        if payload.get("type") in ENDINGS:
            response = payload.get("response")
            found = response if isinstance(response, dict) else {}
            status = payload["type"].removeprefix("response.")
            return _checked({"status": status} | found | {"output": found.get("output") or items})
    raise InvalidAnswer("its events stop before the response is complete")


def _checked(response: JSONObject) -> JSONObject:
    """Return a response that has ended well; raises as ``read_response`` does."""
    if response.get("status") == "failed" or response.get("error"):
        raise ErrorPayload(_failure_in({"response": response}))
    response = shaped_response(response)
    if response.get("status") is None and response.get("output"):  # it has come whole, and names no failure
        response["status"] = "incomplete" if response.get("incomplete_details") else "completed"
    if not isinstance(response.get("output"), list) or response.get("status") not in ("completed", "incomplete"):
        check_error(response)
        raise InvalidAnswer("it is not a whole response")
    return response
