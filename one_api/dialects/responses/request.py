"""A Responses request becomes a chat request, and what has to be remembered to answer it in its own words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from one_api.dialects.checks import list_of, missing, not_among, object_of, refused, text_of, wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.parameter_names import IN_RESPONSES, refuse_foreign
from one_api.dialects.responses.items import InputReader
from one_api.dialects.responses.tools import ToolTable
from one_api.errors import InvalidRequest

#: Parameters with the same name and meaning in chat.
_SAME = (
    "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "service_tier", "metadata", "moderation",
)  # fmt: skip
#: Parameters that cannot be had, with what makes them harmless.
_REFUSED: tuple[tuple[str, tuple[Any, ...], str, str], ...] = (
    ("background", (None, False), "unsupported_value", "Responses in the background are not available here."),
    ("conversation", (None,), "unsupported_parameter", "Conversations are not available here: send the whole input."),
)
#: Parameters that change the answer and have no counterpart, with what makes them harmless.
_WARNED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("truncation", (None, "disabled")), ("context_management", (None, [])), ("access_programs", (None, [], {})),
    ("background_options", (None,)), ("image", (None,)), ("frequency_penalty", (None, 0)),
    ("presence_penalty", (None, 0)), ("logit_bias", (None, {})), ("seed", (None,)), ("prediction", (None,)),
)  # fmt: skip
CARRIERS = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
#: What a response object repeats as it is; null when it was not said.
_REPEATED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt_cache_key",
    "safety_identifier", "service_tier", "top_logprobs", "user",
)  # fmt: skip
_FORMATS = ("text", "json_object", "json_schema")


#: How reasoning is shown: as what it is, as a summary, or not at all.
Shown: TypeAlias = Literal["text", "summary", "nothing"]


@dataclass(frozen=True, slots=True)
class Translated:
    """A Responses request in chat's words."""

    chat: ChatRequest
    tools: ToolTable
    #: The fields of a response object that repeat the request.
    echo: JSONObject
    #: This request's own input, as items.
    items: list[JSONObject]
    #: The names of what does not reach the model as the client sent it.
    warnings: tuple[str, ...]
    reasoning: Shown = "text"
    #: The client wants reasoning sealed, to bring it back.
    carries: bool = False
    #: Did the client ask for the response to be kept? None: it said nothing.
    store: bool | None = None


def items_of(body: JSONObject) -> list[Any]:
    """Return the input as items; raises InvalidRequest when there is none."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if isinstance(given, list):
        return given
    if given is not None:
        raise wrong_type("input", "a string or an array of items", given)
    if "messages" in body:
        raise refused("This address takes `input`; `messages` are for /v1/chat/completions.", "messages", None)
    if body.get("previous_response_id") is None:
        raise missing("input")
    return []


def referred(body: JSONObject) -> list[str]:
    """Return the ids of the items that the input of a request refers to, whatever else is wrong with it."""
    items = body.get("input")
    entries = items if isinstance(items, list) else []
    return [item["id"] for item in entries if _is_reference(item) and isinstance(item.get("id"), str)]


def _is_reference(item: Any) -> bool:
    """Return whether an item stands for another one; OpenAI's clients need not give its type."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and item.keys() <= {"id", "type"})


def own_items(body: JSONObject, find_item: Callable[[str], JSONObject | None]) -> list[Any]:
    """Return the input of a request as items; ``find_item`` returns those that it refers to, of the caller's own.

    Raises:
        InvalidRequest: for what no upstream whatever could be asked.
    """
    model = body.get("model")
    if model is None or model == "":
        raise InvalidRequest("You must name a model: set `model` to one of the ids that /v1/models lists.")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    _check(body)
    return [_resolved(item, f"input[{i}]", find_item) for i, item in enumerate(items_of(body))]


