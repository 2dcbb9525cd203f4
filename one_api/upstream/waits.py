"""How long an upstream asks us to wait: in its headers, in all forms that servers write it in."""

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from one_api.dialects import durations

#: When a limit is over: the IETF's draft, OpenRouter (``x-ratelimit-reset``), OpenAI and Groq (``-reset-tokens``),
#: Cerebras (``-reset-requests-day``), Mistral (``x-ratelimit-reset-after``); and Anthropic, in another order.
_RESET = re.compile(r"(?:x-)?rate-?limit-reset(?:-after)?(?:-[a-z-]+)?")
_CLAUDE_RESET = re.compile(r"anthropic-ratelimit-([a-z-]+)-reset")
#: One field with all, in an older draft of the IETF's and in a newer one.
_RESET_IN_FIELD = re.compile(r"(?:\breset|;\s*t)\s*=\s*(\d+)")
#: No wait is so long: from this number on it is a moment, in seconds.
_MIN_MOMENT_S = 10.0**9
#: The longest wait that is taken over from an upstream, in seconds.
_MAX_RETRY_AFTER_S = 300.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long an upstream asks us to wait, in seconds, at most 300; None when it does not say."""
    with suppress(ValueError, KeyError):
        return plausible(float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    for each in (value, value.partition(",")[0]):  # the same header twice, which a proxy has joined
        with suppress(ValueError):
            return plausible(float(each))
        if (seconds := durations.read(each) or _until(each)) is not None:
            return plausible(seconds)
    return None


def reset_in(headers: Mapping[str, str]) -> float | None:
    """Return when the limit that a refused request has met is over, in seconds, where nothing else says it.

    Of several limits those count of which nothing remains, else those of which that is not known; of these the last.
    """
    named = {name.lower(): value for name, value in headers.items()}
    used_up, unknown = [], []
    for value, remaining in _resets(named):
        if (seconds := _reset(value)) is None:
            continue
        if remaining is None:
            unknown.append(seconds)
        elif not remaining.strip("0. "):
            used_up.append(seconds)
    return plausible(max(used_up or unknown)) if used_up or unknown else None


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield what says when a limit is over, and what remains of it."""
    for name, value in headers.items():
        if match := _RESET.fullmatch(name):
            yield value, headers.get(name.replace("-reset-after", "-remaining").replace("-reset", "-remaining"))
        elif match := _CLAUDE_RESET.fullmatch(name):
            yield value, headers.get(f"anthropic-ratelimit-{match[1]}-remaining")
        elif name == "ratelimit" and (match := _RESET_IN_FIELD.search(value)):
            yield match[1], None


def _reset(value: str) -> float | None:
    """Return a reset in seconds from now: a number of seconds, a duration, or a moment in one of its forms."""
    with suppress(ValueError):
        reset = float(value)
        if reset >= _MIN_MOMENT_S:
            return (reset if reset < 1000 * _MIN_MOMENT_S else reset / 1000) - time.time()
        return reset
    found = durations.read(value)
    return found if found is not None else _until(value)


def _until(moment: str) -> float | None:
    """Return the seconds to a moment as HTTP, RFC 3339 or a C library writes it; without a zone it is UTC."""
    for read in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, TypeError, OverflowError):
            at = read(moment.strip())
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
    return None


def plausible(seconds: float) -> float | None:
    """Keep a plausible wait; one in the past is a second, and NaN is no wait."""
    if math.isnan(seconds):
        return None
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds > 0 else 1.0
