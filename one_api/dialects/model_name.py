"""The name of the model in the bytes of a request, where nothing else of them may change."""

import re

from one_api.dialects import json

_NAME = b'"model"'
_VALUE = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
#: What opens and closes in JSON, strings as a whole.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
#: The beginning of an escaped letter of ``model``: a key may be written so.
_ESCAPED = b"\\u006"


def renamed(data: bytes, model: str) -> bytes | None:
    """Return ``data`` with another model; None when it is not certain which bytes name it."""
    found = _VALUE.search(data)
    if found is None or data.count(_NAME) != 1 or _ESCAPED in data or _depth(data[: found.start()]) != 1:
        return None
    start, end = found.span(1)
    return data[:start] + json.encode([model])[1:-1] + data[end:]


def _depth(data: bytes) -> int:
    """Return how many brackets are open after ``data``."""
    depth = 0
    for token in _TOKENS.finditer(data):
        mark = token[0]
        depth += 1 if mark in b"{[" else -1 if mark in b"}]" else 0
    return depth
