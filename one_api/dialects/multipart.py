"""A form of several parts (RFC 7578), read for the one field that we need; all other bytes stay as they came."""

import mmap
import re
from dataclasses import dataclass
from typing import TypeAlias

#: The bytes of a form; those of a large one lie in a file.
Form: TypeAlias = bytes | mmap.mmap

#: More parts than this no request needs.
_MAX_PARTS = 1000
#: What the header of one part may have, and the value of a field that we read, in bytes.
_MAX_HEADER_BYTES, _MAX_VALUE_BYTES = 16 * 1024, 512
#: What a boundary is made of (RFC 2046, 5.1.1).
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:[ \t]*form-data[ \t]*", re.I | re.M)
_PARAMETER = re.compile(rb';[ \t\r\n]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;\r\n]*)')


class InvalidForm(ValueError):
    """The bytes are no form; the message says why."""


@dataclass(frozen=True, slots=True)
class Field:
    """The value of a field, and where it stands: from ``start`` to before ``end``."""

    value: str
    start: int
    end: int


def check_boundary(boundary: str | None) -> bytes:
    """Return the boundary that a content type names; raises InvalidForm when it is not one."""
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise InvalidForm("its content type has no boundary, or one that cannot be used")
    return boundary.encode("ascii")


def find_field(form: Form, boundary: bytes, name: str) -> Field | None:
    """Return the field called ``name``, wherever it stands; None when there is none.

    Raises:
        InvalidForm: when ``form`` cannot be read to its end, or has several fields of that name.
    """
    found: Field | None = None
    start = _first_part(form, boundary)
    for _ in range(_MAX_PARTS):
        head_end = form.find(b"\r\n\r\n", start - 2, start + _MAX_HEADER_BYTES)
        if head_end < 0:
            raise InvalidForm("a part has no end of its header, or one that is too long")
        value_start = head_end + 4
        value_end, next_start = _end_of_part(form, boundary, value_start)
        if _name_in(form[start:head_end]) == name.encode():
            if found is not None:
                raise InvalidForm(f"the field `{name}` is given twice")
            found = _field(form, name, value_start, value_end)
        if next_start is None:
            return found
        start = next_start
    raise InvalidForm(f"it has more than {_MAX_PARTS} parts")


def _field(form: Form, name: str, start: int, end: int) -> Field:
    if end - start > _MAX_VALUE_BYTES:
        raise InvalidForm(f"the field `{name}` is too long")
    try:
        return Field(form[start:end].decode(), start, end)
    except UnicodeDecodeError:
        raise InvalidForm(f"the field `{name}` is not UTF-8") from None


def _first_part(form: Form, boundary: bytes) -> int:
    """Return where the header of the first part begins; what stands before it means nothing."""
    mark = b"--" + boundary
    if form[: len(mark)] == mark and (after := _after_mark(form, len(mark))) is not None:
        return after
    return _end_of_part(form, boundary, 0)[1] or _no_parts()


def _no_parts() -> int:
    raise InvalidForm("it has no parts")


def _end_of_part(form: Form, boundary: bytes, start: int) -> tuple[int, int | None]:
    """Return where the part ends whose value begins at ``start``, and where the next one begins; None for the last."""
    mark = b"\r\n--" + boundary
    at = form.find(mark, start)
    while at >= 0:
        after = at + len(mark)
        if form[after : after + 2] == b"--":
            return at, None
        if (next_start := _after_mark(form, after)) is not None:
            return at, next_start
        at = form.find(mark, after)  # it was a part of the value that looks like it
    raise InvalidForm("it is cut short, or its boundary is not the one that was announced")


def _after_mark(form: Form, at: int) -> int | None:
    """Return where the line ends that a boundary stands on; None when more than blanks follow it."""
    end = form.find(b"\r\n", at, at + 256)
    return end + 2 if end >= 0 and not form[at:end].strip(b" \t") else None


def _name_in(head: bytes) -> bytes | None:
    """Return the name of the field in the header of a part."""
    found = _DISPOSITION.search(head)
    at = found.end() if found else len(head)
    while parameter := _PARAMETER.match(head, at):
        if parameter[1].lower() == b"name":
            value = parameter[2].strip()
            return re.sub(rb"\\(.)", rb"\1", value[1:-1]) if value[:1] == b'"' else value
        at = parameter.end()
    return None
