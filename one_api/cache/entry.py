"""One cached answer, as bytes."""

from typing import Any

from msgspec import Struct, field

from one_api.cache.keys import SCHEMA_VERSION
from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: An answer may nest as deep as a request's body; its entry has a level of its own.
_MAX_DEPTH = 70


class InvalidEntry(ValueError):
    """The bytes are not a cache entry, or not the entry of this key."""


class Entry(Struct, frozen=True):
    """A kept answer: a completion in OpenAI's format. ``stored_at`` is in Unix seconds."""

    answer: JSONObject
    stored_at: float
    #: The deployment that answered: "adapter/upstream model".
    deployment: str | None = None
    #: What was dropped or altered of the request.
    warnings: list[str] = field(default_factory=list)

    def encode(self, key: bytes) -> bytes:
        """Return the bytes to keep under ``key``."""
        whole = {
            "version": SCHEMA_VERSION,
            "key": key.hex(),
            "stored_at": self.stored_at,
            "deployment": self.deployment,
            "warnings": self.warnings,
            "answer": self.answer,
        }
        return json.encode(whole)

    @classmethod
    def decode(cls, key: bytes, data: bytes) -> "Entry":
        """Read the value found under ``key``; raises InvalidEntry for anything that ``encode`` did not write."""
        try:
            found = json.decode_object(data, max_depth=_MAX_DEPTH)
        except json.InvalidJSON as error:
            raise InvalidEntry(str(error)) from None
        answer, stored_at = found.get("answer"), found.get("stored_at")
        deployment, warnings = found.get("deployment"), found.get("warnings")
        usable = (
            found.get("version") == SCHEMA_VERSION
            and found.get("key") == key.hex()
            and isinstance(stored_at, int | float)
            and isinstance(deployment, str | None)
            and isinstance(warnings, list)
            and all(isinstance(warning, str) for warning in warnings)
            and _is_completion(answer)
        )
        if not usable:
            raise InvalidEntry("it is not an answer that was kept here")
        return cls(answer, stored_at, deployment, warnings)  # type: ignore[arg-type]  # checked above

    def age_s(self, now: float) -> int:
        """Return its age at Unix time ``now``; a clock that was set back makes it no younger than new."""
        return max(0, int(now - self.stored_at))


def _is_completion(answer: Any) -> bool:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and bool(choices) and all(map(_is_choice, choices))


def _is_choice(choice: Any) -> bool:
    message = choice.get("message") if isinstance(choice, dict) else None
    return (
        isinstance(message, dict)
        and isinstance(choice.get("index"), int)
        and isinstance(message.get("content"), str | None)
        and isinstance(message.get("tool_calls"), list | None)
        and all(isinstance(call, dict) for call in message.get("tool_calls") or ())
    )
