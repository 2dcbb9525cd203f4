"""The content of messages and of tool outputs: parts of the Responses dialect become parts of chat messages."""

from typing import Any

from one_api.dialects.checks import missing, not_among, refused, text_of, wrong_type
from one_api.dialects.json import JSONObject

PART_TYPES = ("input_text", "output_text", "text", "input_image", "input_file", "input_audio", "refusal")
_TEXTS = ("input_text", "output_text", "text")


def parts_of(content: Any, where: str) -> list[JSONObject]:
    """Return the chat parts of a string or of a list of parts; ``where`` is the path of ``content``.

    Raises:
        InvalidRequest: naming the part that cannot be used.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        raise missing(where)
    if not isinstance(content, list):
        raise wrong_type(where, "a string or an array of content parts", content)
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def simplified(parts: list[JSONObject]) -> str | list[JSONObject]:
    """Return parts as the content of a message: plain text alone is a string, which every server takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts


def split_output(parts: list[JSONObject]) -> tuple[str, list[JSONObject]]:
    """Return the text of a tool's output, and the images and files of it, which no tool message can hold."""
    rest = [part for part in parts if part["type"] != "text"]
    texts = [part["text"] if part["type"] == "text" else _placeholder(part) for part in parts]
    return "\n".join(texts), rest


def _placeholder(part: JSONObject) -> str:
    kind = "image" if part["type"] == "image_url" else "file"
    return f"[The {kind} is in the message after the tool results.]"


def _part(part: Any, where: str) -> JSONObject:
    if not isinstance(part, dict):
        raise wrong_type(where, "an object", part)
    kind = part.get("type")
    if kind in _TEXTS:
        made: JSONObject = {"type": "text", "text": text_of(part, "text", where)}
    elif kind == "input_image":
        made = _image(part, where)
    elif kind == "input_file":
        made = _file(part, where)
    elif kind == "input_audio":
        if part.get("input_audio") is None:
            raise missing(f"{where}.input_audio")
        made = {"type": "input_audio", "input_audio": part["input_audio"]}
    elif kind == "refusal":
        made = {"type": "refusal", "refusal": text_of(part, "refusal", where)}
    else:
        raise not_among(f"{where}.type", kind, PART_TYPES)
    mark = part.get("prompt_cache_breakpoint")
    return made if mark is None else made | {"prompt_cache_breakpoint": mark}


def _image(part: JSONObject, where: str) -> JSONObject:
    if part.get("file_id") is not None:
        raise refused("This model cannot read uploaded files: send the image itself.", f"{where}.file_id")
    image = {"url": text_of(part, "image_url", where)}
    detail = part.get("detail")
    return {"type": "image_url", "image_url": image if detail is None else image | {"detail": detail}}


def _file(part: JSONObject, where: str) -> JSONObject:
    for absent in ("file_id", "file_url"):
        if part.get(absent) is not None:
            raise refused("Send the file itself, as `file_data`.", f"{where}.{absent}")
    file = {"file_data": text_of(part, "file_data", where)}
    name = part.get("filename")
    return {"type": "file", "file": file if name is None else file | {"filename": name}}
