"""Token counts, wherever an answer reports them: of each field the largest counts, a null or a zero never does."""

import re
from collections.abc import Iterator
from typing import Any

from one_api.dialects.json import JSONObject

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
#: OpenAI's names, by those of other dialects, as ``_plain`` writes them: Claude's and OpenAI's Responses, Gemini's,
#: llama.cpp's timings, Ollama's. Bedrock and servers in TypeScript write them and OpenAI's own in camel case.
_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "prompt_token_count": "prompt_tokens",
    "candidates_token_count": "completion_tokens",
    "total_token_count": "total_tokens",
    "prompt_n": "prompt_tokens",
    "predicted_n": "completion_tokens",
    "prompt_eval_count": "prompt_tokens",
    "eval_count": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
    # Transcriptions; Gemini's, by modality.
    "input_token_details": "prompt_tokens_details",
    "output_token_details": "completion_tokens_details",
    "candidates_tokens_details": "completion_tokens_details",
    "response_tokens_details": "completion_tokens_details",
} | {name: name for name in (*_COUNTS, *_DETAILS)}
#: Counts that others report beside the three, and the place that they have in OpenAI's details. DeepSeek's, Moonshot's,
#: Claude's, Gemini's.
_PARTS = {
    "cache_tokens_details": ("prompt_tokens_details", "cached_tokens_details"),
    "num_cached_tokens": ("prompt_tokens_details", "cached_tokens"),
    "prompt_cache_hit_tokens": ("prompt_tokens_details", "cached_tokens"),
    "cached_tokens": ("prompt_tokens_details", "cached_tokens"),
    "cache_read_input_tokens": ("prompt_tokens_details", "cached_tokens"),
    "cached_content_token_count": ("prompt_tokens_details", "cached_tokens"),
    "cache_creation_input_tokens": ("prompt_tokens_details", "cache_write_tokens"),
    "reasoning_tokens": ("completion_tokens_details", "reasoning_tokens"),
    "thoughts_token_count": ("completion_tokens_details", "reasoning_tokens"),
}
#: Where an answer reports them beside ``usage``: Gemini and servers in front of it.
_HOLDERS = ("usageMetadata", "usage_metadata", "token_usage")
#: What holds them among other things: Groq's; Cohere's and others'; LM Studio's.
_BESIDE = ("x_groq", "meta", "stats", "metadata", "response_metadata")
#: Where an answer may report them, its choices left aside.
PLACES = frozenset({"usage", "timings", *_HOLDERS, *_BESIDE})
_ELSEWHERE = PLACES - {"usage"}
#: Where a report holds the counts itself. Cohere: tokens, which are more than the billed_units beside them.
_INNER = ("usage", "tokens", "token_usage", "billed_units")
#: More tokens than this no answer takes.
_MAX_COUNT = 10**9


def merge(known: JSONObject | None, reported: JSONObject) -> JSONObject:
    """Return what is known after one more report; neither is changed."""
    if known is reported:
        return known
    said = _read(reported)
    if known is None:
        return said
    merged = dict(known)
    for name, value in said.items():
        merged[name] = _larger(merged.get(name), value)
    counts = [merged[name] for name in _COUNTS if _is_number(merged.get(name))]
    return merged | {"total_tokens": sum(counts[:2])} if len(counts) == len(_COUNTS) else merged


def reported_in(payload: JSONObject) -> list[JSONObject]:
    """Return the reports in an answer or chunk: its own, those of its choices (Moonshot) and their messages, Gemini's,
    and those that an object beside holds (Groq's).

    What such an object counts itself, and llama.cpp in ``timings``, is one where there is no other.
    """
    given_choices = payload.get("choices")
    choices = [each for each in given_choices if isinstance(each, dict)] if isinstance(given_choices, list) else []
    is_elsewhere = not _ELSEWHERE.isdisjoint(payload)
    beside = [each for name in _BESIDE if isinstance(each := payload.get(name), dict)] if is_elsewhere else []
    holders = [payload, *beside, *choices, *[each.get("message") for each in choices]]
    given = [each.get(key) for each in holders if isinstance(each, dict) for key in ("usage", *_HOLDERS) if key in each]
    found = [report for each in given if each for report in _reports_of(each)]
    if not found:
        found = [report for each in beside for report in _reports_of(each) if _has_counts(report)]
    timings = payload.get("timings")
    if not found and isinstance(timings, dict) and _is_number(timings.get("predicted_n")):
        processed = [count(timings.get(name)) for name in ("prompt_n", "cache_n")]
        found.append({"prompt_n": sum(filter(_is_number, processed)), "predicted_n": timings["predicted_n"]})
    return found


def counts_in(payload: JSONObject) -> JSONObject | None:
    """Return what the reports in an answer or chunk come to; None if there are none."""
    counts: JSONObject | None = None
    for each in reported_in(payload):
        counts = merge(counts, each)
    return counts


