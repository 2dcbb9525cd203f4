"""The response object: what every answer and most events of a stream hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.custom_input import CustomInput
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import calls_in
from one_api.dialects.openai.shapes import text_of
from one_api.dialects.responses.request import Shown, Translated
from one_api.dialects.responses.tools import Kind, Tool

#: What a response holds of the request that a stream leaves out: prompts and tools are long, and events many.
_LONG: JSONObject = {"instructions": None, "tools": []}
_TOOL_PREFIXES = {"function": "fc", "custom": "ctc", "tool_search": "tsc"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a response is known by; ``created_at`` is in Unix seconds."""

    #: ``resp_`` and 32 hexadecimal digits.
    id: str
    created_at: int

    def item(self, prefix: str, index: int) -> str:
        """Return the id of the item at ``index`` of the output."""
        return f"{prefix}_{self.id.removeprefix('resp_')}{index:02x}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended, so far as it has."""

    status: str = "in_progress"
    #: Why it is ``incomplete``.
    reason: str | None = None
    error: JSONObject | None = None
    completed_at: int | None = None


def outcome_of(finish_reason: str | None, refused: bool, completed_at: int) -> Outcome:
    """Return how an answer ended whose ``finish_reason`` is chat's; ``refused``: it holds a refusal in words."""
    if finish_reason == "length":
        return Outcome("incomplete", "max_output_tokens", completed_at=completed_at)
    if finish_reason == "content_filter" and not refused:
        return Outcome("incomplete", "content_filter", completed_at=completed_at)
    return Outcome("completed", completed_at=completed_at)


def response_object(
    request: Translated,
    identity: Identity,
    outcome: Outcome,
    output: list[JSONObject],
    *,
    usage: JSONObject | None = None,
    service_tier: str | None = None,
    stored: bool = False,
    short: bool = False,
) -> JSONObject:
    """Return a response; ``usage`` is chat's, and ``short`` leaves out what is long and the client's own."""
    echo = request.echo
    given = echo | _LONG if short else echo
    return {
        "id": identity.id,
        "object": "response",
        "created_at": identity.created_at,
        "status": outcome.status,
        "completed_at": outcome.completed_at,
        "error": outcome.error,
        "incomplete_details": {"reason": outcome.reason} if outcome.reason else None,
        "model": echo["model"],
        "output": output,
        **{key: value for key, value in given.items() if key != "model"},
        "service_tier": service_tier or echo["service_tier"],
        "store": stored,
        "usage": usage_of(usage) if usage is not None else None,
    }


#: Counts of tokens that are no text, and of those that are beside such.
_BY_MODALITY = ("text_tokens", "audio_tokens", "image_tokens", "video_tokens")


def usage_of(usage: JSONObject) -> JSONObject:
    """Return chat's ``usage`` under the names of this dialect, all of them; tokens by modality where there are any."""
    sent, made = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    read, written = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": sent,
        "input_tokens_details": _details(read, "cached_tokens", "cache_write_tokens"),
        "output_tokens": made,
        "output_tokens_details": _details(written, "reasoning_tokens"),
        "total_tokens": _count(usage, "total_tokens") or sent + made,
    }


def _details(holder: Any, *names: str) -> JSONObject:
    """Return these counts, and those by modality that are reported."""
    by_modality = {name: count for name in _BY_MODALITY if (count := _count(holder, name))}
    return {name: _count(holder, name) for name in names} | by_modality


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return int(value) if isinstance(value, (int, float)) else 0


def annotations_of(annotations: Any) -> list[JSONObject]:
    """Return chat's annotations in this dialect, where a citation is flat."""
    found = [each for each in annotations if isinstance(each, dict)] if isinstance(annotations, list) else []
    return [_flat(each["url_citation"]) if isinstance(each.get("url_citation"), dict) else each for each in found]


def _flat(citation: JSONObject) -> JSONObject:
    """Return a citation with what clients rely on; servers that search the web themselves leave out its place."""
    known = {name: value for name, value in citation.items() if value is not None}
    return {"type": "url_citation", "start_index": 0, "end_index": 0, "title": "", **known}


def probabilities_of(logprobs: Any) -> list[JSONObject]:
    """Return chat's probabilities of a text, with what clients rely on."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    found = [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    return [_measured(each) | {"top_logprobs": list(map(_measured, each.get("top_logprobs") or ()))} for each in found]


def _measured(token: JSONObject) -> JSONObject:
    """Return the probability of a token with its bytes, which chat may leave out."""
    if isinstance(token.get("bytes"), list):
        return token
    return token | {"bytes": list(str(token.get("token", "")).encode("utf-8", "replace"))}


def images_in(said: JSONObject) -> list[str]:
    """Return the images that a chat message, or a delta of one, holds beside its text, in base64."""
    images = said.get("images")
    found = [each.get("image_url") for each in images if isinstance(each, dict)] if isinstance(images, list) else []
    urls = [str(each.get("url")) for each in found if isinstance(each, dict)]
    return [url.partition(";base64,")[2] for url in urls if url.startswith("data:image/") and ";base64," in url]


def image_item(item_id: str, status: str, image: str | None) -> JSONObject:
    """Return an image that the model has made."""
    return {"id": item_id, "type": "image_generation_call", "status": status, "result": image}


def reasoning_item(item_id: str, text: str, shown: Shown, sealed: str | None) -> JSONObject:
    """Return what the model thought, in the form in which it is shown, and sealed."""
    item: JSONObject = {"id": item_id, "type": "reasoning", "summary": []}
    if text and shown == "summary":
        item["summary"] = [{"type": "summary_text", "text": text}]
    elif text and shown == "text":
        item["content"] = [{"type": "reasoning_text", "text": text}]
    return item | {"encrypted_content": sealed, "status": "completed"}


def carried(model: str, text: str, blocks: list[JSONObject]) -> JSONObject:
    """Return what is sealed of the reasoning: Claude's own blocks, or the text."""
    if blocks:
        return {"model": model, "blocks": [{key: each[key] for key in each if key != "index"} for each in blocks]}
    return {"model": model, "text": text}


