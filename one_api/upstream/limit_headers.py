"""What clients may see of an upstream's response headers: its limits, and its id of the request."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from one_api.dialects import durations

_CLAUDE = "anthropic-ratelimit-"
_OPENAI = "x-ratelimit-"
#: Under this name the client sees the limits of an upstream that has refused a request for them.
_SHOWN = "x-upstream-ratelimit-"
#: A longer value is not one of theirs.
_MAX_VALUE = 128
#: More of them than this no upstream has.
_MAX_HEADERS = 24
_NAME = re.compile(r"[a-z0-9-]{1,64}").fullmatch
_VALUE = re.compile(r"[ -~]*").fullmatch


def claude_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a client sees of any answer of Anthropic's: its limits, also in OpenAI's names, and its id."""
    own = {name.lower(): value for name, value in headers.items() if len(value) <= _MAX_VALUE and value.isascii()}
    found = {name: value for name, value in own.items() if name.startswith(_CLAUDE)}
    if found:
        found |= {f"{_OPENAI}{name}": value for name, value in _in_openai_names(own)}
    if "request-id" in own:
        found["x-upstream-request-id"] = own["request-id"]
    return found


def refused_limits(headers: Mapping[str, str]) -> dict[str, str]:
    """Return an upstream's limits as the client of a refused request sees them: ``x-upstream-ratelimit-*``."""
    own = {
        name.lower(): value
        for name, value in headers.items()
        if _NAME(name.lower()) and len(value) <= _MAX_VALUE and _VALUE(value)
    }
    found = {name[len(_OPENAI) :]: value for name, value in own.items() if name.startswith(_OPENAI)}
    found = dict(_in_openai_names(own)) | found
    return {f"{_SHOWN}{name}": value for name, value in list(found.items())[:_MAX_HEADERS] if name}


def _in_openai_names(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield Anthropic's limits as OpenAI calls them, without the beginning that all names have."""
    for kind, shown in (("requests", "requests"), (_tighter(headers), "tokens")):
        for what in ("limit", "remaining", "reset"):
            value = headers.get(f"{_CLAUDE}{kind}-{what}")
            if value and (value := _until(value) if what == "reset" else value):
                yield f"{what}-{shown}", value


def _tighter(headers: Mapping[str, str]) -> str:
    """Return which token limit is nearest: the one for all tokens, or that of which the least remains."""
    if f"{_CLAUDE}tokens-remaining" in headers:
        return "tokens"
    left: dict[str, int] = {}
    for kind in ("input-tokens", "output-tokens"):
        with suppress(KeyError, ValueError):
            left[kind] = int(headers[f"{_CLAUDE}{kind}-remaining"])
    return min(left, key=lambda kind: left[kind], default="tokens")


def _until(moment: str) -> str | None:
    """Return the time until a moment (RFC 3339) the way OpenAI writes it; None when it is no moment."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return durations.write(max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()))
