"""Content parts of OpenAI's messages become blocks of Anthropic's."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from one_api.dialects.anthropic.models import ModelTraits
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

#: What each role may say.
_KINDS = {
    "system": ("text",),
    "user": ("text", "image_url", "file"),
    "tool": ("text", "image_url", "file"),
    "assistant": ("text", "refusal", "thinking"),
}
_DATA_URI = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[\s=]+")


@dataclass(frozen=True, slots=True)
class CacheMarks:
    """How marks for the cache are sent: ``long_cache`` allows the hour, which costs more to write."""

    long_cache: bool

    def of(self, holder: Any) -> JSONObject:
        """Return ``{"cache_control": ...}`` when a part, message or tool carries a mark, else nothing."""
        if not isinstance(holder, dict):
            return {}
        mark, ours = holder.get("cache_control"), holder.get("prompt_cache_breakpoint")
        if isinstance(mark, dict) and mark.get("type") == "ephemeral":
            return {"cache_control": self._mark(mark.get("ttl"))}
        if isinstance(ours, dict) and ours.get("mode") == "explicit":
            return {"cache_control": self._mark(ours.get("ttl"))}
        return {}

    def _mark(self, ttl: Any) -> JSONObject:
        long = self.long_cache and ttl in ("30m", "1h", "12h", "24h")
        return {"type": "ephemeral", "ttl": "1h"} if long else {"type": "ephemeral"}


@dataclass(frozen=True, slots=True)
class Content:
    """Translates the content of messages for one model."""

    traits: ModelTraits
    marks: CacheMarks
    #: The clients' ids of files -> the upstream's.
    file_ids: Mapping[str, str] = field(default_factory=dict)

    def blocks(self, content: Any, role: str, where: str) -> list[JSONObject]:
        """Return the blocks for a string or for parts; blank texts are left out, as the upstream refuses them.

        Raises:
            InvalidRequest: naming the part below ``where`` that has no counterpart.
        """
        if content is None:
            return []
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if content.strip() else []
        if not isinstance(content, list):
            raise wrong_type(where, "a string or an array of content parts", content)
        found = []
        for j, part in enumerate(content):
            block = self._block(part, role, f"{where}[{j}]")
            if block is not None:
                found.append({**block, **self.marks.of(part)} if block["type"] != "thinking" else block)
        return found

    def _block(self, part: Any, role: str, where: str) -> JSONObject | None:
        if not isinstance(part, dict):
            raise wrong_type(where, "an object", part)
        kind = part.get("type")
        if kind == "input_audio":
            raise refused("This model does not take audio: send text.", f"{where}.type", "unsupported_content_part")
        if kind not in _KINDS[role]:
            known = ", ".join(_KINDS[role])
            message = f"Invalid value for `{where}.type`: a {role} message of this model takes {known}."
            raise refused(message, f"{where}.type", "invalid_value")
        if kind == "image_url":
            return self._image(part.get("image_url"), f"{where}.image_url")
        if kind == "file":
            return self._file(part.get("file"), f"{where}.file")
        if kind == "thinking":
            return thinking_block(part)
        text = part.get(kind)
        if not isinstance(text, str):
            raise wrong_type(f"{where}.{kind}", "a string", text)
        return {"type": "text", "text": text} if text.strip() else None

    def _image(self, image: Any, where: str) -> JSONObject:
        url = image.get("url") if isinstance(image, dict) else image
        param = f"{where}.url" if isinstance(image, dict) else where
        if not isinstance(url, str):
            raise wrong_type(param, "a string", url)
        if not self.traits.image_input:
            raise refused("This model does not take images.", param, "unsupported_content_part")
        scheme = url[:16].lstrip().lower()
        if scheme.startswith("https://"):
            return {"type": "image", "source": {"type": "url", "url": url.strip()}}
        if not scheme.startswith("data:"):
            message = "An image must be an https:// address or a data: URI with the image itself."
            raise refused(message, param, "invalid_image_url")
        _, text, head = read_data_uri(url, param)
        media_type = image_type(head)
        if media_type is None:
            message = "The image is not JPEG, PNG, GIF or WebP: convert it."
            raise refused(message, param, "invalid_image_format")
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": text}}

    def _file(self, file: Any, where: str) -> JSONObject:
        if not isinstance(file, dict):
            raise wrong_type(where, "an object", file)
        data, file_id = file.get("file_data"), file.get("file_id")
        if data is None and file_id is not None:
            source = self._stored(file_id, f"{where}.file_id")
        elif isinstance(data, str):
            source = self._document(data, f"{where}.file_data")
        else:
            raise wrong_type(f"{where}.file_data", "a string", data)
        name = file.get("filename")
        return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) and name else {})}

    def _stored(self, file_id: Any, param: str) -> JSONObject:
        """Return the source of a document that the operator has stored at the upstream."""
        if not isinstance(file_id, str):
            raise wrong_type(param, "a string", file_id)
        if file_id not in self.file_ids:
            message = "No file of this id is known here: send the file itself as `file_data`."
            raise refused(message, param, "unsupported_parameter")
        return {"type": "file", "file_id": self.file_ids[file_id]}

    def _document(self, data: str, param: str) -> JSONObject:
        """Return the source of a document: a PDF by its bytes, else text by its label."""
        is_uri = data[:16].lstrip().lower().startswith("data:")
        label, text, head = read_data_uri(data, param) if is_uri else ("", *_base64(data, param))
        if head.startswith(b"%PDF-"):
            if not self.traits.pdf_input:
                raise refused("This model does not take PDF files: send text.", param, "unsupported_content_part")
            return {"type": "base64", "media_type": "application/pdf", "data": text}
        if not label.startswith("text/"):
            message = "The file is neither PDF nor, by the label of its data: URI, text."
            raise refused(message, param, "unsupported_content_part")
        try:
            plain = base64.b64decode(text).decode()
        except UnicodeDecodeError:
            raise refused("The text file is not UTF-8.", param, "unsupported_content_part") from None
        if not plain.strip():
            raise refused("The text file is empty.", param, "unsupported_content_part")
        return {"type": "text", "media_type": "text/plain", "data": plain}


def thinking_block(block: Any) -> JSONObject | None:
    """Return the upstream's own thinking block out of what a client sent back, or None when it is not signed."""
    if not isinstance(block, dict):
        return None
    if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
        return {"type": "redacted_thinking", "data": block["data"]}
    signature = block.get("signature")
    if block.get("type") == "thinking" and isinstance(block.get("thinking"), str) and isinstance(signature, str):
        return {"type": "thinking", "thinking": block["thinking"], "signature": signature}
    return None


