"""How many tokens a request has, roughly, where no tokenizer can be asked."""

from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject

_BYTES_PER_TOKEN = 4
#: Of an image, at the least detail that providers count; of a page of a file, there is no telling.
_TOKENS_PER_IMAGE = 85
#: What a message takes beside its words.
_TOKENS_PER_MESSAGE = 4


def estimate_tokens(body: JSONObject) -> int:
    """Return an estimate for the messages and tools of a chat body; at least 1."""
    images = 0
    size = len(json.encode(body["tools"])) if body.get("tools") else 0
    for message in body["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        images += sum(part["type"] == "image_url" for part in parts)
        size += sum(_bytes_of(part) for part in parts)
        size += len(json.encode(message["tool_calls"])) if message.get("tool_calls") else 0
    return max(1, size // _BYTES_PER_TOKEN + images * _TOKENS_PER_IMAGE + len(body["messages"]) * _TOKENS_PER_MESSAGE)


def _bytes_of(part: JSONObject) -> int:
    text: Any = part.get("text") or part.get("refusal") or ""
    return len(text.encode("utf-8", "replace"))
