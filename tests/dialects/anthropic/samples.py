"""What the tests of the translation to Anthropic's Messages API share: requests, and the API's own rules."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from one_api.dialects.anthropic.models import traits_of
from one_api.dialects.anthropic.request import RequestOptions, Translated, translate
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

HAIKU = "claude-haiku-4-5"
OPUS = "claude-opus-5"
FORCELESS = "claude-opus-5-5"
HI: JSONObject = {"role": "user", "content": "Hi"}
Replay = Callable[[JSONObject], list[JSONObject] | None]


def translated(
    *messages: JSONObject, model: str = HAIKU, options: JSONObject | None = None, replay: Replay | None = None,
    **fields: Any,
) -> Translated:  # fmt: skip
    """Translate a request for these messages, or for a greeting."""
    body = {"model": model, "messages": list(messages) or [HI], **fields}
    return translate(body, traits_of(model), RequestOptions(**options or {}), replay or (lambda message: None))


def sent(*messages: JSONObject, **fields: Any) -> JSONObject:
    """Return the body that the upstream gets."""
    return translated(*messages, **fields).body


def turns(*messages: JSONObject, **fields: Any) -> list[JSONObject]:
    """Return the messages that the upstream gets."""
    found: list[JSONObject] = sent(*messages, **fields)["messages"]
    return found


def refusal(*messages: JSONObject, **fields: Any) -> tuple[str | None, str | None]:
    """Return ``param`` and ``code`` of the 400 that a request gets."""
    with pytest.raises(InvalidRequest) as caught:
        translated(*messages, **fields)
    assert caught.value.message
    return caught.value.param, caught.value.code


def user(content: Any, **fields: Any) -> JSONObject:
    return {"role": "user", "content": content, **fields}


def assistant(content: Any = None, *calls: JSONObject, **fields: Any) -> JSONObject:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **fields}


def system(content: Any, **fields: Any) -> JSONObject:
    return {"role": "system", "content": content, **fields}


def call(call_id: str = "call_1", name: str = "f", arguments: Any = "{}") -> JSONObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str = "call_1", content: Any = "ok", **fields: Any) -> JSONObject:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def function(name: str = "f", parameters: Any = None, **fields: Any) -> JSONObject:
    """Return a function tool; without parameters when they are None."""
    inner = {"name": name, **({} if parameters is None else {"parameters": parameters}), **fields}
    return {"type": "function", "function": inner}


def text(said: str, **fields: Any) -> JSONObject:
    return {"type": "text", "text": said, **fields}


# The API's validity rules: each broken one is a 400 there

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def faults(body: JSONObject, *, mid_system: bool, prefill: bool) -> list[str]:
    """Return what Anthropic would refuse of a body."""
    messages, tools = body["messages"], body.get("tools", [])
    found = [*_fault_of_turns(messages, mid_system, prefill), *_fault_of_calls(messages)]
    blocks = list(_blocks(body))
    found += [f"blank text: {block}" for block in blocks if block.get("type") == "text" and not block["text"].strip()]
    if sum("cache_control" in block for block in [*blocks, *tools]) > 4:
        found.append("more than 4 cache marks")
    names = [tool["name"] for tool in tools]
    found += [f"bad tool name {name}" for name in names if not _NAME.fullmatch(name)]
    if len(set(names)) < len(names):
        found.append("two tools of one name")
    found += [f"bad schema of {tool['name']}" for tool in tools if not _is_object_schema(tool["input_schema"])]
    if not tools and "tool_choice" in body:
        found.append("tool_choice without tools")
    if not tools and any(block.get("type") in ("tool_use", "tool_result") for block in blocks):
        found.append("tool blocks without tools")
    if "temperature" in body and "top_p" in body:
        found.append("temperature and top_p")
    for source in (block["source"] for block in blocks if block.get("type") == "image"):
        if source["type"] == "base64" and source["media_type"] not in _IMAGES:
            found.append(f"image of {source['media_type']}")
    return found


def _is_object_schema(schema: JSONObject) -> bool:
    return schema.get("type") == "object" and not {"oneOf", "anyOf", "allOf"} & set(schema)


def _blocks(body: JSONObject) -> Iterator[JSONObject]:
    """All blocks: of the system text, of messages and of tool results."""
    yield from body.get("system", [])
    for message in body["messages"]:
        for block in message["content"]:
            yield block
            if block["type"] == "tool_result" and isinstance(block.get("content"), list):
                yield from block["content"]


def _fault_of_turns(messages: list[JSONObject], mid_system: bool, prefill: bool) -> Iterator[str]:
    roles = [message["role"] for message in messages]
    if not messages or roles[0] != "user":
        yield f"first role of {roles[:1]}"
    for i, message in enumerate(messages):
        if not message["content"]:
            yield "empty content"
        if i and roles[i] == roles[i - 1]:
            yield "neighbours of one role"
        if roles[i] == "system" and (
            not mid_system or roles[i - 1] != "user" or roles[i + 1 : i + 2] not in ([], ["assistant"])
        ):
            yield "system out of place"
    if roles and roles[-1] == "assistant":
        last = messages[-1]["content"][-1]
        if not prefill:
            yield "prefill"
        if last["type"] == "text" and last["text"] != last["text"].rstrip():
            yield "final assistant text ends in white space"


def _fault_of_calls(messages: list[JSONObject]) -> Iterator[str]:
    seen: set[str] = set()
    for i, message in enumerate(messages):
        calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        for call_id in calls:
            if call_id in seen or not _ID.fullmatch(call_id):
                yield f"id {call_id}"
            seen.add(call_id)
        after = messages[i + 1]["content"] if i + 1 < len(messages) else []
        results = [block.get("tool_use_id") for block in after[: len(calls)]]
        if calls and sorted(map(str, results)) != sorted(calls):
            yield f"calls {calls} without their results at once"
        given = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        before = messages[i - 1]["content"] if i else []
        if len(given) != sum(block["type"] == "tool_use" for block in before):
            yield "results that answer nothing"
