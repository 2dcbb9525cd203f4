"""A whole item of a response as the events of a stream: for items that an upstream names in its last event only."""

from collections.abc import Iterator

from one_api.dialects.json import JSONObject

#: By the type of a call: what its events are called, and what holds its text.
_CALLS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
#: By the type of a part: what the events of its text are called, and what holds that.
_PARTS = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
    "summary_text": ("reasoning_summary_text", "text"),
}
#: By where the parts of an item stand: what numbers them.
_HOLDERS = {"summary": "summary_index", "content": "content_index"}


def events_of(item: JSONObject, index: int) -> Iterator[tuple[str, JSONObject]]:
    """Give the types and fields of the events that amount to ``item``, which is number ``index`` of the output."""
    kind = item.get("type")
    at = {"item_id": item.get("id"), "output_index": index}
    holders = [name for name in _HOLDERS if kind in ("message", "reasoning") and isinstance(item.get(name), list)]
    bare: JSONObject = {name: [] for name in holders if item[name]}
    if kind in _CALLS:
        bare = {_CALLS[kind][1]: ""}
    yield "response.output_item.added", {"output_index": index, "item": item | bare | {"status": "in_progress"}}
    for holder in holders:
        for number, part in enumerate(item[holder]):
            if isinstance(part, dict):
                yield from part_events(part, at | {_HOLDERS[holder]: number})
    if kind in _CALLS:
        name, text = _CALLS[kind]
        if item.get(text):
            yield f"response.{name}.delta", at | {"delta": item[text]}
        named = {"name": item.get("name")} if kind == "function_call" else {}
        yield f"response.{name}.done", at | named | {text: item.get(text)}
    yield "response.output_item.done", {"output_index": index, "item": item}


def part_events(part: JSONObject, at: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    """Give the types and fields of the events that amount to a part; ``at`` is its place."""
    kind = str(part.get("type"))
    in_summary = "summary_index" in at
    events = "reasoning_summary_part" if in_summary else "content_part"
    name, text_key = _PARTS.get(kind, ("", "")) if in_summary == (kind == "summary_text") else ("", "")
    bare: JSONObject = {text_key: ""} if text_key else {}
    bare |= {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    yield f"response.{events}.added", at | {"part": part | bare}
    if name:
        text = part.get(text_key)
        measured: JSONObject = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        if text:
            yield f"response.{name}.delta", at | {"delta": text} | measured
        yield f"response.{name}.done", at | {text_key: text} | measured
    yield f"response.{events}.done", at | {"part": part}