def text_part(text: str, annotations: list[JSONObject], logprobs: list[Any]) -> JSONObject:
    """Return a part of a message."""
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def message_item(item_id: str, content: list[JSONObject], status: str) -> JSONObject:
    """Return a message of the model."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def call_prefix(tool: Tool) -> str:
    """Return how the ids of items begin that call a tool."""
    return _TOOL_PREFIXES[tool.kind]


def kind_of_call(call: JSONObject) -> Kind:
    """Return the kind of a call in chat, or of its first delta."""
    return "custom" if "custom" in call else "function"


def call_item(item_id: str, call_id: str, tool: Tool, text: str, status: str) -> JSONObject:
    """Return the call of a tool; ``text`` is the arguments, or a custom tool's input."""
    item: JSONObject = {"id": item_id, "status": status, "call_id": call_id}
    if tool.kind == "tool_search":
        return {"type": "tool_search_call", **item, "execution": "client", "arguments": _object_in(text)}
    item["name"] = tool.name
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    if tool.kind == "custom":
        return {"type": "custom_tool_call", **item, "input": text}
    return {"type": "function_call", **item, "arguments": text}


def _object_in(text: str) -> JSONObject:
    """Return the object that a model wrote as arguments; anything else goes under a name of its own."""
    if not text:
        return {}
    try:
        return json.decode_object(text.encode("utf-8", "replace"))
    except json.InvalidJSON:
        return {"query": text}


def whole_response(
    request: Translated,
    identity: Identity,
    completion: JSONObject,
    completed_at: int,
    *,
    seal: Callable[[JSONObject], str] | None = None,
    stored: bool = False,
) -> JSONObject:
    """Return the response that a whole chat completion amounts to."""
    choice = completion["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    outcome = outcome_of(finish, bool(message.get("refusal")), completed_at)
    return response_object(
        request,
        identity,
        outcome,
        _output(request, identity, choice, outcome.status, seal),
        usage=completion.get("usage"),
        service_tier=completion.get("service_tier"),
        stored=stored,
    )


def _output(
    request: Translated, identity: Identity, choice: JSONObject, status: str, seal: Callable[[JSONObject], str] | None
) -> list[JSONObject]:
    message = choice["message"]
    output: list[JSONObject] = []
    text, blocks = message.get("reasoning_content") or "", message.get("thinking_blocks") or []
    sealed = seal(carried(request.chat.model, text, blocks)) if seal is not None and (text or blocks) else None
    if sealed or (text and request.reasoning != "nothing"):
        output.append(reasoning_item(identity.item("rs", 0), text, request.reasoning, sealed))
    calls = calls_in(message, identity.id)
    content, images = _content(message, choice.get("logprobs")), images_in(message)
    # A model that has only thought has answered with nothing, unless it was cut before it could.
    if content or not (calls or images or (output and status == "incomplete")):
        parts = content or [text_part("", [], [])]
        output.append(message_item(identity.item("msg", len(output)), parts, "completed"))
    output += [image_item(identity.item("ig", at), "completed", each) for at, each in enumerate(images, len(output))]
    for call in calls:
        body = call.get("function") or call.get("custom") or {}
        tool = request.tools.find(body.get("name") or "", kind_of_call(call))
        item_id = identity.item(call_prefix(tool), len(output))
        output.append(call_item(item_id, call["id"], tool, _called_with(tool, body), "completed"))
    if status == "incomplete" and "status" in output[-1]:
        output[-1]["status"] = status
    return output


def _content(message: JSONObject, logprobs: Any) -> list[JSONObject]:
    found: list[JSONObject] = []
    if text := text_of(message):
        found.append(text_part(text, annotations_of(message.get("annotations")), probabilities_of(logprobs)))
    if message.get("refusal"):
        found.append({"type": "refusal", "refusal": message["refusal"]})
    return found


def _called_with(tool: Tool, body: JSONObject) -> str:
    """Return the arguments of a call, or a custom tool's input."""
    text = body.get("arguments") if "arguments" in body else body.get("input")
    text = text if isinstance(text, str) else ""
    if tool.kind != "custom":
        return text or "{}"
    reader = CustomInput()
    reader.feed(text)
    reader.end()
    return reader.text
