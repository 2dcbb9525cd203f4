"""What each family of Claude models accepts: data, corrected by what ``GET /v1/models`` of the upstream says.

Sampling, prefill, forced tools and system messages in the middle are not in that listing: for them this table is
all there is. Source: Anthropic's model pages and the types of its Python SDK 2.12.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from one_api.dialects.json import JSONObject

#: All levels of ``output_config.effort``, lowest first.
EFFORTS = ("low", "medium", "high", "xhigh", "max")
#: The values of ``thinking.type`` that we send.
MODES = ("adaptive", "enabled", "disabled")
#: Every family from 4.5 on can write this much, in tokens: the limit of a Claude model that is newer than the table.
_LEAST_MAXIMUM = 64_000


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What one model accepts. The defaults are those of a model that is not in the table."""

    #: In tokens; None: not known.
    context_window: int | None = None
    #: The most that ``max_tokens`` may be; None: not known.
    max_output_tokens: int | None = None
    #: ``xor``: temperature or top_p, never both; ``none``: any that is not the default is refused.
    sampling: Literal["xor", "none"] = "none"
    #: May the conversation end with an assistant message that the model goes on with?
    prefill: bool = False
    #: Accepted values of ``thinking.type``.
    thinking: tuple[str, ...] = ("adaptive", "disabled")
    #: Does the model think when the request does not say? ``unstated``: the documents do not say.
    thinks: Literal["on", "off", "unstated"] = "off"
    #: Accepted levels of ``output_config.effort``, lowest first.
    effort: tuple[str, ...] = EFFORTS
    #: Are the tool choices ``any`` and ``tool`` accepted?
    forced_tool: bool = True
    #: Is ``role: system`` accepted after the first user message?
    mid_system: bool = False
    #: Are ``output_config.format`` and strict tools accepted?
    structured_outputs: bool = True
    image_input: bool = True
    pdf_input: bool = True

    @property
    def always_thinks(self) -> bool:
        """Return whether thinking can not be switched off."""
        return self.thinks == "on" and "disabled" not in self.thinking


_UNKNOWN = ModelTraits()
_UNKNOWN_CLAUDE = ModelTraits(max_output_tokens=_LEAST_MAXIMUM)
_CLAUDE_3 = ModelTraits(
    200_000, 4_096, "xor", prefill=True, thinking=(), effort=(), structured_outputs=False
)  # fmt: skip
_CLAUDE_4 = replace(_CLAUDE_3, max_output_tokens=64_000, thinking=("enabled", "disabled"))
_CLAUDE_4_5 = replace(_CLAUDE_4, structured_outputs=True)
_CLAUDE_4_6 = replace(
    _CLAUDE_4_5, context_window=1_000_000, max_output_tokens=128_000, prefill=False,
    thinking=("adaptive", "enabled", "disabled"), effort=("low", "medium", "high", "max"),
)  # fmt: skip
_OPUS_4_7 = replace(_CLAUDE_4_6, sampling="none", thinking=("adaptive", "disabled"), effort=EFFORTS)
_OPUS_4_8 = replace(_OPUS_4_7, mid_system=True)
_ALWAYS_ON = replace(_OPUS_4_8, thinking=("adaptive",), thinks="on")

