"""What belongs to traces: the header ``traceparent`` (W3C Trace Context, level 1), and a request's parameters. Pure.

Of parameters a trace gets numbers and words of closed lists, never content.
"""

import re
from typing import Any, NamedTuple

#: Longer headers are not looked at; later versions may add to the 55 characters of the first one.
_MAX_CHARACTERS = 512
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[ -~]{1,512}")
_SAMPLED = 0x01
#: Fields of a chat request -> attributes, by OpenTelemetry's conventions for generative AI; of two names the first.
_NUMBERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
}
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


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


def traced_parameters(body: Any) -> dict[str, str | int | float]:
    """Return the attributes for the parameters that a request's body has."""
    if not isinstance(body, dict):
        return {}
    found: dict[str, str | int | float] = {}
    for name, attribute in _NUMBERS.items():
        if name in body and (value := _number(body[name])) is not None:
            found[attribute] = value
    if (choices := _number(body.get("n"))) is not None and choices != 1:
        found["gen_ai.request.choice.count"] = int(choices)
    effort = body.get("reasoning_effort")
    if isinstance(effort, str) and effort in _EFFORTS:
        found["gen_ai.request.reasoning.level"] = effort
    return found


def _number(value: Any) -> int | float | None:
    """Return a number that an attribute can hold; one that was kept as it was written is made one of Python's."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else None
    return float(value)