def translate(
    body: JSONObject,
    own: list[Any],
    *,
    history: Sequence[JSONObject] = (),
    unseal: Callable[[str], JSONObject | None] = lambda _: None,
) -> Translated:
    """Return ``body`` as a chat request.

    Args:
        body: as it came, and checked by ``own_items``; it is not changed.
        own: its input, as ``own_items`` returns it.
        history: the items of the responses before it, the oldest first.
        unseal: returns what a sealed reasoning text holds; None for one that is not the caller's.

    Raises:
        InvalidRequest: naming the first thing that is wrong.
    """
    model = body["model"]
    if body.get("prompt") is not None:
        message = "Stored prompts are not available for this model: send the text itself."
        raise refused(message, "prompt", "unsupported_parameter")
    refuse_foreign(body, IN_RESPONSES)
    warnings = _dropped(body)
    items = [*history, *own]
    tools = ToolTable(warnings.append)
    reader = InputReader(items, tools, lambda item: _carried(item, model, unseal), len(history))
    _collect_tools(body, items, len(history), tools)
    messages = _instructions(body) + reader.read()
    if not messages:
        raise refused("`input` is empty: give at least one item.", "input", "empty_array")
    effective = body | _updates(items)
    chat: JSONObject = {"model": model, "messages": messages, **_parameters(effective, tools, warnings)}
    include = list_of(body, "include", "include")
    return Translated(
        ChatRequest.of(chat),
        tools,
        _echo(effective, model),
        own,
        (*warnings, *reader.warnings),
        reasoning="summary" if object_of(effective, "reasoning").get("summary") else "text",
        carries=CARRIERS in include,
        store=body.get("store"),
    )


def untranslated(body: JSONObject, chat: ChatRequest, items: list[Any]) -> Translated:
    """Return what is known of a request that cannot be said in chat's words: only others of its dialect can answer."""
    known = {"previous_response_id": body.get("previous_response_id")}
    return Translated(chat, ToolTable(lambda _: None), _echo(known, chat.model), items, (), store=body.get("store"))


def _carried(item: JSONObject, model: str, unseal: Callable[[str], JSONObject | None]) -> JSONObject | None:
    """Return what a reasoning item holds, if it is of this model: another cannot read it.

    It is sealed in the item, or stands in one that was kept here, which says whose it is.
    """
    sealed = item.get("encrypted_content")
    content = unseal(sealed) if isinstance(sealed, str) else item | {"text": _thought_in(item)}
    return content if content is not None and content.get("model") == model else None


def _thought_in(item: JSONObject) -> str:
    """Return the words of a reasoning item, whichever way they were shown."""
    parts = [*list_of(item, "content", "content"), *list_of(item, "summary", "summary")]
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _check(body: JSONObject) -> None:
    if body.get("previous_response_id") is not None and body.get("conversation") is not None:
        message = "Give `previous_response_id` or `conversation`, not both."
        raise refused(message, "previous_response_id", "mutually_exclusive_parameters")
    for name, harmless, code, message in _REFUSED:
        if body.get(name) not in harmless:
            raise refused(message, name, code)
    for name in ("stream", "store", "parallel_tool_calls"):
        if body.get(name) is not None and not isinstance(body[name], bool):
            raise wrong_type(name, "a boolean", body[name])
    previous = body.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise wrong_type("previous_response_id", "a string", previous)


def _dropped(body: JSONObject) -> list[str]:
    """Return the names of parameters that change the answer and have no counterpart."""
    found = [name for name, harmless in _WARNED if body.get(name) not in harmless]
    if any(wanted not in (CARRIERS, _LOGPROBS) for wanted in list_of(body, "include", "include")):
        found.append("include")
    return found


def _resolved(item: Any, where: str, find_item: Callable[[str], JSONObject | None]) -> Any:
    """Return an item, or the one that it refers to."""
    if not _is_reference(item):
        return item
    found = find_item(item["id"]) if isinstance(item.get("id"), str) else None
    if found is None:
        raise refused(f"{where} refers to an item that is not kept here: send the item itself.", "input", None)
    return found


