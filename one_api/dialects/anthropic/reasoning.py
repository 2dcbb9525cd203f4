"""How much the model shall think, and which sampling parameters that leaves."""

from dataclasses import dataclass
from typing import Any

from one_api.dialects.anthropic.models import EFFORTS, ModelTraits
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject

LEVELS = ("none", "minimal", *EFFORTS)
#: ``reasoning_effort`` -> ``budget_tokens``, for models that know no effort; in tokens.
BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 24_576, "max": 32_000}
#: The upstream's least ``budget_tokens``.
LEAST_BUDGET = 1_024
#: The least ``top_p`` beside thinking.
_LEAST_TOP_P = 0.95
#: The first version of the API that refuses all sampling parameters, at any value.
_NO_SAMPLING_FROM = "2026-10-21"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What is sent; None: leave it out."""

    thinking: JSONObject | None = None
    effort: str | None = None
    #: The parameter that asked for thinking; empty: none did.
    asked_by: str = ""

    @property
    def is_on(self) -> bool:
        """Return whether thinking is asked for."""
        return self.thinking is not None and self.thinking.get("type") in ("adaptive", "enabled")

    def without_budget(self, notes: Notes) -> "Reasoning":
        """Return the same without ``enabled`` thinking, which goes neither with a forced tool nor with a prefill."""
        if self.thinking is None or self.thinking.get("type") != "enabled":
            return self
        notes.warn(self.asked_by, "This model cannot think when its answer is forced or begun.")
        return Reasoning(effort=self.effort)


@dataclass(frozen=True, slots=True)
class _Asked:
    """How much the client wants the model to think."""

    #: One of ``LEVELS``; None: it does not say.
    level: str | None
    #: The parameter that says so.
    param: str
    #: Is the reasoning to be shown?
    show: bool
    #: The budget, if it is given as one, in tokens.
    tokens: int | None = None


def reasoning(body: JSONObject, traits: ModelTraits, max_tokens: int, notes: Notes, *, show: bool) -> Reasoning:
    """Read every parameter that asks for thinking; ``max_tokens`` covers thinking and answer together.

    Of ``thinking`` (Anthropic's), ``reasoning_effort`` (OpenAI's), ``reasoning`` (OpenRouter's) and ``output_config``
    (Anthropic's) the first one that is given wins.

    Raises:
        InvalidRequest: for another type or an unknown level.
    """
    native, asked = body.get("thinking"), _asked(body, notes, show=show)
    effort = _native_effort(body, traits, notes)
    if native is not None:
        if not isinstance(native, dict):
            raise wrong_type("thinking", "an object", native)
        if asked.level is not None:
            notes.warn(asked.param, "`thinking` is given too, and wins.")
        return Reasoning(native, effort, asked_by="thinking")
    if asked.level is None:
        on = traits.thinks == "on" and asked.show and "adaptive" in traits.thinking
        return Reasoning(_adaptive(show=True) if on else None, effort)
    if effort is not None:
        notes.warn("output_config", f"`{asked.param}` is given too, and wins.")
    return _of_level(asked, traits, max_tokens, notes)


def _asked(body: JSONObject, notes: Notes, *, show: bool) -> _Asked:
    """Read ``reasoning_effort``, and the object ``reasoning`` that OpenRouter has in its place."""
    level, config = body.get("reasoning_effort"), body.get("reasoning")
    if level is not None:
        if config is not None:
            notes.warn("reasoning", "`reasoning_effort` is given too, and wins.")
        return _Asked(_level(level, "reasoning_effort"), "reasoning_effort", show)
    if config is None:
        return _Asked(None, "reasoning_effort", show)
    if not isinstance(config, dict):
        raise wrong_type("reasoning", "an object", config)
    level, tokens = config.get("effort"), config.get("max_tokens")
    show = show and config.get("exclude") is not True
    if level is not None:
        return _Asked(_level(level, "reasoning.effort"), "reasoning", show)
    if tokens is not None:
        if isinstance(tokens, bool) or not isinstance(tokens, int):
            raise wrong_type("reasoning.max_tokens", "an integer", tokens)
        nearest = next((name for name, budget in BUDGETS.items() if budget >= tokens), "max")
        return _Asked(nearest if tokens > 0 else "none", "reasoning", show, tokens)
    enabled = config.get("enabled")
    return _Asked("medium" if enabled is True else "none" if enabled is False else None, "reasoning", show)


def _level(level: Any, param: str) -> str:
    if not isinstance(level, str) or level not in LEVELS:
        message = f"Invalid value for `{param}`. Supported values are: {', '.join(LEVELS)}."
        raise refused(message, param, "invalid_value")
    return level


def _native_effort(body: JSONObject, traits: ModelTraits, notes: Notes) -> str | None:
    """Return the effort in ``output_config``, as the model can take it; the format is that of ``response_format``."""
    config = body.get("output_config")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise wrong_type("output_config", "an object", config)
    if config.keys() - {"effort"}:
        notes.warn("output_config", "Of `output_config` only `effort` is taken: use `response_format` for a format.")
    effort = config.get("effort")
    if effort is None:
        return None
    if effort not in EFFORTS:
        message = f"Invalid value for `output_config.effort`. Supported values are: {', '.join(EFFORTS)}."
        raise refused(message, "output_config.effort", "invalid_value")
    return _nearest(str(effort), traits, notes, "output_config")


def _adaptive(*, show: bool) -> JSONObject:
    return {"type": "adaptive", "display": "summarized"} if show else {"type": "adaptive"}


def _of_level(asked: _Asked, traits: ModelTraits, max_tokens: int, notes: Notes) -> Reasoning:
    level = str(asked.level)
    if level == "none":
        return _off(asked, traits, notes)
    if "adaptive" in traits.thinking:
        effort = _nearest("low" if level == "minimal" else level, traits, notes, asked.param)
        needed = not traits.always_thinks or asked.show
        return Reasoning(_adaptive(show=asked.show) if needed else None, effort, asked.param)
    if "enabled" in traits.thinking:
        return _budget(asked, max_tokens, notes)
    notes.warn(asked.param, "This model does not think.")
    return Reasoning()


def _off(asked: _Asked, traits: ModelTraits, notes: Notes) -> Reasoning:
    """Return what comes nearest to no thinking."""
    if traits.always_thinks:
        notes.warn(asked.param, "This model always thinks: use low.")
        return Reasoning(_adaptive(show=True) if asked.show else None, _lowest(traits), asked.param)
    if traits.thinks != "off" and "disabled" in traits.thinking:
        return Reasoning({"type": "disabled"})
    return Reasoning()


def _lowest(traits: ModelTraits) -> str | None:
    return traits.effort[0] if traits.effort else None


def _nearest(level: str, traits: ModelTraits, notes: Notes, param: str) -> str | None:
    """Return the level, or the next one below it that the model knows."""
    if level in traits.effort:
        return level
    below = [known for known in traits.effort if EFFORTS.index(known) < EFFORTS.index(level)]
    notes.warn(param, f"This model does not know the effort {level}.")
    return below[-1] if below else _lowest(traits)


def _budget(asked: _Asked, max_tokens: int, notes: Notes) -> Reasoning:
    """Return thinking within a budget; the client's limit, which covers the answer too, is never raised."""
    if max_tokens <= LEAST_BUDGET:
        notes.warn(asked.param, f"Thinking needs a `max_tokens` above {LEAST_BUDGET}.")
        return Reasoning()
    tokens = max(LEAST_BUDGET, asked.tokens or BUDGETS[str(asked.level)])
    thinking: JSONObject = {"type": "enabled", "budget_tokens": min(tokens, max_tokens - 1)}
    return Reasoning(thinking | ({"display": "summarized"} if asked.show else {}), asked_by=asked.param)


def sampling(body: JSONObject, traits: ModelTraits, version: str, notes: Notes, *, thinking: bool) -> JSONObject:
    """Return ``temperature``, ``top_p`` and ``top_k`` as far as the model takes them; never both of the first two.

    Raises:
        InvalidRequest: for another type, or a value outside OpenAI's range.
    """
    temperature = _number(body, "temperature", 2)
    top_p = _number(body, "top_p", 1)
    top_k = _whole(body.get("top_k"))
    if traits.sampling == "none" or version >= _NO_SAMPLING_FROM:
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None and value != 1:
                notes.warn(name, f"This model does not take `{name}`: leave it out.")
        if top_k is not None:
            notes.warn("top_k", "This model does not take `top_k`: leave it out.")
        return {}
    return _sampled(temperature, top_p, top_k, notes, thinking)


def _sampled(
    temperature: float | None, top_p: float | None, top_k: int | None, notes: Notes, thinking: bool
) -> JSONObject:
    found: JSONObject = {}
    if temperature is not None and temperature > 1:
        notes.warn("temperature", "This model takes a temperature of at most 1.")
        temperature = 1
    if thinking and temperature not in (None, 1):
        notes.warn("temperature", "This model takes no temperature when it thinks.")
        temperature = None
    if top_p == 1:
        top_p = None
    if thinking and top_p is not None and top_p < _LEAST_TOP_P:
        notes.warn("top_p", f"This model takes no `top_p` below {_LEAST_TOP_P} when it thinks.")
        top_p = None
    if top_p is not None and temperature not in (None, 1):
        notes.warn("top_p", "This model takes `temperature` or `top_p`, not both.")
        top_p = None
    if top_p is not None:
        found["top_p"] = top_p
    elif temperature is not None:
        found["temperature"] = temperature
    if top_k is not None and thinking:
        notes.warn("top_k", "This model takes no `top_k` when it thinks.")
    elif top_k is not None:
        found["top_k"] = top_k
    return found


def _number(body: JSONObject, name: str, most: int) -> float | None:
    """Return a number in 0..``most``, in the form in which it came."""
    value: Any = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a number", value)
    if value > most:
        raise refused(f"`{name}` must be at most {most}.", name, "decimal_above_max_value")
    if value < 0:
        raise refused(f"`{name}` must be at least 0.", name, "decimal_below_min_value")
    return value


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("top_k", "an integer", value)
    return value
