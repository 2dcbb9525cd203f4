"""How many tokens the input of a request takes: what a tokenizer has counted, or about, where none can be asked."""

from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: Of text and of JSON; more in most languages than English.
BYTES_PER_TOKEN = 4
#: What a message takes beside its words.
_MESSAGE_TOKENS = 4
#: Of an image: OpenAI's count for one of four tiles.
_IMAGE_TOKENS = 85 + 4 * 170
#: Characters of base64 that a file has for one token: a page of a PDF takes some 1,500 tokens and 50 kB.
_FILE_CHARACTERS_PER_TOKEN = 45
_IMAGES, _FILES = ("image", "image_url"), ("document", "file", "input_audio")
#: Names whose values no model reads as text.
_NOT_READ = frozenset({"role", "type", "id", "tool_call_id", "tool_use_id", "cache_control", "signature"})


def estimate_tokens(body: JSONObject) -> int:
    """Return about how many tokens the input takes, of a chat request or a Messages request; at least 1."""
    messages = body["messages"]
    size = sum(_size(each) for name in ("tools", "functions") if (each := body.get(name)))
    texts, media = _count([body.get("system"), *messages])
    return max(1, (size + texts) // BYTES_PER_TOKEN + media + len(messages) * _MESSAGE_TOKENS)


def count_in(answer: bytes) -> int | None:
    """Return the count in the answer of an address that counts tokens; None when it holds none."""
    try:
        count = json.decode_object(answer).get("input_tokens")
    except json.InvalidJSON:
        return None
    return count if isinstance(count, int) else None


def _count(value: Any) -> tuple[int, int]:
    """Return the bytes of all texts in ``value``, and the tokens of its images and files."""
    if isinstance(value, str):
        return _bytes_of(value), 0
    if isinstance(value, dict):
        kind = value.get("type")
        if kind in _IMAGES:
            return 0, _IMAGE_TOKENS
        if kind in _FILES and not _is_text(value.get("source")):
            return 0, max(_IMAGE_TOKENS, _size(value) // _FILE_CHARACTERS_PER_TOKEN)
        if kind == "tool_use":
            return _size([value.get("name"), value.get("input")]), 0
        value = [each for name, each in value.items() if name not in _NOT_READ]
    if not isinstance(value, list):
        return 0, 0
    counts = [_count(each) for each in value]
    return sum(texts for texts, _ in counts), sum(media for _, media in counts)


def _size(value: Any) -> int:
    """Return about how long a value is as JSON, in bytes. It is not written: that takes long for a large one."""
    if isinstance(value, str):
        return 2 + _bytes_of(value)
    if isinstance(value, list):
        return 2 + sum(1 + _size(each) for each in value)
    if isinstance(value, dict):
        return 2 + sum(4 + len(name) + _size(each) for name, each in value.items())
    return 4


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _is_text(source: Any) -> bool:
    return isinstance(source, dict) and source.get("type") in ("text", "content")
