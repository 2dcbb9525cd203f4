"""What Anthropic says at the end of an answer, in OpenAI's words: finish reasons, usage, citations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects import usage
from one_api.dialects.finish_reasons import OPENAI, in_openai_words, read_finish
from one_api.dialects.json import JSONObject

#: Anthropic's stop reasons; those of ``_NATURAL`` depend on whether the client's tools were called.
_FINISH_REASONS = {
    "end_turn": "stop",
    "tool_use": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "refusal": "content_filter",
}
_NATURAL = ("end_turn", "tool_use", "stop", "tool_calls")
_TIERS = {"standard": "default", "priority": "priority"}


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What the request asked for, as far as it changes the form of the answer."""

    #: The client's names of tools, by the upstream's, where they differ.
    names: Mapping[str, str] = field(default_factory=dict)
    #: The client's names of its custom tools: their input is a text.
    custom_tools: frozenset[str] = frozenset()
    #: Stop strings that the upstream refuses.
    stops: tuple[str, ...] = ()
    #: The upstream's name of a tool whose input is really the content.
    json_tool: str | None = None
    #: The client's name of the tool whose arguments the text really is.
    forced_tool: str | None = None
    #: Take a Markdown fence around the whole answer away.
    unfence: bool = False
    #: An answer without calls that is no JSON object, and was not stopped, is unfit.
    json_object: bool = False
    legacy_functions: bool = False
    #: Tell the blocks that have no place in OpenAI's format, as they came.
    provider_blocks: bool = False


def known_stop(reason: str) -> bool:
    """Return whether a stop reason is one that we have a word for."""
    return reason in _FINISH_REASONS or reason in OPENAI


def check_stop(reason: str) -> None:
    """Raise ErrorPayload when a stop reason means that the answer failed."""
    if not known_stop(reason):
        read_finish({"finish_reason": reason}, called=False)


def ends_of_itself(stop_reason: str | None) -> bool:
    """Return whether the model had said all that it wanted to: nothing stopped it."""
    return stop_reason in _NATURAL


def finish_reason(stop_reason: str | None, called: str | None) -> str:
    """Return OpenAI's word for a stop reason; ``called`` is the word for an answer that ends with calls, or None.

    Those of other dialects are known, too. One that is new to us is ``stop``, also after calls: what it means for them
    is not known.
    """
    if called and ends_of_itself(stop_reason):
        return called
    word = _FINISH_REASONS.get(stop_reason or "") or in_openai_words(stop_reason or "stop")
    return word if word in ("length", "content_filter") else "stop"


def service_tier(tier: Any) -> str | None:
    """Return OpenAI's word for the tier that was used; None when it has none."""
    return _TIERS.get(tier) if isinstance(tier, str) else None


def answer_id(message_id: Any, fallback: str) -> str:
    """Return the completion's id, in which the message's own can be found again."""
    if not isinstance(message_id, str) or not message_id:
        return fallback
    return message_id if message_id.startswith("chatcmpl-") else f"chatcmpl-{message_id.removeprefix('msg_')}"


def merge_usage(known: JSONObject, said: JSONObject) -> None:
    """Take over what ``said`` reports of the usage: of each count the largest, of all else the last.

    Counts are cumulative, so they grow. A later zero, or null, is of a server that has not counted.
    """
    for key, value in said.items():
        before = known.get(key)
        if isinstance(value, dict):
            known[key] = inner = before if isinstance(before, dict) else {}
            merge_usage(inner, value)
        elif _count(before):
            known[key] = max(_count(before), _count(value))
        elif value is not None:
            known[key] = value


def usage_of(said: JSONObject) -> JSONObject:
    """Return OpenAI's usage object for Anthropic's, which counts cached tokens apart."""
    read, written = _count(said.get("cache_read_input_tokens")), _count(said.get("cache_creation_input_tokens"))
    of_prompt = {"cached_tokens": read, "cache_write_tokens": written}
    by_time = said.get("cache_creation")
    if isinstance(by_time, dict) and (long := _count(by_time.get("ephemeral_1h_input_tokens"))):
        of_prompt["cache_write_1h_tokens"] = min(long, written)
    details = said.get("output_tokens_details")
    thinking = _count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    prompt, completion = _count(said.get("input_tokens")) + read + written, _count(said.get("output_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": of_prompt,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def sum_usage(one: JSONObject, other: JSONObject) -> JSONObject:
    """Return the usage of two answers together: counts are added, all else is the later one's."""
    total = dict(one)
    for key, value in other.items():
        known = total.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            total[key] = sum_usage(known, value)
        elif isinstance(value, int) and isinstance(known, int) and not isinstance(value, bool):
            total[key] = known + value
        else:
            total[key] = value
    return total


def _count(value: Any) -> int:
    """Return a count; 0 for what is not a count."""
    count = usage.count(value)
    return count if isinstance(count, int) and not isinstance(count, bool) else 0


def annotation(citation: JSONObject, start: int, end: int) -> JSONObject | None:
    """Return the annotation for a citation of a web page, in characters of the content; None for other kinds."""
    if citation.get("type") != "web_search_result_location" or not isinstance(citation.get("url"), str):
        return None
    title = citation.get("title")
    cited = {"start_index": start, "end_index": end, "url": citation["url"], "title": title or ""}
    return {"type": "url_citation", "url_citation": cited}
