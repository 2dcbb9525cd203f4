"""The single parameters of a request: each is mapped, has no effect, is dropped with a warning, or is refused."""

import hashlib
import hmac
from typing import Any

from one_api.dialects.anthropic.models import ModelTraits
from one_api.dialects.anthropic.options import Notes, RequestOptions
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.parameter_names import IN_CHAT, refuse_foreign

#: Parameter -> the values that have no effect beside null. Any other is dropped with a warning.
_DROPPED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "seed": (),
    "verbosity": ("medium",),
    "store": (False,),
}
#: Parameter -> the values that ask for nothing beside null, and why any other is refused.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "top_logprobs": ((0,), "This model does not return probabilities."),
    "logprobs": ((False,), "This model does not return probabilities."),
    "modalities": ((["text"], []), "This model answers in text only."),
    "audio": ((), "This model answers in text only."),
}
#: Every parameter that we know. Any other is warned about and never sent.
KNOWN = frozenset({
    *_DROPPED, *_REFUSED,
    "model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "top_k", "stop", "stream",
    "stream_options", "n", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
    "response_format", "reasoning_effort", "reasoning", "thinking", "user", "safety_identifier", "metadata",
    "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "output_config", "prediction",
    "moderation", "web_search_options",
})  # fmt: skip


def check_unsupported(body: JSONObject, notes: Notes) -> None:
    """Note the parameters that are dropped.

    Raises:
        InvalidRequest: for those that ask for what the model cannot give, and for words of another dialect.
    """
    for name, (without_effect, why) in _REFUSED.items():
        value = body.get(name)
        if value is not None and value not in without_effect:
            raise refused(f"{why} Leave out `{name}`.", name, "unsupported_parameter")
    for name, without_effect in _DROPPED.items():
        value = body.get(name)
        if value is not None and value not in without_effect:
            notes.warn(name, f"This model does not take `{name}`: leave it out.", code="unsupported_parameter")
    _check_n(body.get("n"))
    _check_moderation(body.get("moderation"), notes)
    for name, value in body.items():
        if name not in KNOWN and value is not None:
            refuse_foreign({name: value}, IN_CHAT)
            shown = name[:64]
            notes.warn(name, f"Unknown parameter: `{shown}`.", param=shown, code="unknown_parameter")


def _check_n(n: Any) -> None:
    if n is None:
        return
    if isinstance(n, bool) or not isinstance(n, int):
        raise wrong_type("n", "an integer", n)
    if n < 1:
        raise refused("`n` must be at least 1.", "n", "integer_below_min_value")
    if n > 1:
        raise refused("This model gives one answer at a time: send the request again for another.", "n")


def _check_moderation(moderation: Any, notes: Notes) -> None:
    if moderation is None:
        return
    policy = moderation.get("policy") if isinstance(moderation, dict) else None
    sides = [policy.get(side) for side in ("input", "output")] if isinstance(policy, dict) else []
    if any(isinstance(side, dict) and side.get("mode") == "block" for side in sides):
        message = "Nothing can be blocked by `moderation` here: leave it out."
        raise refused(message, "moderation", "unsupported_parameter")
    notes.warn("moderation", "Nothing is scored by `moderation` here.", code="unsupported_parameter")


def max_tokens(body: JSONObject, traits: ModelTraits, options: RequestOptions, notes: Notes) -> int:
    """Return the limit of the answer, thinking included, in tokens: the client's, the model's, the operator's.

    Raises:
        InvalidRequest: for what is no count, or when there is none.
    """
    new, old = (_count(body, name) for name in ("max_completion_tokens", "max_tokens"))
    if new is not None and old is not None and new != old:
        notes.warn("max_tokens", "`max_completion_tokens` is given too, and wins.")
    for limit in (new, old, traits.max_output_tokens, options.default_max_tokens):
        if limit is not None:
            return limit
    message = "The limit of this model is not known: set `max_completion_tokens`."
    raise refused(message, "max_completion_tokens", "missing_required_parameter")


def _count(body: JSONObject, name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if value < 1:
        # Zero would only warm the upstream's cache.
        raise refused(f"`{name}` must be at least 1.", name, "integer_below_min_value")
    return value


def stops(body: JSONObject) -> tuple[list[str], tuple[str, ...]]:
    """Return the stop strings to send, and the blank ones, which the upstream refuses and the gateway looks for."""
    stop = body.get("stop")
    given = stop if isinstance(stop, list) else [stop]
    for value in given:
        if value is not None and not isinstance(value, str):
            raise wrong_type("stop", "a string or an array of strings", value)
    found = dict.fromkeys(value for value in given if value)
    return [value for value in found if value.strip()], tuple(value for value in found if not value.strip())


def user_id(body: JSONObject, secret: bytes) -> str | None:
    """Return the end user's name, hashed: the upstream forbids addresses and names."""
    for name in ("safety_identifier", "user"):
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if value:
            return hmac.new(secret, value.encode(), hashlib.sha256).hexdigest()
    return None


def service_tier(body: JSONObject, notes: Notes) -> str | None:
    """Return the upstream's word for the tier."""
    tier = body.get("service_tier")
    if tier is not None and not isinstance(tier, str):
        raise wrong_type("service_tier", "a string", tier)
    if tier in (None, "auto", "default"):
        return {"auto": "auto", "default": "standard_only"}.get(tier or "")
    notes.warn("service_tier", "This model is served at the tiers auto and default only.")
    return None
