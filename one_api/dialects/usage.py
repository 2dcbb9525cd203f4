"""Token counts, wherever an answer reports them: of each field the largest counts, a null or a zero never does."""

from typing import Any

from one_api.dialects.json import JSONObject

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
#: OpenAI's names of counts, by those of other dialects: Claude's and OpenAI's Responses, Gemini's, Bedrock's.
_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "promptTokenCount": "prompt_tokens",
    "candidatesTokenCount": "completion_tokens",
    "totalTokenCount": "total_tokens",
    "inputTokens": "prompt_tokens",
    "outputTokens": "completion_tokens",
    "totalTokens": "total_tokens",
}
#: Where an answer reports them beside ``usage``: Gemini and servers in front of it.
_HOLDERS = ("usageMetadata", "usage_metadata")
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
    return merged


def reported_in(payload: JSONObject) -> list[JSONObject]:
    """Return the usage objects of an answer or chunk: its own, that of its choices (Moonshot), Groq's and Gemini's."""
    choices = payload.get("choices")
    holders = [payload, payload.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    found = [each.get("usage") for each in holders if isinstance(each, dict)] + [payload.get(key) for key in _HOLDERS]
    return [each for each in found if isinstance(each, dict)]


def stands_elsewhere(payload: JSONObject) -> bool:
    """Return whether a chunk may report usage in another place than its own ``usage``, its choices left aside."""
    return "x_groq" in payload or any(key in payload for key in _HOLDERS)


def _read(reported: JSONObject) -> JSONObject:
    """Return a report under OpenAI's names, its counts as numbers, with the total; itself if it is so already."""
    if _is_as_it_should(reported):
        return reported
    said: JSONObject = {}
    for name, value in reported.items():
        name = _NAMES.get(name, name)
        if name in _DETAILS and isinstance(value, dict):
            value = {key: count(each) for key, each in value.items()}
        if name in _COUNTS and not _is_number(value := count(value)):
            continue
        said[name] = _larger(said.get(name), value)
    prompt, completion, total = (said.get(name) for name in _COUNTS)
    if prompt is None and completion is not None:
        prompt = max(0, (total or 0) - completion)
    elif completion is None and prompt is not None:
        completion = max(0, (total or 0) - prompt)
    if prompt is not None and completion is not None:
        said |= {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total or prompt + completion}
    return said


def _is_as_it_should(reported: JSONObject) -> bool:
    counts = [reported.get(name) for name in _COUNTS]
    return all(type(each) is int and 0 <= each <= _MAX_COUNT for each in counts) and _NAMES.keys().isdisjoint(reported)


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