#: Family -> what it accepts. An id belongs to the longest family that it begins with.
FAMILIES: dict[str, ModelTraits] = {
    "claude-3": _CLAUDE_3,
    "claude-3-5": replace(_CLAUDE_3, max_output_tokens=8_192),
    "claude-3-7": _CLAUDE_4,
    "claude-sonnet-4": _CLAUDE_4,
    "claude-opus-4": replace(_CLAUDE_4, max_output_tokens=32_000),
    "claude-opus-4-1": replace(_CLAUDE_4_5, max_output_tokens=32_000),
    "claude-sonnet-4-5": _CLAUDE_4_5,
    "claude-haiku-4-5": _CLAUDE_4_5,
    "claude-opus-4-5": replace(_CLAUDE_4_5, effort=("low", "medium", "high")),
    "claude-opus-4-6": _CLAUDE_4_6,
    "claude-sonnet-4-6": _CLAUDE_4_6,
    "claude-opus-4-7": _OPUS_4_7,
    "claude-opus-4-8": _OPUS_4_8,
    # Whether Sonnet 5 takes system messages in the middle is disputed: without them is always right.
    "claude-sonnet-5": replace(_OPUS_4_7, thinks="on"),
    "claude-opus-5": replace(_OPUS_4_8, thinks="on"),
    "claude-haiku-5-5": replace(_OPUS_4_8, thinks="unstated"),
    "claude-sonnet-5-5": replace(_OPUS_4_8, thinks="unstated", forced_tool=False),
    "claude-opus-5-5": replace(_ALWAYS_ON, forced_tool=False),
    "claude-fable-5": _ALWAYS_ON,
    "claude-mythos-5": _ALWAYS_ON,
    "claude-fable-5-1": replace(_ALWAYS_ON, forced_tool=False),
    "claude-mythos-5-1": replace(_ALWAYS_ON, forced_tool=False),
    # Nothing but their names is known of these: they are taken for their predecessors.
    "claude-fable-5-2": replace(_ALWAYS_ON, forced_tool=False),
    "claude-mythos-5-2": replace(_ALWAYS_ON, forced_tool=False),
}
_DATE = re.compile(r"-\d{8}")
#: A family followed by this is another family: "claude-sonnet-4" and "-9", but not "-20250514".
_FURTHER_VERSION = re.compile(r"-\d{1,2}(?!\d)")


def traits_of(model: str) -> ModelTraits:
    """Return what ``model`` accepts, by the longest family that its id begins with.

    Dates (``-20251001``) and the prefixes and suffixes of resellers (``us.anthropic.``, ``@latest``) do not matter.
    """
    start = model.rfind("claude-")
    if start < 0:
        return _UNKNOWN
    name = model[start:]
    found = [family for family in FAMILIES if _belongs(name, family)]
    return FAMILIES[max(found, key=len)] if found else _UNKNOWN_CLAUDE


def _belongs(name: str, family: str) -> bool:
    """Return whether an id is of a family, and not of one that is named after it."""
    rest = name.removeprefix(family)
    if not name.startswith(family) or rest[:1].isalnum():
        return False
    return not _FURTHER_VERSION.match(rest)


def entry_of(model: str, entries: Mapping[str, JSONObject]) -> JSONObject:
    """Return what the upstream lists of ``model``, or, as it lists no short names, of its newest date; else nothing."""
    known = entries.get(model)
    if known is None:
        dated = [name for name in entries if name.startswith(f"{model}-") and _DATE.fullmatch(name, len(model))]
        known = entries[max(dated)] if dated else {}
    return known


def corrected(traits: ModelTraits, listing_entry: JSONObject) -> ModelTraits:
    """Return the traits as an entry of the upstream's ``GET /v1/models`` corrects them; what it leaves out stays."""
    capabilities = _object(listing_entry.get("capabilities"))
    flags = {name: _supported(capabilities.get(name)) for name in ("structured_outputs", "image_input", "pdf_input")}
    known: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    for name, key in (("context_window", "max_input_tokens"), ("max_output_tokens", "max_tokens")):
        value = listing_entry.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            known[name] = value
    effort = _object(capabilities.get("effort"))
    if effort:
        known["effort"] = tuple(level for level in EFFORTS if _has_level(effort, level))
    thinking = _object(capabilities.get("thinking"))
    if thinking:
        known["thinking"] = _thinking(traits, thinking)
    return replace(traits, **known)


def _has_level(effort: JSONObject, level: str) -> bool:
    return _supported(effort) is not False and _supported(effort.get(level)) is True


def _thinking(traits: ModelTraits, thinking: JSONObject) -> tuple[str, ...]:
    """Return the modes that are listed, each read on its own; one that is not listed stays as it was."""
    if _supported(thinking) is False:
        return ()
    types = _object(thinking.get("types"))
    listed = {mode: _supported(types.get(mode)) for mode in MODES}
    return tuple(mode for mode, said in listed.items() if said or (said is None and mode in traits.thinking))


def _supported(value: Any) -> bool | None:
    """Read ``{"supported": bool}``; None when it says nothing."""
    said = _object(value).get("supported")
    return said if isinstance(said, bool) else None


def _object(value: Any) -> JSONObject:
    return value if isinstance(value, dict) else {}
