"""What becomes of each thing that an OpenAI client can say to a Claude model: data, and the notes that are taken.

docs/claude.md shows the same table; a test compares the two.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from one_api.dialects.json import kind_of
from one_api.errors import InvalidRequest

Handling = Literal["mapped", "emulated", "ignored", "warned", "refused"]

#: More names than this do not go into one header.
_MAX_WARNINGS = 40
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What an operator has decided about one upstream."""

    #: A warning becomes a 400 that names the parameter.
    strict: bool = False
    #: The value of ``anthropic-version``; from 2026-10-21 on the API refuses all sampling parameters.
    version: str = "2023-06-01"
    #: Sent as ``max_tokens`` when neither the client nor the model's own maximum says one; in tokens.
    default_max_tokens: int | None = None
    #: The key under which the names of end users are hashed.
    user_secret: bytes = b""
    #: Ask for the thinking in words wherever thinking is sent.
    show_reasoning: bool = True
    #: The user turn that is put before a history that starts with the assistant.
    first_user_turn: str = "Continue the conversation below."
    #: Put around a later system message where the model takes none at that place.
    system_marker: tuple[str, str] = ("<system_message>\n", "\n</system_message>")
    #: May the client ask for the cache of one hour, which costs more to write?
    long_cache: bool = False
    #: The type of the upstream's tool that ``web_search_options`` becomes; None: refused.
    web_search: str | None = None
    #: The clients' ids of files -> the upstream's.
    file_ids: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"RequestOptions(strict={self.strict}, version={self.version!r})"


class Notes:
    """Collects the names of what is dropped or altered; with ``strict`` the first of them is an error instead."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._names: dict[str, None] = {}

    def warn(self, name: str, message: str, *, param: str | None = None, code: str = "unsupported_value") -> None:
        """Note that ``name`` does not reach the model as the client sent it.

        Raises:
            InvalidRequest: with ``strict``, naming ``param`` (``name`` when it is not given) and ``code``.
        """
        if self.strict:
            raise InvalidRequest(message, param=param or name, code=code)
        if len(self._names) < _MAX_WARNINGS:
            # The name can be the client's own text, and goes into a header.
            self._names[name if _PLAIN_NAME.fullmatch(name) else "unknown_parameter"] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names so far, in order, each once."""
        return tuple(self._names)


def refused(message: str, param: str, code: str = "unsupported_value") -> InvalidRequest:
    """Return the 400 for something that this dialect cannot say."""
    return InvalidRequest(message, param=param, code=code)


