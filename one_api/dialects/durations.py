"""Durations as OpenAI writes them in headers and messages: ``120ms``, ``1s``, ``6m0s``."""

import re

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s)?)?")


def write(seconds: float) -> str:
    """Return a duration as text: in milliseconds below a second, else in whole seconds and minutes."""
    if (thousandths := round(seconds * 1000)) < 1000:
        return f"{thousandths}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def read(text: str) -> float | None:
    """Return a duration such as ``7``, ``1.5s``, ``1h6m0s`` or ``120ms`` in seconds; None for zero and other texts."""
    match = _DURATION.fullmatch(text.strip().lower())
    return seconds_in(match) if match else None


def seconds_in(match: re.Match[str]) -> float | None:
    """Return what the groups of a match amount to: hours, minutes, a number, and its unit; None for nothing."""
    hours, minutes, number, unit = match.groups()
    seconds = float(number or 0) / (1000 if unit == "ms" else 1) + 60 * int(minutes or 0) + 3600 * int(hours or 0)
    return seconds or None
