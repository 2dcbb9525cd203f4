"""The header ``traceparent``: which trace a request belongs to (W3C Trace Context, level 1). Pure."""

import re
from typing import NamedTuple

#: Longer headers are not looked at; later versions may add to the 55 characters of the first one.
_MAX_CHARACTERS = 512
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[ -~]{1,512}")
_SAMPLED = 0x01


class Parent(NamedTuple):
    """The span that a caller's request belongs to, its ids in hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool


def parse(header: str) -> Parent | None:
    """Read a header strictly; None for one that is malformed, or was sent twice (a comma stands between them).

    Later versions than 00 may have more at the end; their first fields mean the same.
    """
    found = _HEADER.fullmatch(header) if len(header) <= _MAX_CHARACTERS else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def parse_state(header: str) -> str | None:
    """Return what a ``tracestate`` holds, if it can be sent on as it is."""
    return header if _STATE.fullmatch(header) else None
