"""A whole answer of an OpenAI-compatible upstream, made to look as OpenAI's own does."""

from dataclasses import dataclass
from typing import Any

from one_api.wire import json
from one_api.wire.error_body import reports_error
from one_api.wire.json import JSONObject

#: What other servers say, in OpenAI's words.
FINISH_REASONS: dict[str | None, str | None] = {
    "eos": "stop", "eos_token": "stop", "end_turn": "stop", "max_tokens": "length", "": None,
}  # fmt: skip


class ErrorPayload(Exception):
    """The upstream sent an error where an answer belongs; ``payload`` is what it sent."""

    def __init__(self, payload: JSONObject) -> None:
        super().__init__("the upstream sent an error in place of an answer")
        self.payload = payload


class InvalidAnswer(ValueError):
    """What the upstream sent is no answer; the message says why."""


class UnfitAnswer(InvalidAnswer):
    """The answer is whole and can be read, but it has not the form that the client asked for."""


class StrayEvent(InvalidAnswer):
    """One event of a stream is no chunk, and the answer can be trusted without it: so far it is nothing but text."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an answer is filled up with when the upstream left it out; ``created`` is in Unix seconds."""

    id: str
    created: int
    model: str


def has_error(payload: JSONObject) -> bool:
    """Say whether a payload reports an error, in any of the shapes seen."""
    return reports_error(payload)


def normalise(answer: JSONObject, identity: Identity) -> JSONObject:
    """Fill up and mend ``answer`` in place, and return it.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it holds no choices.
    """
    if has_error(answer):
        raise ErrorPayload(answer)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvalidAnswer("it holds no choices")
    fill(answer, identity, "chat.completion")
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise InvalidAnswer("a choice holds no message")
        if not isinstance(choice.get("index"), int):
            choice["index"] = position
        choice.setdefault("logprobs", None)
        _mend_message(choice["message"], answer["id"])
        called = "tool_calls" in choice["message"]
        choice["finish_reason"] = finish_reason(choice.get("finish_reason"), called) or natural_end(called)
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


def finish_reason(reason: Any, has_tool_calls: bool) -> str | None:
    """Return OpenAI's word for a finish reason."""
    if not isinstance(reason, str):
        return None
    reason = FINISH_REASONS.get(reason, reason)
    return "tool_calls" if reason == "stop" and has_tool_calls else reason


def natural_end(has_tool_calls: bool) -> str:
    """Return the finish reason of an answer that is complete and gives none."""
    return "tool_calls" if has_tool_calls else "stop"


def own_call_id(answer_id: str, position: int) -> str:
    """Return an id for a tool call that came without one."""
    return f"call_{answer_id[-24:]}_{position}"


def rename_reasoning(holder: JSONObject) -> None:
    """Give reasoning text the one name that we send."""
    if isinstance(holder.get("reasoning"), str):
        reasoning = holder.pop("reasoning")
        holder.setdefault("reasoning_content", reasoning)


def arguments_text(arguments: Any) -> str:
    """Return tool-call arguments as the JSON text that they are in OpenAI's format."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.encode(arguments).decode()


def _mend_message(message: JSONObject, answer_id: str) -> None:
    message["role"] = "assistant"
    message.setdefault("content", None)
    message.setdefault("refusal", None)
    rename_reasoning(message)
    calls = message.get("tool_calls")
    if not calls or not isinstance(calls, list):
        message.pop("tool_calls", None)
        return
    for position, call in enumerate(calls):
        if not isinstance(call, dict):
            raise InvalidAnswer("a tool call is not an object")
        call.pop("index", None)
        if not isinstance(call.get("id"), str) or not call["id"]:
            call["id"] = own_call_id(answer_id, position)
        function = call.get("function")
        if isinstance(function, dict):
            call.setdefault("type", "function")
            function["arguments"] = arguments_text(function.get("arguments")) or "{}"
