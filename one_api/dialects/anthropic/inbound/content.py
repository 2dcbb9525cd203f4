"""Content blocks of Anthropic's messages become parts of OpenAI's."""

from typing import Any

from one_api.dialects import json
from one_api.dialects.anthropic.inbound.request import wrong
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.json import JSONObject

#: What a document is called that has no title.
_PDF_NAME = "document.pdf"

#: Parts of chat and of Responses, and the blocks in their place; a model would not learn of what is left out.
_FOREIGN = {"image_url": "image", "input_image": "image", "file": "document", "input_file": "document"}


def content_of(parts: list[JSONObject]) -> str | list[JSONObject]:
    """Return the content of a chat message: a single text as a string, which every server reads."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def blocks_of(content: Any, where: str) -> list[tuple[JSONObject, str]]:
    """Return the blocks of a content, a string or a list, each with its path."""
    if content is None:
        return []
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)]
    if not isinstance(content, list):
        raise wrong(where, "Input should be a string or an array of content blocks.")
    for j, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise wrong(f"{where}.{j}", "Input should be an object with a `type`.")
    return [(block, f"{where}.{j}") for j, block in enumerate(content)]


def parts_of(block: JSONObject, where: str, notes: Notes) -> list[JSONObject]:
    """Return the parts that a block of a user message, of a result or of the system text amounts to.

    Raises:
        InvalidRequest: for content that only Anthropic has.
    """
    kind = block["type"]
    if kind == "text":
        return _text(block.get("text"), f"{where}.text")
    if kind == "image":
        return [_image(_source(block, where), f"{where}.source")]
    if kind == "document":
        return _document(block, where, notes)
    if kind == "search_result":
        return _search_result(block, where, notes)
    if kind == "tool_reference":
        return _text(block.get("tool_name"), f"{where}.tool_name")
    if kind in _FOREIGN:
        raise wrong(f"{where}.type", f"`{kind}` is no block of Messages: use `{_FOREIGN[kind]}`.")
    if kind == "container_upload":
        raise wrong(where, "Only Anthropic's own models read uploaded files: send the content itself.")
    if isinstance(block.get("text"), str):
        return _text(block["text"], where)
    notes.warn("messages.content", f"{where}: only Anthropic's own models read a block of this type.")
    return []


def text_in(parts: list[JSONObject]) -> str:
    """Return the texts among parts, a blank line between each and the next."""
    return "\n\n".join(part["text"] for part in parts if part["type"] == "text")


def _text(text: Any, where: str) -> list[JSONObject]:
    if not isinstance(text, str):
        raise wrong(where, "Input should be a string.")
    return [{"type": "text", "text": text}] if text else []


def _source(block: JSONObject, where: str) -> JSONObject:
    source = block.get("source")
    if not isinstance(source, dict):
        raise wrong(f"{where}.source", "Input should be an object.")
    return source


def _image(source: JSONObject, where: str) -> JSONObject:
    kind = source.get("type")
    if kind == "base64" and isinstance(source.get("data"), str):
        media_type = source.get("media_type")
        label = media_type if isinstance(media_type, str) else "image/png"
        return {"type": "image_url", "image_url": {"url": f"data:{label};base64,{source['data']}"}}
    if kind == "url" and isinstance(source.get("url"), str):
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    raise _unknown_source(where)


def _document(block: JSONObject, where: str, notes: Notes) -> list[JSONObject]:
    source, title, context = _source(block, where), block.get("title"), block.get("context")
    kind, data = source.get("type"), source.get("data")
    name = title if isinstance(title, str) and title else None
    about = [{"type": "text", "text": context}] if isinstance(context, str) and context else []
    if kind == "base64" and isinstance(data, str):
        media_type = source.get("media_type") or "application/pdf"
        file = {"filename": name or _PDF_NAME, "file_data": f"data:{media_type};base64,{data}"}
        return [*about, {"type": "file", "file": file}]
    if kind == "url" and isinstance(source.get("url"), str):
        return [*about, {"type": "file", "file": {"filename": name or _PDF_NAME, "file_data": source["url"]}}]
    heading = [*([{"type": "text", "text": name}] if name else []), *about]
    if kind == "text" and isinstance(data, str):
        return [{"type": "text", "text": text_in([*heading, {"type": "text", "text": data}])}]
    if kind == "content":
        inner = blocks_of(source.get("content"), f"{where}.source.content")
        return heading + [part for each, place in inner for part in parts_of(each, place, notes)]
    raise _unknown_source(f"{where}.source")


def _search_result(block: JSONObject, where: str, notes: Notes) -> list[JSONObject]:
    """Return a result of the client's own search as one text: title, source, content."""
    lines = [{"type": "text", "text": block[key]} for key in ("title", "source") if isinstance(block.get(key), str)]
    inner = blocks_of(block.get("content"), f"{where}.content")
    lines += [part for each, place in inner for part in parts_of(each, place, notes)]
    return [{"type": "text", "text": text_in(lines)}]


def _unknown_source(where: str) -> Exception:
    return wrong(where, "This model takes base64 data or a URL, no file of Anthropic's: send the content itself.")


def arguments_of(given: Any) -> str:
    """Return the input of a call as the text of its arguments."""
    return json.encode(given if isinstance(given, dict) else {}).decode()