def image_type(head: bytes) -> str | None:
    """Return the media type of an image, from its first 12 bytes; None for one that the upstream cannot read."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else None


def read_data_uri(uri: str, param: str) -> tuple[str, str, bytes]:
    """Read a ``data:`` URI by RFC 2397: its media type in lower case, its data as plain base64, its bytes.

    Parameters, any case, URL-safe base64, missing padding, white space and percent-encoding are read.

    Raises:
        InvalidRequest: naming ``param``, when it has no data or its base64 is broken.
    """
    match = _DATA_URI.match(uri)
    if match is None:
        raise refused("The data: URI has no comma before its data.", param, "invalid_base64")
    label, *parameters = [piece.strip().lower() for piece in match[1].split(";")]
    data = uri[match.end() :]
    if "base64" in parameters:
        return (label, *_base64(unquote_to_bytes(data).decode("latin-1") if "%" in data else data, param))
    plain = unquote_to_bytes(data)
    return label, base64.b64encode(plain).decode(), plain


def _base64(data: str, param: str) -> tuple[str, bytes]:
    """Return base64 in its plain form, and the bytes that it stands for."""
    text = data
    try:
        return text, _decoded(text)
    except (binascii.Error, ValueError):
        text = _NOT_BASE64.sub("", data).replace("-", "+").replace("_", "/")
        text += "=" * (-len(text) % 4)
    try:
        return text, _decoded(text)
    except (binascii.Error, ValueError):
        raise _broken(param) from None


def _decoded(text: str) -> bytes:
    found = binascii.a2b_base64(text, strict_mode=True)
    if not found:
        raise ValueError("no data")
    return found


def _broken(param: str) -> InvalidRequest:
    return refused("The data is not valid base64.", param, "invalid_base64")
