"""A whole answer of an OpenAI-compatible upstream, made to look as OpenAI's own does."""

from typing import Any

from msgspec import Struct

from one_api.dialects import usage
from one_api.dialects.finish_reasons import read_finish
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import arguments_text, whole_arguments
from one_api.dialects.openai.calls import body_of, call_id_of, own_call_id
from one_api.dialects.openai.citations import annotations_of, sources_in
from one_api.dialects.openai.shapes import bring_choices, message_in, shape_texts
from one_api.dialects.openai.strict import shape_annotations, strict_logprobs
from one_api.dialects.payloads import ErrorPayload as ErrorPayload
from one_api.dialects.payloads import InvalidAnswer as InvalidAnswer
from one_api.dialects.payloads import UnfitAnswer as UnfitAnswer
from one_api.dialects.payloads import check_error, is_blank


class Identity(Struct, frozen=True):
    """What an answer is filled up with when the upstream left it out; ``created`` is in Unix seconds."""

    id: str
    created: int
    model: str


def normalise(answer: JSONObject, identity: Identity, *, has_tools: bool = False) -> JSONObject:
    """Fill up and mend ``answer`` in place, and return it.

    With ``has_tools``, calls in the deprecated form are calls of tools.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it holds no choices.
    """
    check_error(answer)
    choices = bring_choices(answer)
    if not choices:
        raise InvalidAnswer("it holds no choices")
    fill(answer, identity, "chat.completion")
    counts, sources = usage.counts_in(answer), sources_in(answer)
    for position, choice in enumerate(choices):
        _mend_choice(choice, position, answer["id"], has_tools=has_tools)
        message = choice["message"]
        if sources and not message.get("annotations"):
            message["annotations"] = annotations_of(sources, message["content"] or "")
    if counts:
        answer["usage"] = counts
    else:
        answer.pop("usage", None)
    return answer


def fill(payload: JSONObject, identity: Identity, kind: str) -> None:
    """Set the fields that every answer and chunk has; wrong ones are replaced."""
    if not isinstance(payload.get("id"), str) or not payload["id"]:
        payload["id"] = identity.id
    if not isinstance(payload.get("created"), int) or payload["created"] <= 0:
        payload["created"] = identity.created
    if not isinstance(payload.get("model"), str) or not payload["model"]:
        payload["model"] = identity.model
    payload["object"] = kind
    drop_odd(payload)
    payload.pop("error", None)  # it says that there is none: SDKs raise for some ways to say so


def drop_odd(payload: JSONObject) -> None:
    """Drop what an answer or chunk says of its making where that is no text."""
    for name in ("system_fingerprint", "service_tier"):
        if not isinstance(payload.get(name), str | None):
            del payload[name]


#: Finish reasons of an answer that ends in the middle.
CUTS = frozenset({"length", "content_filter"})


def natural_end(called: bool | None) -> str:
    """Return the finish reason of an answer that is complete and gives none; ``called`` as for ``read_finish``."""
    if called is None:
        return "function_call"
    return "tool_calls" if called else "stop"


def check_choice(choice: JSONObject) -> None:
    """Raise ErrorPayload when a choice or message reports an error (OpenRouter); one that says nothing is taken out."""
    if (error := choice.pop("error", None)) is not None and not is_blank(error):
        raise ErrorPayload({"error": error})


def _mend_choice(choice: JSONObject, position: int, answer_id: str, *, has_tools: bool) -> None:
    check_choice(choice)
    if not isinstance(choice.get("index"), int):
        choice["index"] = position
    message = choice.get("message")
    if not isinstance(message, dict):
        cut = "delta" in choice
        message = message_in(choice)
        if (message is None or cut) and not choice.get("finish_reason"):
            raise InvalidAnswer("a choice holds no message")
        choice["message"] = message = message or {}
    check_choice(message)
    logprobs = choice.get("logprobs")
    choice["logprobs"] = None if logprobs is None else strict_logprobs(logprobs)
    called_so = message.get("function_call")
    legacy = not message.get("tool_calls") and isinstance(called_so, dict) and not is_blank(called_so)
    if legacy:
        message["tool_calls"] = [{"type": "function", "function": message.pop("function_call")}]
        legacy = not has_tools
    _mend_message(message, answer_id)
    has_calls = "tool_calls" in message
    called = None if legacy else has_calls
    read_finish(choice, called=called)
    choice["finish_reason"] = choice["finish_reason"] or natural_end(called)
    if has_calls and choice["finish_reason"] not in CUTS and not all(map(_has_name, message["tool_calls"])):
        raise InvalidAnswer("a tool call has no name")
    if legacy:
        message["function_call"] = message.pop("tool_calls")[0]["function"]


def _is_nothing(call: Any) -> bool:
    """Return whether an entry has no name, no arguments and no id: it says that nothing is called."""
    return is_blank({key: value for key, value in call.items() if key != "type"} if isinstance(call, dict) else call)


def _has_name(call: JSONObject) -> bool:
    """Return whether a call says what is called; only functions need to have it in that place."""
    function = call.get("function")
    return not isinstance(function, dict) or (isinstance(function.get("name"), str) and function["name"] != "")


def _mend_message(message: JSONObject, answer_id: str) -> None:
    message["role"] = "assistant"
    message.setdefault("content", None)
    message.setdefault("refusal", None)
    shape_texts(message)
    if message.get("audio") is not None and not message["audio"]:
        del message["audio"]
    if message.get("annotations") is not None:
        shape_annotations(message)
    given = message.pop("tool_calls", None)
    entries = given if isinstance(given, list) else [given]
    calls = [call for call in entries if not _is_nothing(call)]
    if not calls:
        if is_blank(message.get("function_call")):
            message.pop("function_call", None)
        return
    message["tool_calls"] = calls
    message.pop("function_call", None)
    seen: set[Any] = set()
    for position, call in enumerate(calls):
        if not isinstance(call, dict):
            raise InvalidAnswer("a tool call is not an object")
        call.pop("index", None)
        if call_id_of(call) is None or call["id"] in seen:
            call["id"] = own_call_id(answer_id, position)
        seen.add(call["id"])
        kind, body = body_of(call)
        if "name" in body:
            if kind == "function":
                body["arguments"] = whole_arguments(body["arguments"]) or "{}"
            else:
                body["input"] = arguments_text(body.get("input"))
            call |= {"type": kind, kind: body}
