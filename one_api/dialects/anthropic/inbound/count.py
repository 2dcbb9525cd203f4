"""How many tokens a Messages request takes, where nobody counts them: an estimate."""

from typing import Any

from one_api.dialects.json import JSONObject

#: Of text and JSON alike; more in most languages than English.
BYTES_PER_TOKEN = 4
#: Of an image, in tokens: OpenAI's count for one of four tiles.
_IMAGE_TOKENS = 85 + 4 * 170
#: Characters of base64 that a PDF has for one token: a page of text takes some 1,500 tokens and 50 kB.
_PDF_CHARACTERS_PER_TOKEN = 45
_COUNTED = ("system", "messages", "tools")


def estimate_tokens(body: JSONObject) -> int:
    """Return about how many tokens the input of a request takes; at least 1."""
    data: list[int] = []
    size = sum(_size(body[key], data) for key in _COUNTED if body.get(key))
    return max(1, size // BYTES_PER_TOKEN + sum(data))


def _size(value: Any, data: list[int]) -> int:
    """Return how long a JSON text of ``value`` is, but for escapes and without images and files.

    The tokens of these are added to ``data``.
    The text is not written: for a large one that takes long.
    """
    if isinstance(value, str):
        return 2 + (len(value) if value.isascii() else len(value.encode("utf-8", "replace")))
    if isinstance(value, list):
        return 2 + sum(1 + _size(each, data) for each in value)
    if not isinstance(value, dict):
        return 4
    source = value.get("source")
    if isinstance(source, dict) and source.get("type") in ("base64", "url", "file"):
        held = source.get("data")
        size = len(held) if isinstance(held, str) else 0
        is_image = value.get("type") == "image"
        data.append(_IMAGE_TOKENS if is_image else max(_IMAGE_TOKENS, size // _PDF_CHARACTERS_PER_TOKEN))
        return 2
    return 2 + sum(4 + len(key) + _size(each, data) for key, each in value.items())
