"""Annotations and probabilities as clients with strict schemas read them: an odd one costs these the whole answer."""

import math
from collections.abc import Iterable
from typing import Any

from one_api.dialects.json import JSONObject

#: What stands for a probability that is not known or is none, as OpenAI writes it.
_UNLIKELY = -9999.0
_LISTS = ("content", "refusal")


def shape_annotations(said: JSONObject) -> None:
    """Give the citations of a message or delta what belongs to one, in place; annotations of other types stay."""
    given = said["annotations"]
    entries = given if isinstance(given, list) else [given]
    found = (_citation_in(entry) or entry for entry in entries)
    said["annotations"] = [each for each in found if each and isinstance(each, dict)]


def _citation_in(entry: Any) -> JSONObject | None:
    """Return an annotation as a citation of a page; None if it is none. It may be flat, or an address alone."""
    held = entry.get("url_citation") if isinstance(entry, dict) else entry
    if held is None and isinstance(entry, dict) and entry.get("type", "url_citation") == "url_citation":
        held = {name: value for name, value in entry.items() if name not in ("type", "url_citation")}
    cited = {"url": held} if isinstance(held, str) else held
    if not isinstance(cited, dict) or not isinstance(cited.get("url"), str) or not cited["url"]:
        return None
    title = cited.get("title")
    strict = {
        "start_index": _whole(cited.get("start_index")),
        "end_index": _whole(cited.get("end_index")),
        "title": title if isinstance(title, str) else "",
    }
    around = entry if isinstance(entry, dict) and "url_citation" in entry else {}
    return {**around, "type": "url_citation", "url_citation": {**cited, **strict}}


def _whole(value: Any) -> int:
    """Return a place in a text; 0 for what is none."""
    if isinstance(value, str):
        return int(value[:9]) if value.isascii() and value.isdigit() else 0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return max(0, int(value)) if is_number else 0


def strict_logprobs(given: Any) -> JSONObject | None:
    """Return the probabilities of a choice; None for what holds none. Those of legacy completions are read, too."""
    if isinstance(given, list):
        given = {"content": given}
    if not isinstance(given, dict):
        return None
    if isinstance(given.get("tokens"), list) and given.get("content") is None:
        given = {"content": list(_of_legacy(given))}
    known = {name: value for name in _LISTS if isinstance(value := given.get(name), list)}
    if not known:
        return None
    return {**given, **{name: _tokens(value) for name, value in known.items()}}


def _of_legacy(given: JSONObject) -> Iterable[JSONObject]:
    """Give the tokens of lists that are side by side, as legacy completions and Together's chat have them."""
    tokens, top = given["tokens"], given.get("top_logprobs")
    measured = given.get("token_logprobs")
    measured = measured if isinstance(measured, list) else []
    for i, token in enumerate(tokens):
        yield {
            "token": token,
            "logprob": measured[i] if i < len(measured) else None,
            "top_logprobs": top[i] if isinstance(top, list) and i < len(top) else [],
        }


def _tokens(given: list[Any]) -> list[JSONObject]:
    return [_with_top(each) for each in given if isinstance(each, dict)]


def _with_top(entry: JSONObject) -> JSONObject:
    top = entry.get("top_logprobs")
    if isinstance(top, dict):
        top = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    found = [_measured(each) for each in top if isinstance(each, dict)] if isinstance(top, list) else []
    return {**_measured(entry), "top_logprobs": found}


def _measured(entry: JSONObject) -> JSONObject:
    """Return a token with its probability, and its bytes if they are numbers."""
    token, logprob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    is_known = isinstance(logprob, (int, float)) and not isinstance(logprob, bool) and math.isfinite(logprob)
    strict = {"token": "" if token is None else str(token), "logprob": logprob if is_known else _UNLIKELY}
    if raw is not None and not (isinstance(raw, list) and all(type(each) is int for each in raw)):
        strict["bytes"] = None
    return {**entry, **strict}
