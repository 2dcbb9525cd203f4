"""What may be served from the cache, and what may be kept: pure decisions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import HEAD, PADDING, has_only
from one_api.settings.sections import CacheConfig, GroupCacheConfig

#: What chunks, their choices and their deltas may hold for the whole stream to fit into one message: these of a delta
#: as text, and nothing else but padding and labels (Groq's: its id of the request, and usage once more).
_TEXTS = frozenset({"role", "content", "refusal", "reasoning_content"})
_PLAIN_DELTA = _TEXTS | {"tool_calls"}
_PLAIN_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason", "native_finish_reason"})
_PLAIN_LOGPROBS = frozenset({"content", "refusal"})
_PLAIN_CHUNK = frozenset({"object", "choices", "usage", "x_groq", *HEAD, *PADDING})


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """The cache directives of a request. ``max_age_s`` is the greatest age of an answer; None allows any age."""

    no_store: bool = False
    no_cache: bool = False
    max_age_s: int | None = None

    @classmethod
    def read(cls, header: str | None) -> "CacheDirectives":
        """Read a ``Cache-Control`` header (RFC 9111, 5.2.1). A ``max-age`` that is not a number counts as 0."""
        if not header:
            return _ANYTHING
        directives = dict(_directive(part) for part in header.split(","))
        max_age = directives.get("max-age")
        if max_age is not None:
            # More digits than any age has are as good as no limit, and cost nothing to read.
            max_age_s = int(max_age[:12]) if max_age.isascii() and max_age.isdigit() else 0
            return cls("no-store" in directives, "no-cache" in directives or max_age_s == 0, max_age_s)
        return cls("no-store" in directives, "no-cache" in directives)


_ANYTHING = CacheDirectives()


def _directive(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip().lower(), value.strip().strip('"')


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How answers of one model are kept; see ``CacheConfig``."""

    enabled: bool
    ttl_s: float
    scope: Literal["key", "shared"]
    store_tool_calls: bool
    single_flight: bool

    @classmethod
    def of(cls, common: CacheConfig, own: GroupCacheConfig) -> "CachePolicy":
        """Return the policy of a group: its own settings, and the common ones where it has none."""

        def either(name: str) -> Any:
            value = getattr(own, name)
            return getattr(common, name) if value is None else value

        return cls(*map(either, cls.__slots__))


def may_be_kept(answer: JSONObject, *, tool_calls: bool) -> bool:
    """Return whether a whole answer is complete and usable in every choice.

    Not kept: refusals and withheld text, answers that a limit cut short (``length``), empty answers, those with an
    unknown finish reason, and tool calls unless ``tool_calls``. A finish that an adapter maps to ``stop`` is one.
    """
    choices = answer.get("choices")
    return isinstance(choices, list) and bool(choices) and all(_good(choice, tool_calls) for choice in choices)


def _good(choice: Any, tool_calls: bool) -> bool:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or message.get("refusal"):
        return False
    calls = bool(message.get("tool_calls") or message.get("function_call"))
    if calls and not tool_calls:
        return False
    ends = ("stop", "tool_calls", "function_call") if calls else ("stop",)
    content = message.get("content")
    return choice.get("finish_reason") in ends and isinstance(content, str | None) and bool(content or calls)


def is_plain(chunks: Iterable[JSONObject]) -> bool:
    """Return whether the chunks of a stream can be assembled into one message without a loss."""
    return all(
        has_only(_PLAIN_CHUNK, chunk) and all(_is_plain_choice(choice) for choice in chunk["choices"])
        for chunk in chunks
    )


def _is_plain_choice(choice: JSONObject) -> bool:
    delta, logprobs = choice["delta"], choice.get("logprobs")
    return (
        has_only(_PLAIN_CHOICE, choice)
        and has_only(_PLAIN_DELTA, delta)
        and all(isinstance(delta.get(name), str | None) for name in _TEXTS)
        and (logprobs is None or (isinstance(logprobs, dict) and has_only(_PLAIN_LOGPROBS, logprobs)))
    )