def _collect_tools(body: JSONObject, items: list[Any], offset: int, tools: ToolTable) -> None:
    tools.add(list_of(body, "tools", "tools"), "tools")
    for i, item in enumerate(items):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind in ("additional_tools", "tool_search_output"):
            where = f"input[{i - offset}].tools"
            tools.add(list_of(item, "tools", where), where, deferred=kind == "tool_search_output")


def _instructions(body: JSONObject) -> list[JSONObject]:
    text = body.get("instructions")
    if text is None or text == "":
        return []
    if not isinstance(text, str):
        raise wrong_type("instructions", "a string", text)
    return [{"role": "system", "content": text}]


def _updates(items: list[Any]) -> JSONObject:
    """Return ``reasoning`` and ``text`` as items in the input set them anew; the last one counts."""
    found: JSONObject = {}
    for item in items:
        if isinstance(item, dict) and item.get("type") == "configuration_update":
            found |= {key: item[key] for key in ("reasoning", "text") if isinstance(item.get(key), dict)}
    return found


def _parameters(body: JSONObject, tools: ToolTable, warnings: list[str]) -> JSONObject:
    """Return everything of the chat body but model and messages."""
    found = {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        found["max_completion_tokens"] = body["max_output_tokens"]
    found |= _text(object_of(body, "text")) | _reasoning(object_of(body, "reasoning"), warnings) | _logprobs(body)
    choice = tools.choice(body.get("tool_choice"))
    if declared := tools.chat_tools:
        found["tools"] = declared
        if choice is not None:
            found["tool_choice"] = choice
        if body.get("parallel_tool_calls") is not None:
            found["parallel_tool_calls"] = body["parallel_tool_calls"]
    if body.get("stream"):
        found |= {"stream": True, "stream_options": {"include_usage": True}}
    return found


def _text(text: JSONObject) -> JSONObject:
    found: JSONObject = {"verbosity": text["verbosity"]} if text.get("verbosity") is not None else {}
    form = text.get("format")
    if form is None:
        return found
    if not isinstance(form, dict):
        raise wrong_type("text.format", "an object", form)
    kind = form.get("type")
    if kind not in _FORMATS:
        raise not_among("text.format.type", kind, _FORMATS)
    if kind == "json_object":
        found["response_format"] = {"type": kind}
    elif kind == "json_schema":
        text_of(form, "name", "text.format")
        if not isinstance(form.get("schema"), dict):
            raise missing("text.format.schema")
        schema = {key: form[key] for key in ("name", "description", "schema", "strict") if form.get(key) is not None}
        found["response_format"] = {"type": kind, "json_schema": schema}
    return found


def _reasoning(reasoning: JSONObject, warnings: list[str]) -> JSONObject:
    if reasoning.get("context") not in (None, "auto"):
        warnings.append("reasoning.context")
    if reasoning.get("mode") == "pro":
        warnings.append("reasoning.mode")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(body: JSONObject) -> JSONObject:
    wanted = body.get("top_logprobs")
    if not wanted and _LOGPROBS not in list_of(body, "include", "include"):
        return {}
    return {"logprobs": True} | ({"top_logprobs": wanted} if wanted else {})


def _echo(body: JSONObject, model: str) -> JSONObject:
    """Return what a response object repeats of its request, with OpenAI's defaults for what was not said."""
    reasoning, text = object_of(body, "reasoning"), object_of(body, "text")
    verbosity = {"verbosity": text["verbosity"]} if text.get("verbosity") is not None else {}
    return {
        "model": model,
        "parallel_tool_calls": _or(body.get("parallel_tool_calls"), True),
        "tool_choice": _or(body.get("tool_choice"), "auto"),
        "tools": body.get("tools") or [],
        **{name: body.get(name) for name in _REPEATED},
        "metadata": body.get("metadata") or {},
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "temperature": _or(body.get("temperature"), 1),
        "text": {"format": _or(text.get("format"), {"type": "text"}), **verbosity},
        "top_p": _or(body.get("top_p"), 1),
        "truncation": "disabled",
        "background": False,
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
