"""A whole item of a response as the events of a stream: for items that an upstream names in its last event only."""

from collections.abc import Iterator

from one_api.dialects.json import JSONObject

#: By the type of a call: what its events are called, and what holds its text.
_CALLS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
#: By the type of a part of a message, which its events are called as well: what holds its text.
_PARTS = {"output_text": "text", "refusal": "refusal"}


def events_of(item: JSONObject, index: int) -> Iterator[tuple[str, JSONObject]]:
    """Give the types and fields of the events that amount to ``item``, which is number ``index`` of the output."""
    kind, content = item.get("type"), item.get("content")
    at = {"item_id": item.get("id"), "output_index": index}
    parts = content if kind == "message" and isinstance(content, list) else []
    bare: JSONObject = {"content": []} if parts else {}
    if kind in _CALLS:
        bare = {_CALLS[kind][1]: ""}
    yield "response.output_item.added", {"output_index": index, "item": item | bare | {"status": "in_progress"}}
    for number, part in enumerate(parts):
        if isinstance(part, dict):
            yield from _part_events(part, at | {"content_index": number})
    if kind in _CALLS:
        name, text = _CALLS[kind]
        if item.get(text):
            yield f"response.{name}.delta", at | {"delta": item[text]}
        named = {"name": item.get("name")} if kind == "function_call" else {}
        yield f"response.{name}.done", at | named | {text: item.get(text)}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part_events(part: JSONObject, at: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    kind = str(part.get("type"))
    bare: JSONObject = {}
    if kind in _PARTS:
        bare = {_PARTS[kind]: ""} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})
    yield "response.content_part.added", at | {"part": part | bare}
    if kind in _PARTS:
        text = part.get(_PARTS[kind])
        measured: JSONObject = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        if text:
            yield f"response.{kind}.delta", at | {"delta": text} | measured
        yield f"response.{kind}.done", at | {_PARTS[kind]: text} | measured
    yield "response.content_part.done", at | {"part": part}
