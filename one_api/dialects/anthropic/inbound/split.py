"""A whole message as the events of a stream: for servers that answer a stream's request with a whole one."""

from collections.abc import Iterator

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: What stands in the last event but one.
_ENDS = ("stop_reason", "stop_sequence", "stop_details", "container")


def events_of(message: JSONObject) -> Iterator[JSONObject]:
    """Give the events that amount to ``message``, which is whole and is not touched."""
    usage = message.get("usage") or {}
    started = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield {"type": "message_start", "message": started}
    for index, block in enumerate(message["content"]):
        start, deltas = _parts(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": {name: message.get(name) for name in _ENDS}, "usage": usage}
    yield {"type": "message_stop"}


def _parts(block: JSONObject) -> tuple[JSONObject, list[JSONObject]]:
    """Return how a block starts, and its deltas."""
    kind = block.get("type")
    if kind == "text":
        cited = [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
        bare = {name: value for name, value in block.items() if name != "citations"}
        return bare | {"text": ""}, [*cited, {"type": "text_delta", "text": block.get("text")}]
    if kind == "thinking":
        signed = {"type": "signature_delta", "signature": block.get("signature") or ""}
        said = {"type": "thinking_delta", "thinking": block.get("thinking")}
        return block | {"thinking": "", "signature": ""}, [said, signed]
    if kind in ("tool_use", "server_tool_use"):
        text = json.encode(block.get("input") or {}).decode()
        return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []
