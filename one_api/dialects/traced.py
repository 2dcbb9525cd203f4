"""What a trace says of a request's parameters: numbers and words of closed lists, never content. Pure."""

from typing import Any

#: Fields of a chat request -> attributes, by OpenTelemetry's conventions for generative AI; of two names the first.
_NUMBERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
}
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


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
