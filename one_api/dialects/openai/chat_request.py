"""What we read of a chat request, checked; everything else in it passes through untouched.

The checks are the rows of OpenAI's behaviour that every adapter relies on: types and places of what we must
understand ourselves. What only the upstream can judge (ranges, names, combinations for a model) is left to it.
"""

from typing import Any, ClassVar, Self

from msgspec import Struct

from one_api.contract import Kind
from one_api.dialects.checks import missing, not_among, wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.errors import InvalidRequest

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
#: OpenAI's part types, then those of other servers that pass through.
PART_TYPES = (
    "text", "image_url", "input_audio", "file", "refusal",
    "video_url", "input_video", "audio_url", "thinking",
)  # fmt: skip
#: Roles whose messages need content.
_SPEAKING = frozenset({"developer", "system", "user", "tool"})


class ChatRequest(Struct, frozen=True):
    """A chat request: what we act on, and the body as it came, which is not changed in place.

    It travels as one object down to the adapters: no key of a client's JSON ever becomes a Python argument.
    """

    model: str
    stream: bool
    #: Did the client ask for the usage chunk of a stream?
    include_usage: bool
    body: JSONObject
    #: The request as it came, where that was in another dialect: ``body`` says the same for all other upstreams.
    native: NativeRequest | None = None

    #: See ``Call``.
    kind: ClassVar[Kind] = "chat"
    repeats: ClassVar[bool] = True

    @classmethod
    def of(cls, body: JSONObject) -> Self:
        """Return the view of a body that our own code has made, or that was checked before."""
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return cls(body["model"], bool(body.get("stream")), include_usage, body)

    def for_model(self, model: str) -> Self:
        """Return the same request for the model of that name; its body keeps the order of its keys."""
        return type(self)(model, self.stream, self.include_usage, self.body | {"model": model}, self.native)

    def with_body(self, body: JSONObject) -> Self:
        """Return the same request with another body."""
        return type(self)(self.model, self.stream, self.include_usage, body, self.native)

    def with_native(self, native: NativeRequest | None) -> Self:
        """Return the same request with what came through a door of another dialect."""
        return type(self)(self.model, self.stream, self.include_usage, self.body, native)

    @classmethod
    def read(cls, body: JSONObject) -> Self:
        """Check ``body`` and return its view.

        Raises:
            InvalidRequest: naming the first thing that is wrong by ``param`` and ``code``.
        """
        model = model_in(body)
        _check_messages(body)
        stream, include_usage = stream_in(body)
        _check_tools(body)
        return cls(model, stream, include_usage, body)


def model_in(body: JSONObject) -> str:
    """Return the model that a request names; raises InvalidRequest when it names none."""
    model = body.get("model")
    if model is None or model == "":
        raise InvalidRequest("You must name a model: set `model` to one of the ids that /v1/models lists.")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    return model


def stream_in(body: JSONObject) -> tuple[bool, bool]:
    """Return whether a request asks for a stream, and for usage in it; raises InvalidRequest."""
    stream = _flag(body, "stream", "stream")
    options = body.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    if not stream:
        raise InvalidRequest("`stream_options` is only allowed with `stream: true`.", param="stream_options")
    return stream, _flag(options, "include_usage", "stream_options.include_usage")


def _flag(holder: JSONObject, key: str, param: str) -> bool:
    """Return a boolean that may be null or absent."""
    value = holder.get(key)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)
    return bool(value)


def _check_tools(body: JSONObject) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise wrong_type("tools", "an array", tools)
    if body.get("tool_choice") is not None and not tools:
        raise InvalidRequest("`tool_choice` is only allowed when `tools` are given.", param="tool_choice")


def _check_messages(body: JSONObject) -> None:
    """Check types, roles and parts, and that tool calls and their results pair up."""
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of messages", messages)
    if not messages:
        raise InvalidRequest("`messages` is empty: give at least one message.", param="messages", code="empty_array")
    pending: dict[str, int] = {}
    answerable: set[str] = set()
    for i, message in enumerate(messages):
        role = _check_message(message, f"messages[{i}]")
        if role == "tool":
            _check_tool_result(message, i, answerable)
            pending.pop(message["tool_call_id"], None)
            continue
        _refuse_unanswered(pending)
        answerable = _call_ids(message) if role == "assistant" else set()
        pending = dict.fromkeys(sorted(answerable), i)
    _refuse_unanswered(pending)


def _check_message(message: Any, where: str) -> str:
    """Check one message and return its role."""
    if not isinstance(message, dict):
        raise wrong_type(where, "an object", message)
    role = message.get("role")
    if role is None:
        raise missing(f"{where}.role")
    if not isinstance(role, str):
        raise wrong_type(f"{where}.role", "a string", role)
    if role not in ROLES:
        raise not_among(f"{where}.role", role, ROLES)
    content = message.get("content")
    if isinstance(content, list):
        for j, part in enumerate(content):
            _check_part(part, f"{where}.content[{j}]")
    elif not isinstance(content, str) and (content is not None or role in _SPEAKING):
        raise wrong_type(f"{where}.content", "a string or an array of content parts", content)
    return role


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, dict):
        raise wrong_type(where, "an object", part)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in PART_TYPES:
        raise not_among(f"{where}.type", kind, PART_TYPES)


def _check_tool_result(message: JSONObject, i: int, answerable: set[str]) -> None:
    call_id = message.get("tool_call_id")
    where = f"messages[{i}].tool_call_id"
    if call_id is None:
        raise missing(where)
    if not isinstance(call_id, str):
        raise wrong_type(where, "a string", call_id)
    if call_id not in answerable:
        raise InvalidRequest(
            "A message with role `tool` must answer a preceding assistant message whose `tool_calls` hold its id.",
            param=f"messages.[{i}].role",
        )


def _call_ids(message: JSONObject) -> set[str]:
    """Return the ids of an assistant message's tool calls; malformed calls are the upstream's to judge."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return set()
    return {call["id"] for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)}


def _refuse_unanswered(pending: dict[str, int]) -> None:
    if pending:
        raise InvalidRequest(
            "An assistant message with `tool_calls` must be followed by tool messages that answer each id. "
            f"Unanswered: {', '.join(call_id[:64] for call_id in list(pending)[:10])}",
            param=f"messages.[{next(iter(pending.values()))}].role",
        )