def wrong_type(param: str, expected: str, value: Any) -> InvalidRequest:
    """Return the 400 for a value of another type; the value itself is not quoted."""
    return InvalidRequest(
        f"Invalid type for `{param}`: expected {expected}, but got {kind_of(value)}.", param=param, code="invalid_type"
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of the table."""

    #: The parameter, or what in a message or tool.
    feature: str
    handling: tuple[Handling, ...]
    #: Where it goes in Anthropic's request; empty: nowhere.
    becomes: str
    rule: str


def _policy(feature: str, handling: str, becomes: str, rule: str) -> Policy:
    known: dict[str, Handling] = {
        "mapped": "mapped", "emulated": "emulated", "ignored": "ignored", "warned": "warned", "refused": "refused",
    }  # fmt: skip
    return Policy(feature, tuple(known[word] for word in handling.split()), becomes, rule)


#: Every parameter that we know. Any other is warned about and never sent.
PARAMETERS: tuple[Policy, ...] = (
    _policy("model", "mapped", "model", "the upstream's own name of the model"),
    _policy("messages", "mapped", "messages, system", "see the rows below"),
    _policy("max_completion_tokens", "mapped", "max_tokens", "absent: the model's own maximum; below 1 is refused"),
    _policy("max_tokens", "mapped warned", "max_tokens", "loses against a different `max_completion_tokens`"),
    _policy("temperature", "mapped ignored warned", "temperature", "only older models take it; over 1 becomes 1"),
    _policy("top_p", "mapped ignored warned", "top_p", "only older models take it, and not beside a temperature"),
    _policy("top_k", "mapped warned", "top_k", "extension; only older models that are not thinking take it"),
    _policy("stop", "mapped emulated", "stop_sequences", "blank strings are looked for by the gateway"),
    _policy("stream", "mapped", "stream", "the upstream always streams; the gateway assembles"),
    _policy("stream_options", "emulated", "", "`include_usage`: the gateway writes the usage chunk"),
    _policy("n", "ignored refused", "", "1 only, unless the operator lets the gateway ask several times"),
    _policy("tools", "mapped emulated warned", "tools", "see the rows below"),
    _policy("tool_choice", "mapped emulated warned refused", "tool_choice", "see the rows below"),
    _policy("parallel_tool_calls", "mapped ignored", "tool_choice.disable_parallel_tool_use",
            "without tools: no effect"),
    _policy("functions", "emulated", "tools", "one call at most, as that format can express"),
    _policy("function_call", "emulated", "tool_choice", ""),
    _policy("response_format", "mapped emulated warned refused", "output_config.format", "see the rows below"),
    _policy("reasoning_effort", "mapped warned", "thinking, output_config.effort", "by family; see below"),
    _policy("thinking", "mapped warned", "thinking", "extension; passed on as it is, before `reasoning_effort`"),
    _policy("output_config", "mapped warned", "output_config.effort", "extension; `effort` alone is taken"),
    _policy("user", "mapped", "metadata.user_id", "hashed with a secret of the gateway"),
    _policy("safety_identifier", "mapped", "metadata.user_id", "hashed; before `user`"),
    _policy("metadata", "ignored", "", "for the gateway's own records"),
    _policy("service_tier", "mapped warned", "service_tier", "auto, default; any other is dropped"),
    _policy("prompt_cache_key", "ignored", "", "caching is by content"),
    _policy("prompt_cache_retention", "ignored", "", "see `cache_control`"),
    _policy("prompt_cache_options", "ignored", "", "the gateway adds no cache marks of its own"),
    _policy("frequency_penalty", "ignored warned", "", "0 has no effect; any other is dropped"),
    _policy("presence_penalty", "ignored warned", "", "0 has no effect; any other is dropped"),
    _policy("seed", "warned", "", "dropped"),
    _policy("logit_bias", "ignored warned", "", "empty has no effect; any other is dropped"),
    _policy("logprobs", "ignored refused", "", "only false: the data cannot be had"),
    _policy("top_logprobs", "ignored refused", "", "only 0: the data cannot be had"),
    _policy("verbosity", "ignored warned", "", "medium has no effect; any other is dropped"),
    _policy("prediction", "ignored", "", "only a hint for speed"),
    _policy("store", "ignored warned", "", "true is dropped"),
    _policy("modalities", "ignored refused", "", "text only"),
    _policy("audio", "refused", "", ""),
    _policy("moderation", "warned refused", "", "refused when it is to block, else dropped"),
    _policy("web_search_options", "mapped warned refused", "tools",
            "refused unless the operator names the tool; dropped while tools are forced or forbidden"),
)  # fmt: skip

#: What stands inside messages, tools and formats.
FEATURES: tuple[Policy, ...] = (
    _policy("system and developer messages at the start", "mapped", "system", "one block per part, in order"),
    _policy(
        "later system and developer messages",
        "mapped emulated warned",
        "role system, or marked text in the user turn",
        "never moved to the start; after a user turn that they precede",
    ),
    _policy("neighbours of the same role", "mapped", "one message", ""),
    _policy("a blank text or part", "ignored", "", "when no message is left, the request is refused"),
    _policy("name of a message", "ignored warned", "", "warned about when several user names occur"),
    _policy("an unknown key of a message", "warned", "", "dropped"),
    _policy("history that starts with the assistant", "warned", "messages", "a fixed user turn is put before it"),
    _policy("assistant message at the end", "mapped refused", "prefill",
            "only older models, and not with a JSON schema"),
    _policy("tool messages", "mapped", "tool_result blocks of one user message", "images too; `is_error` too"),
    _policy("function messages", "mapped", "tool_result", "answer the last `function_call`"),
    _policy("a tool call without a result, or the reverse", "refused", "", ""),
    _policy("call ids outside the character set", "mapped", "id",
            "hashed, the same for call and result; repeated ones numbered"),
    _policy("arguments that are no JSON object", "mapped", "input", "kept under `_raw_arguments` or `_value`"),
    _policy("thinking_blocks of an assistant message", "mapped warned", "thinking, redacted_thinking",
            "unsigned ones are dropped"),
    _policy("reasoning_content, reasoning", "ignored", "", "text without a signature is never sent back"),
    _policy("part: text", "mapped", "text", ""),
    _policy("part: image_url with a data URI", "mapped refused", "image, base64",
            "the type is read from the bytes: JPEG, PNG, GIF, WebP"),
    _policy("part: image_url with https", "mapped", "image, url", ""),
    _policy("part: image_url with another scheme", "refused", "", ""),
    _policy("part: image_url detail", "ignored", "", ""),
    _policy("part: file with a PDF", "mapped", "document, base64", "`filename` becomes the title"),
    _policy("part: file with text", "mapped", "document, text", "UTF-8"),
    _policy("part: file with a file_id", "mapped refused", "document, file",
            "refused unless the operator lists the id"),
    _policy("part: file with another type", "refused", "", ""),
    _policy("part: input_audio", "refused", "", ""),
    _policy("part: refusal", "mapped", "text", ""),
    _policy("part: any other", "refused", "", ""),
    _policy("cache_control, prompt_cache_breakpoint", "mapped warned", "cache_control",
            "4 at most: those of tools and system, then the latest"),
    _policy("tool: function", "mapped", "tools", "the whole schema"),
    _policy("tool: function name outside the character set", "mapped", "name", "translated back in answers"),
    _policy("tool: parameters with a combinator at the top", "emulated warned", "input_schema",
            "all branches' properties; the schema itself as text"),
    _policy("tool: strict", "mapped warned", "strict", "dropped when the schema or the model does not allow it"),
    _policy("tool: custom, text", "emulated", "tools", "a function with one string `input`"),
    _policy("tool: custom, grammar", "refused", "", ""),
    _policy("two tools of one name", "refused", "", ""),
    _policy("tools used in history and not given", "emulated", "tools", "declared empty, with `tool_choice` none"),
    _policy("tool_choice: none, auto", "mapped", "tool_choice", ""),
    _policy("tool_choice: required, any", "mapped warned", "tool_choice any", "auto on models that refuse it"),
    _policy("tool_choice: a named tool", "mapped emulated refused", "tool_choice tool",
            "as a JSON schema on models that refuse it"),
    _policy("tool_choice: allowed_tools", "emulated warned", "tools", "only these are sent"),
    _policy("response_format: text", "ignored", "", ""),
    _policy("response_format: json_schema", "mapped emulated warned refused", "output_config.format",
            "else a forced tool; else, unless strict, an instruction"),
    _policy("response_format: json_object", "emulated warned", "system",
            "an instruction; a fence is removed, any other answer fails"),
)  # fmt: skip
