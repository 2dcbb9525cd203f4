"""A chat request as a Responses request, for upstreams that speak nothing else."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeAlias

from one_api.dialects.checks import wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.parameter_names import IN_CHAT, asks_for, find_foreign
from one_api.errors import UpstreamUnsuitable

#: Finds the items behind an assistant's message.
Replay: TypeAlias = Callable[[JSONObject], list[JSONObject] | None]

_SYSTEM = ("system", "developer")
#: Parameters with the same name and meaning.
_SAME = (
    "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "service_tier",
    "metadata", "moderation", "top_logprobs", "stream",
)  # fmt: skip
#: Parameters that are said in another way below, or that say nothing there.
_READ = (
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "verbosity", "logprobs",
    "reasoning_effort", "max_tokens", "max_completion_tokens", "stream_options", "store", "n", "modalities", "stop",
)  # fmt: skip
#: Parameters without which the answer would be another one.
_REFUSED = ("audio", "functions", "function_call", "web_search_options")


def _never(_: JSONObject) -> list[JSONObject] | None:
    return None


def stops_of(body: JSONObject) -> tuple[str, ...]:
    """Return the strings at which the answer ends: the dialect has none, so they are looked for in the answer.

    Raises:
        InvalidRequest: for what is no string.
    """
    stop = body.get("stop")
    given = stop if isinstance(stop, list) else [stop]
    for value in given:
        if value is not None and not isinstance(value, str):
            raise wrong_type("stop", "a string or an array of strings", value)
    return tuple(value for value in given if value)


def to_responses(body: JSONObject, *, reasons: bool = False, replay: Replay = _never) -> tuple[JSONObject, list[str]]:
    """Return a chat body as a Responses body, and the names of what is dropped.

    With ``reasons`` the model's reasoning is asked for in the form in which it can be sent back. ``replay`` returns the
    items that the upstream once made an assistant's message of, reasoning among them, or None.

    Raises:
        UpstreamUnsuitable: naming what cannot be said; another deployment may be able to.
        InvalidRequest: for stop strings that are none.
    """
    for name in _REFUSED:
        if name in body and asks_for(name, body[name]):
            raise _unsuitable(f"This upstream knows no `{name}`.", name)
    if body.get("n") not in (None, 1):
        raise _unsuitable("This upstream gives one choice only.", "n")
    stops_of(body)
    messages = body["messages"]
    leading = list(takewhile(lambda message: message["role"] in _SYSTEM, messages))
    items = _items(messages[len(leading) :], len(leading), replay)
    if not items:  # a request needs input
        leading, items = [], _items(messages, 0, replay)
    made: JSONObject = {"model": body["model"], "input": items, "store": False}
    if leading:
        made["instructions"] = "\n\n".join(_text(message.get("content")) for message in leading)
    made |= {name: body[name] for name in _SAME if body.get(name) is not None}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    made |= {"max_output_tokens": limit} if limit is not None else {}
    made |= _text_settings(body) | _tools(body)
    if body.get("reasoning_effort") is not None:
        made["reasoning"] = {"effort": body["reasoning_effort"]}
    include = ["message.output_text.logprobs"] if body.get("logprobs") else []
    if reasons or "reasoning" in made:
        include.append("reasoning.encrypted_content")
    if include:
        made["include"] = include
    known = {*_SAME, *_READ, *_REFUSED}
    dropped = [name for name, value in body.items() if name not in known and value is not None]
    if found := find_foreign({name: body[name] for name in dropped}, IN_CHAT):
        name, help_text = found
        raise _unsuitable(f"Unsupported parameter: `{name}`. {help_text}", name)
    return made, dropped


def _unsuitable(message: str, param: str) -> UpstreamUnsuitable:
    return UpstreamUnsuitable(message, param=param, code="unsupported_parameter")


def _text(content: Any) -> str:
    """Return a message's text, whole or in parts."""
    if isinstance(content, list):
        return "\n\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _items(messages: list[JSONObject], offset: int, replay: Replay) -> list[JSONObject]:
    items: list[JSONObject] = []
    custom: set[str] = set()
    for i, message in enumerate(messages, offset):
        role, where = message["role"], f"messages[{i}]"
        if role == "assistant" and message.get("audio"):
            raise _unsuitable("This upstream cannot be reminded of audio.", f"{where}.audio")
        if role == "assistant":
            items += _assistant(message, custom, replay)
        elif role == "tool":
            kind = "custom_tool_call_output" if message["tool_call_id"] in custom else "function_call_output"
            output = _output(message.get("content"), f"{where}.content")
            items.append({"type": kind, "call_id": message["tool_call_id"], "output": output})
        elif role == "function":
            raise _unsuitable("This upstream knows tools only: `functions` is their old form.", f"{where}.role")
        else:
            items.append({"role": role, "content": _content(message.get("content"), f"{where}.content")})
    return items


