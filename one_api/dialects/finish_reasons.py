"""Why an answer ended: the words of other servers, in OpenAI's; and those that mean that it failed."""

import re
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import ErrorPayload

#: OpenAI's own words.
OPENAI = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})

#: Foreign words without case, with "_" between their parts. Claude's, Gemini's, Mistral's, Cohere's, Zhipu's, Ollama's,
#: text-generation-inference's and llama.cpp's; any other is an end like ``stop`` unless it speaks of a failure.
_MEANINGS = {
    "length": (
        "length max_tokens max_length max_output_tokens max_completion_tokens model_length token_limit "
        "context_length_exceeded model_context_window_exceeded context_window_exceeded limit truncated incomplete"
    ),
    "tool_calls": "tool_calls tool_call tool_use function_calls",
    "function_call": "function_call",
    "content_filter": (
        "content_filter content_filtered content_filtering safety sensitive recitation blocklist prohibited_content "
        "spii image_safety language refusal guardrail_intervened guardrails error_toxic moderation blocked flagged"
    ),
}  # fmt: skip
#: Words for no reason: what is not over yet (DashScope's own dialect), or Gemini's default.
_NONE = frozenset({"", "null", "none", "nil", "undefined", "unspecified"})
_WORD_OF = {foreign: word for word, group in _MEANINGS.items() for foreign in group.split()}
#: Parts of a word for an answer that was given up. vLLM: abort; DeepSeek: insufficient_system_resource; Zhipu:
#: network_error; Gemini: MALFORMED_FUNCTION_CALL.
_FAILURE = re.compile(
    "abort|error|fail|cancel|insufficient|resource|overload|unavailable|time_?d?_?out|exception|malformed|unexpected"
    "|interrupt|disconnect|crash|killed|preempt"
)
#: Parts of a word for an answer that was cut.
_CUT = re.compile("length|max_\\w*tokens|token_\\w*limit|truncat")
#: Parts of a word for an answer that was withheld. Gemini: content_filter: PROHIBITED_CONTENT, IMAGE_RECITATION.
_WITHHELD = re.compile("content_?filter|safety|prohibited|recitation|blocklist|blocked|moderat|guardrail|model_armor")
_BUSY = re.compile("insufficient|resource|overload|unavailable|preempt")


def in_openai_words(reason: str) -> str | None:
    """Return OpenAI's word for a finish reason; None when it means that the answer failed."""
    if reason in OPENAI:
        return reason
    foreign = _plain(reason)
    word = _WORD_OF.get(foreign)
    if word is None and not _FAILURE.search(foreign):
        if _WITHHELD.search(foreign):
            return "content_filter"
        return "length" if _CUT.search(foreign) else "stop"
    return word


def _plain(reason: str) -> str:
    return re.sub(r"[\s.-]+", "_", reason.strip().lower()).removeprefix("finish_reason_")


def read_finish(choice: JSONObject, *, called: bool | None) -> None:
    """Put the finish reason of a choice into OpenAI's words, in place; a foreign one stays as ``native_finish_reason``.

    ``called`` says whether the choice holds tool calls; None stands for a call in the deprecated form.

    Raises:
        ErrorPayload: when it means that the answer failed.
    """
    reason: Any = choice.get("finish_reason")
    if isinstance(reason, dict):
        reason = reason.get("type")
    if not isinstance(reason, str) or (reason not in OPENAI and _plain(reason) in _NONE):
        choice["finish_reason"] = None
        return
    word, foreign = in_openai_words(reason), reason not in OPENAI
    if word is None:
        choice["finish_reason"] = None
        raise ErrorPayload(_failure(reason))
    if called and word in ("stop", "function_call"):
        word = "tool_calls"
    elif word == "tool_calls" and called is None:
        word = "function_call"
    elif word == "tool_calls" and not called:  # clients would ask again and again
        word, foreign = "stop", True
    choice["finish_reason"] = word
    if foreign and not choice.get("native_finish_reason"):
        choice["native_finish_reason"] = reason


def _failure(reason: str) -> JSONObject:
    """Return the report of an answer that was given up for ``reason``."""
    code = 503 if _BUSY.search(reason.lower()) else 502
    message = f"The upstream gave the answer up: finish reason {reason[:100]!r}."
    return {"error": {"message": message, "type": "server_error", "code": code}}
