"""A chat completion becomes a message of Anthropic's."""

import hashlib
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from one_api.dialects.anthropic.history import RAW_ARGUMENTS, tool_input
from one_api.dialects.anthropic.inbound.chat import AnswerForm
from one_api.dialects.anthropic.text import StopScanner
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import calls_in
from one_api.dialects.openai.shapes import text_of
from one_api.dialects.tokens import BYTES_PER_TOKEN

#: Returns the signature that carries reasoning to the client and back; "" when no client wants it back.
Seal: TypeAlias = Callable[[str], str]

#: Anthropic's words for answers that ended before their time.
STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
#: What the text of a custom tool is called in the input of a call.
CUSTOM_INPUT = "input"
#: What a model writes beside its text and calls.
_WRITTEN = ("reasoning_content", "refusal")
_LEGAL_ID = re.compile(r"[a-zA-Z0-9_-]+")


def to_message(
    completion: JSONObject, message_id: str, form: AnswerForm, count_input: Callable[[], int], seal: Seal
) -> JSONObject:
    """Return the message that ``completion`` amounts to; ``message_id`` is its id.

    ``count_input`` estimates the tokens of the input where the upstream has reported no usage.
    """
    choice = completion["choices"][0]
    said = choice["message"]
    text, refusal = _text(text_of(said)), _text(said.get("refusal"))
    scanner = StopScanner(form.stops if form.cuts else ())
    text = scanner.feed(text) + scanner.end() if text else ""
    made = [] if scanner.hit else [call for call in calls_in(said, message_id) if body_of(call)]
    calls = [_call(call, form) for call in made]
    content = _thought(said, form, seal)
    if text.strip():
        cited = citations_of(said)
        content.append({"type": "text", "text": text} | ({"citations": cited} if cited else {}))
    if refusal.strip():
        content.append({"type": "text", "text": refusal})
    usage = completion.get("usage")
    # The text of a custom tool shows no end of its own.
    whole = not any("custom" in call for call in made) and not any(RAW_ARGUMENTS in call["input"] for call in calls)
    stop = Stop.of(choice, form, called=bool(calls), whole=whole, cut=scanner.stop)
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": form.model,
        "content": content + calls,
        **stop.fields(refusal),
        "usage": usage_of(usage) if usage is not None else estimated_usage(count_input(), size_of(said)),
    }


def with_head(message: JSONObject, message_id: str, model: str) -> JSONObject:
    """Return a message of an upstream's own, whole or as it begins, with what clients rely on to be in each.

    Servers that imitate Anthropic's leave some of it out, or null.
    """
    head: JSONObject = {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": []}
    usage = message.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    missing = {name: 0 for name in ("input_tokens", "output_tokens") if not isinstance(counts.get(name), int)}
    given = {name: value for name, value in head.items() if message.get(name) is None}
    return {**message, **given, "usage": {**counts, **missing}}


class Stop:
    """Why an answer ended, in Anthropic's words."""

    def __init__(self, reason: str, sequence: str | None) -> None:
        self.reason = reason
        self.sequence = sequence

    @classmethod
    def of(cls, choice: JSONObject, form: AnswerForm, *, called: bool, whole: bool, cut: str | None) -> "Stop":
        """Read the end of ``choice``.

        ``called``: it holds calls, and ``whole``: all of their arguments have come. ``cut`` is the stop string at which
        the gateway has ended it.
        """
        reason = STOP_REASONS.get(choice.get("finish_reason") or "")
        if cut is not None:
            return cls("stop_sequence", cut)
        # A call whose arguments were cut is not to be run.
        if called and (whole or reason is None):
            return cls("tool_use", None)
        if reason is not None:
            return cls(reason, None)
        # vLLM's name for it, and SGLang's.
        matched = next((choice[key] for key in ("stop_reason", "matched_stop") if choice.get(key) in form.stops), None)
        return cls("stop_sequence", matched) if matched is not None else cls("end_turn", None)

    def fields(self, refusal: str) -> JSONObject:
        """Return the fields of a message; ``refusal`` is what the model said about it."""
        details = {"type": "refusal", "category": None, "explanation": refusal or None}
        return {
            "stop_reason": self.reason,
            "stop_sequence": self.sequence,
            "stop_details": details if self.reason == "refusal" else None,
        }


def usage_of(usage: Any) -> JSONObject:
    """Return Anthropic's four counts for OpenAI's, and that of thinking where it is reported.

    They count cached tokens apart.
    """
    reported = usage if isinstance(usage, dict) else {}
    details = reported.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    read, written = _count(details.get("cached_tokens")), _count(details.get("cache_write_tokens"))
    made = reported.get("completion_tokens_details")
    thought = _count(made.get("reasoning_tokens")) if isinstance(made, dict) else 0
    found: JSONObject = {
        "input_tokens": max(0, _count(reported.get("prompt_tokens")) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": _count(reported.get("completion_tokens")),
    }
    return found | {"output_tokens_details": {"thinking_tokens": thought}} if thought else found


def estimated_usage(input_tokens: int, characters: int) -> JSONObject:
    """Return the counts of an answer of so many ``characters`` whose upstream has reported none."""
    output_tokens = max(1, characters // BYTES_PER_TOKEN)
    return {**usage_of(None), "input_tokens": input_tokens, "output_tokens": output_tokens}


def call_id(given: Any) -> str:
    """Return the id of a call as Anthropic's clients and servers take it: its own, or the same hash each time."""
    text = str(given)
    if _LEGAL_ID.fullmatch(text):
        return text
    return f"call_{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:24]}"


def _thought(said: JSONObject, form: AnswerForm, seal: Seal) -> list[JSONObject]:
    """Return the thinking block; none where the client has not asked for such, or it would be empty."""
    text = _text(said.get("reasoning_content"))
    if not text or form.thinking == "none":
        return []
    signature = seal(text)
    shown = text if form.thinking == "shown" else ""
    return [{"type": "thinking", "thinking": shown, "signature": signature}] if shown or signature else []


def citations_of(said: JSONObject) -> list[JSONObject]:
    """Return the citations of web pages in chat's annotations of a message, or of a delta of one.

    ``encrypted_index`` has to be a text; only Anthropic's own servers have one.
    """
    annotations = said.get("annotations")
    cited = [each.get("url_citation") for each in annotations or () if isinstance(each, dict)]
    return [
        {
            "type": "web_search_result_location",
            "url": each["url"],
            "title": _text(each.get("title")),
            "cited_text": _text(each.get("content")),
            "encrypted_index": "",
        }
        for each in cited
        if isinstance(each, dict) and isinstance(each.get("url"), str)
    ]


def body_of(call: JSONObject) -> JSONObject:
    """Return what a call, or a delta of one, holds: of a function, or of a custom tool, whose input is a text."""
    return call.get("function") or call.get("custom") or {}


def _call(call: JSONObject, form: AnswerForm) -> JSONObject:
    body = body_of(call)
    name = str(body.get("name") or "")
    # Anthropic's clients know no tool whose input is no object.
    given = {CUSTOM_INPUT: _text(body.get("input"))} if "custom" in call else tool_input(body.get("arguments"))
    return {"type": "tool_use", "id": call_id(call.get("id")), "name": form.names.get(name, name), "input": given}


def size_of(said: JSONObject) -> int:
    """Return how many characters the model has written in a message, or in a delta of one."""
    bodies = [body_of(call) for call in calls_in(said, "")]
    arguments = [body.get("arguments") or body.get("input") for body in bodies]
    return sum(len(_text(each)) for each in (text_of(said), *map(said.get, _WRITTEN), *arguments))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    """Return a count; 0 for what is not a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