def _assistant(message: JSONObject, custom: set[str], replay: Replay) -> list[JSONObject]:
    if (known := replay(message)) is not None:
        custom.update(item["call_id"] for item in known if item.get("type") == "custom_tool_call")
        return known
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    said = [
        {"type": "refusal", "refusal": part.get("refusal")}
        if part.get("type") == "refusal"
        else {"type": "output_text", "text": part.get("text") or ""}
        for part in parts
        if part.get("type") == "refusal" or part.get("text")
    ]
    if message.get("refusal"):
        said.append({"type": "refusal", "refusal": message["refusal"]})
    items: list[JSONObject] = [{"role": "assistant", "content": said}] if said else []
    for call in message.get("tool_calls") or ():
        body = call.get("custom") or call.get("function") or {}
        made = {"call_id": call.get("id"), "name": body.get("name")}
        if "custom" in call:
            custom.add(call["id"])
            items.append({"type": "custom_tool_call", **made, "input": body.get("input") or ""})
        else:
            items.append({"type": "function_call", **made, "arguments": body.get("arguments") or "{}"})
    return items


def _output(content: Any, where: str) -> Any:
    """Return the result of a tool: a text, unless there is more to it."""
    is_text = not isinstance(content, list) or all(part["type"] == "text" for part in content)
    return _text(content) if is_text else _content(content, where)


def _content(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part, f"{where}[{j}]") for j, part in enumerate(content)]


def _part(part: JSONObject, where: str) -> JSONObject:
    kind = part["type"]
    if kind == "text":
        return {"type": "input_text", "text": part.get("text") or ""}
    held = part.get(kind)
    if kind == "image_url":
        image = {"url": held} if isinstance(held, str) else held or {}
        detail = {"detail": image["detail"]} if image.get("detail") is not None else {}
        return {"type": "input_image", "image_url": image.get("url"), **detail}
    if kind == "file" and isinstance(held, dict):
        data = held.get("file_data")
        is_address = isinstance(data, str) and data.startswith(("https://", "http://"))
        return {"type": "input_file", "file_url": data} if is_address else {"type": "input_file", **held}
    raise _unsuitable(f"This upstream takes no part of the type `{kind}`.", f"{where}.type")


def _text_settings(body: JSONObject) -> JSONObject:
    form, found = body.get("response_format"), {}
    if isinstance(form, dict) and form.get("type") == "json_schema":
        found["format"] = {"type": "json_schema", **(form.get("json_schema") or {})}
    elif isinstance(form, dict):
        found["format"] = form
    if body.get("verbosity") is not None:
        found["verbosity"] = body["verbosity"]
    return {"text": found} if found else {}


def _tools(body: JSONObject) -> JSONObject:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools:
        return {}
    found: JSONObject = {"tools": [_tool(tool) for tool in tools]}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools") or {}
        found["tool_choice"] = {
            "type": "allowed_tools",
            **allowed,
            "tools": [_named(t) for t in allowed.get("tools", ())],
        }
    elif choice is not None:
        found["tool_choice"] = _named(choice)
    if body.get("parallel_tool_calls") is not None:
        found["parallel_tool_calls"] = body["parallel_tool_calls"]
    return found


def _tool(tool: JSONObject) -> JSONObject:
    if tool.get("type") == "custom":
        custom = dict(tool.get("custom") or {})
        form = custom.get("format")
        if isinstance(form, dict) and isinstance(form.get("grammar"), dict):
            custom["format"] = {"type": "grammar", **form["grammar"]}
        return {"type": "custom", **custom}
    function = tool.get("function") or {}
    # There a schema is strict unless it says that it is not.
    return {"type": "function", "parameters": None, **function, "strict": bool(function.get("strict"))}


def _named(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return "required" if choice == "any" else choice
    kind = choice.get("type")
    return {"type": kind, "name": (choice.get(str(kind)) or {}).get("name")}