def _reports_of(value: Any) -> Iterator[JSONObject]:
    """Give the reports in a value: an object, or a list of such."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and each:
            has_counts = "prompt_tokens" in each or _has_counts(each)
            inner = None if has_counts else next((each[key] for key in _INNER if each.get(key)), None)
            yield inner if isinstance(inner, dict) else each


def stands_elsewhere(payload: JSONObject) -> bool:
    """Return whether a chunk may report usage in another place than its own ``usage``, its choices left aside."""
    return not _ELSEWHERE.isdisjoint(payload)


def _has_counts(reported: JSONObject) -> bool:
    return any(_NAMES.get(_plain(name)) in _COUNTS for name in reported)


def _plain(name: str) -> str:
    """Return a name in small letters with underscores, whichever way it is written."""
    return name if name.islower() else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _read(reported: JSONObject) -> JSONObject:
    """Return a report under OpenAI's names, its counts as numbers, with the total; itself if it is so already."""
    if _is_as_it_should(reported):
        return reported
    said: JSONObject = {}
    for name, value in reported.items():
        name = _NAMES.get(_plain(name), name)
        if name in _DETAILS:
            value = _details_of(value)
        if name in _COUNTS and not _is_number(value := count(value)):
            continue
        said[name] = _larger(said.get(name), value)
    for name, value in reported.items():
        if (place := _PARTS.get(_plain(name))) is None:
            continue
        holder, part = place
        value = _details_of(value) if part.endswith("_details") else count(value)
        if value and (_is_number(value) or isinstance(value, dict)):
            said[holder] = {part: value} | _details(said, holder)
    _sum_up(said, beside_input={"input_tokens", "cache_read_input_tokens"} <= set(map(_plain, reported)))
    return said


def _details_of(value: Any) -> Any:
    """Return the parts of a count: OpenAI's, or those that Gemini lists by modality."""
    if isinstance(value, list):
        found = [each for each in value if isinstance(each, dict)]
        named = [{_plain(key): part for key, part in each.items()} for each in found]
        return {f"{str(each.get('modality')).lower()}_tokens": count(each.get("token_count")) for each in named}
    if not isinstance(value, dict):
        return None if value is None else {}
    counts = {_plain(key): count(each) for key, each in value.items()}
    return {key: int(each) if isinstance(each, float) else each for key, each in counts.items()}


def _sum_up(said: JSONObject, *, beside_input: bool) -> None:
    """Make the two counts, their parts and their total agree, in place.

    Claude counts what it has in its cache beside the input (``beside_input``), xAI and Gemini count reasoning beside
    the completion. In OpenAI's counts it is a part of them; a total says what they really are.
    """
    prompt, completion, total = (said.get(name) for name in _COUNTS)
    if prompt is None and completion is None and total is None:
        return
    if prompt is None:
        prompt = max(0, (total or 0) - (completion or 0))
    if completion is None:
        completion = max(0, (total or 0) - prompt)
    cached = _counted(said, "prompt_tokens_details", "cached_tokens", "cache_write_tokens")
    thought = _counted(said, "completion_tokens_details", "reasoning_tokens")
    is_beside = beside_input or (cached > prompt and total is not None)
    if is_beside and (total is None or total >= prompt + completion + cached):
        prompt += cached
    if thought > completion and (total is None or total >= prompt + completion + thought):
        completion += thought
    completion += max(0, (total or 0) - prompt - completion)
    said |= {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _details(said: JSONObject, holder: str) -> JSONObject:
    found = said.get(holder)
    return {key: value for key, value in found.items() if value} if isinstance(found, dict) else {}


def _counted(said: JSONObject, holder: str, *parts: str) -> int:
    """Return what some parts of a count come to."""
    found = [_details(said, holder).get(part) for part in parts]
    return sum(each for each in found if isinstance(each, int))


def _is_as_it_should(reported: JSONObject) -> bool:
    counts = [each for name in _COUNTS if type(each := reported.get(name)) is int and 0 <= each <= _MAX_COUNT]
    is_sum = len(counts) == len(_COUNTS) and sum(counts[:2]) == counts[2] and _FOREIGN.isdisjoint(reported)
    return is_sum and all(map(_is_detailed, map(reported.get, _DETAILS)))


def _is_detailed(details: Any) -> bool:
    """Return whether the parts of a count are as OpenAI has them, or missing."""
    if not isinstance(details, dict):
        return details is None
    return not any(isinstance(value, str | float) for value in details.values())


#: Names that make a report one that has to be looked at.
_FOREIGN = (_NAMES.keys() - {*_COUNTS, *_DETAILS}) | _PARTS.keys()


def count(value: Any) -> Any:
    """Return a count as a number that can be one; what is no number is not touched."""
    if isinstance(value, str):
        text = value.strip()
        return int(text[:10]) if text.isascii() and text.isdigit() else value
    return int(min(max(value, 0), _MAX_COUNT)) if _is_number(value) and value % 1 == 0 else value


def _larger(known: Any, value: Any) -> Any:
    """Return what counts of two reports of one field."""
    if isinstance(known, dict) and isinstance(value, dict):
        return known | {name: _larger(known.get(name), each) for name, each in value.items()}
    if _is_number(known) and _is_number(value):
        return max(known, value)
    return known if value is None or (known and not value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
