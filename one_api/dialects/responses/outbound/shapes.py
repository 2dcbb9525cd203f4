"""Events and responses of an upstream without values of other types than the dialect has there.

What comes after relies on it. Texts in another shape are brought into this dialect's first. Events and items that are
new to us stay as they are.
"""

from collections.abc import Mapping
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import arguments_text

#: By the type of a call, what holds its text.
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_KNOWN_EVENTS = tuple(
    f"response.{name}"
    for name in (
        "created", "queued", "in_progress", "completed", "incomplete", "output_item.", "content_part.", "output_text.",
        "refusal.", "reasoning_", "function_call_arguments.", "custom_tool_call_input.",
    )
)  # fmt: skip
_EVENT: Mapping[str, type] = {
    "output_index": int, "content_index": int, "summary_index": int, "item_id": str, "item": dict, "part": dict,
    "response": dict, "delta": str, "text": str, "refusal": str, "logprobs": list,
}  # fmt: skip
_RESPONSE: Mapping[str, type] = {"id": str, "status": str, "output": list, "usage": dict, "incomplete_details": dict}
_ITEM: Mapping[str, type] = {
    "id": str, "call_id": str, "name": str, "status": str, "role": str, "input": str, "content": list, "summary": list,
}  # fmt: skip
#: Without a type an item is what it looks like.
_KNOWN_ITEMS = ("message", "function_call", "custom_tool_call", "reasoning", None)
_PART: Mapping[str, type] = {"type": str, "text": str, "refusal": str, "annotations": list, "logprobs": list}


def shaped_event(payload: JSONObject, kind: str) -> JSONObject:
    """Return an event of the type ``kind``."""
    if not kind.startswith(_KNOWN_EVENTS):
        return payload
    found = _typed(payload, _EVENT)
    for name, shape in (("response", shaped_response), ("item", _item), ("part", _part)):
        if found.get(name) is not None:
            found = found | {name: shape(found[name])}
    return found


def shaped_response(response: JSONObject) -> JSONObject:
    """Return a response."""
    response = _with_output(response)
    found = _typed(response, _RESPONSE)
    return found if found.get("output") is None else found | {"output": list(map(_item, _objects(found["output"])))}


def _item(item: JSONObject) -> JSONObject:
    item = _typed(_in_form(item), {"type": str, "id": str})
    if item.get("type") not in _KNOWN_ITEMS:
        return item
    found = _typed(item, _ITEM)
    parts = {name: list(map(_part, _objects(found[name]))) for name in ("content", "summary") if found.get(name)}
    return found | parts if parts else found


def _part(part: JSONObject) -> JSONObject:
    found = _typed(part, _PART)
    lists = {name: _objects(found[name]) for name in ("annotations", "logprobs") if found.get(name)}
    return found | lists if lists else found


def _typed(holder: JSONObject, types: Mapping[str, type]) -> JSONObject:
    """Return an object without the fields that are of another type; itself when there are none."""
    odd = [name for name in types.keys() & holder.keys() if not isinstance(holder[name], (types[name], type(None)))]
    return {name: value for name, value in holder.items() if name not in odd} if odd else holder


def _objects(values: list[Any]) -> list[JSONObject]:
    return [each for each in values if isinstance(each, dict)]


def _with_output(response: JSONObject) -> JSONObject:
    """Return a response whose output is a list of items, where it is a text."""
    given = response.get("output")
    text = given if isinstance(given, str) else response.get("output_text")
    if (isinstance(given, list) and given) or not isinstance(text, str):
        return response
    return {**response, "output": [{"role": "assistant", "content": text}]}


def _in_form(item: JSONObject) -> JSONObject:
    """Return an item with a type, its content as parts, and the arguments of a call as text."""
    kind, content = item.get("type"), item.get("content")
    if not kind and ("role" in item or content is not None):
        item = item | {"type": "message", "role": "assistant"}
    if isinstance(content, str):
        item = item | {"content": [_part_in_form({"text": content})]}
    elif item.get("type") == "message" and isinstance(content, list):
        item = item | {"content": [_part_in_form(each) for each in content if isinstance(each, (dict, str))]}
    text = _CALLS.get(kind) if isinstance(kind, str) else None
    if text is not None and not isinstance(item.get(text), str | None):
        item = item | {text: arguments_text(item[text])}
    return item


def _part_in_form(part: JSONObject | str) -> JSONObject:
    """Return a part of a message under this dialect's name for it."""
    if isinstance(part, str):
        part = {"text": part}
    if part.get("type") in (None, "text") and isinstance(part.get("text"), str):
        return {"annotations": [], **part, "type": "output_text"}
    return part
