"""What an OpenAI-compatible server calls reasoning: clients get one name, and the server gets its own back."""

import re
from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: What servers call it: most, with us; OpenRouter, Groq and newer vLLM; Copilot; Ollama.
NAMES = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_NAMES = frozenset(NAMES)
#: Models whose names are remembered.
_MAX_MODELS = 10_000


class ReasoningNames:
    """By model, the name that its server was seen to use, for the life of the process."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def get(self, model: str) -> str | None:
        """Return the name that the server uses for this model; None when that is not known."""
        return self._names.get(model)

    def learn(self, model: str, name: str | None) -> None:
        """Remember the name that an answer used."""
        if name is not None and (model in self._names or len(self._names) < _MAX_MODELS):
            self._names[model] = name


def name_in_answer(payload: Any) -> str | None:
    """Return the name that an answer or chunk, as the server sent it, uses for reasoning; None when it has none."""
    choices = payload.get("choices") if isinstance(payload, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for part in ("message", "delta"):
            holder = choice.get(part) if isinstance(choice, dict) else None
            if isinstance(holder, dict) and (name := name_in(holder)) is not None:
                return name
    return None


def name_in(holder: JSONObject) -> str | None:
    """Return the name that a message or delta, as the server sent it, uses for reasoning; None when it has none."""
    if _NAMES.isdisjoint(holder):
        return None
    return next((name for name in NAMES if isinstance(holder.get(name), str) and holder[name]), None)


def name_in_body(data: bytes, decoded: Any = None) -> str | None:
    """Return the name that the body of a whole answer uses; None when it has none, or cannot be read."""
    if decoded is not None:
        return name_in_answer(decoded)
    if data.lstrip()[:1] != b"{" or (b'"reasoning' not in data and b'"thinking"' not in data):
        return None
    try:
        return name_in_answer(json.decode(data))
    except json.InvalidJSON:
        return None


def other_name(refusal: str, sent: list[Any]) -> str | None:
    """Return what to call reasoning when the server refuses the name that ``sent``, the messages, have for it.

    ``refusal`` is what the server said; None when it is about something else.
    """
    used = {name for message in sent if isinstance(message, dict) for name in NAMES if name in message}
    refused = used & set(re.findall(r"\w+", refusal))
    if "reasoning_content" in refused:
        return "reasoning"
    return "reasoning_content" if refused else None


def renamed(message: JSONObject, name: str) -> JSONObject:
    """Return an assistant message with its reasoning under ``name``, in its place; itself when nothing changes."""
    others = [other for other in NAMES if other != name and (other in message) and _is_text(message[other])]
    if not others or name in message:
        return message
    return {name if key == others[0] else key: value for key, value in message.items() if key not in others[1:]}


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)
