"""Token counts, wherever an answer reports them: of each field the largest counts, a null or a zero never does."""

from typing import Any

from one_api.dialects.json import JSONObject

#: OpenAI's names of counts, by those of other dialects.
_NAMES = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}


def merge(known: JSONObject | None, reported: JSONObject) -> JSONObject:
    """Return what is known after one more report; neither is changed."""
    if known is None:
        return reported if _is_openais(reported) else _named(reported)
    if known is reported and _is_openais(reported):
        return known
    merged = dict(known)
    for name, value in reported.items() if _is_openais(reported) else _named(reported).items():
        merged[name] = _larger(merged.get(name), value)
    return merged


def reported_in(payload: JSONObject) -> list[JSONObject]:
    """Return the usage objects of a whole answer: its own, that of its choices (Moonshot), and Groq's."""
    choices = payload.get("choices")
    holders = [payload, payload.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    return [each["usage"] for each in holders if isinstance(each, dict) and isinstance(each.get("usage"), dict)]


def _is_openais(reported: JSONObject) -> bool:
    """Return whether a usage object has no names but OpenAI's."""
    return _NAMES.keys().isdisjoint(reported)


def _named(reported: JSONObject) -> JSONObject:
    """Return a usage object of another dialect under OpenAI's names, with the total."""
    named = dict(reported)
    for foreign, name in _NAMES.items():
        if foreign in named:
            count = named.pop(foreign)
            named[name] = _larger(named.get(name), count)
    counts = [named.get(name) for name in _NAMES.values()]
    if all(isinstance(count, int) for count in counts):
        named.setdefault("total_tokens", sum(count for count in counts if isinstance(count, int)))
    return named


def _larger(known: Any, value: Any) -> Any:
    """Return what counts of two reports of one field."""
    if isinstance(known, dict) and isinstance(value, dict):
        return known | {name: _larger(known.get(name), each) for name, each in value.items()}
    if _is_number(known) and _is_number(value):
        return max(known, value)
    return known if value is None or (known and not value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
