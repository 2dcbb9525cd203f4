"""Forms with files, on their way through: a large one waits on the disk, because it may have to be sent again."""

import asyncio
import mmap
import re
import tempfile
from typing import IO

from flask import request
from werkzeug.wsgi import get_input_stream

from one_api.api.bodies import encodings_of
from one_api.dialects.multipart import Field, Form, InvalidForm, check_boundary, find_field
from one_api.dialects.openai.passthrough import FormBody
from one_api.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from one_api.serving.bridge import await_

#: What is larger goes into a file, in bytes; so much is written to it at once.
_IN_MEMORY_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024


class Upload:
    """The form of the current request; its owner calls ``close()``."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._form: Form = b""

    def receive(self, max_bytes: int) -> FormBody:
        """Take the form from the client, and return it with the field that names the model; waits, in a view.

        Raises:
            UnsupportedMediaType: when it is no form.
            RequestTooLarge: when it has more than ``max_bytes``.
            InvalidRequest: when it cannot be read, or names no model.
        """
        if request.mimetype != "multipart/form-data":
            raise UnsupportedMediaType("Send a form: `Content-Type: multipart/form-data`.")
        if encodings_of(request.headers.get("Content-Encoding", "")):
            raise UnsupportedMediaType("Send the form as it is, without a Content-Encoding.")
        if (request.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        try:
            boundary = check_boundary(request.mimetype_params.get("boundary"))
            self._receive(max_bytes)
            field, n = await_(asyncio.to_thread(_read, self._form, boundary))
        except InvalidForm as error:
            raise InvalidRequest(f"The request's body is not a form that can be used: {error}.") from None
        if field is None or not field.value:
            raise InvalidRequest(
                "You must name a model: give the form a field `model` with one of the ids that /v1/models lists.",
                param="model",
                code="missing_required_parameter",
            )
        return FormBody(self._form, field, request.headers["Content-Type"], field.value.encode(), n)

    def _receive(self, max_bytes: int) -> None:
        stream = get_input_stream(request.environ)
        held, size = bytearray(), 0
        while piece := stream.read(_PIECE_BYTES):
            held += piece
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            if len(held) >= _IN_MEMORY_BYTES:
                await_(asyncio.to_thread(self._write, bytes(held)))
                held.clear()
        if self._file is None:
            self._form = bytes(held)
        else:
            await_(asyncio.to_thread(self._write, bytes(held)))
            self._form = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - ``close`` does
        self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        """Let go of it, and of its file."""
        if isinstance(self._form, mmap.mmap):
            self._form.close()
        if self._file is not None:
            self._file.close()


def _read(form: Form, boundary: bytes) -> tuple[Field | None, int]:
    """Return the field that names the model, and how many images are asked for; raises InvalidForm."""
    model = find_field(form, boundary, "model")
    try:
        n = find_field(form, boundary, "n")
    except InvalidForm:  # that is for the upstream to judge
        n = None
    return model, int(n.value) if n is not None and re.fullmatch(r"[1-9][0-9]{0,3}", n.value) else 1


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The form is too large: at most {max_bytes} bytes are taken (`server.max_upload_bytes`).")
