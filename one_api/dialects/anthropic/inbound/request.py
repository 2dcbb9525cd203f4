"""What we read of a Messages request, checked; everything else in it is the upstream's business."""

from dataclasses import dataclass
from typing import Any, Self

from one_api.dialects.json import JSONObject, kind_of
from one_api.errors import InvalidRequest

ROLES = ("user", "assistant", "system")


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A Messages request: what we act on, and the body as it came, which is not changed in place."""

    model: str
    stream: bool
    body: JSONObject

    @classmethod
    def read(cls, body: JSONObject, *, counts: bool = False) -> Self:
        """Check ``body``; ``counts``: only its tokens are asked for, so that it needs no ``max_tokens``.

        Raises:
            InvalidRequest: its message begins with the path of what is wrong, as Anthropic's do.
        """
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise wrong("model", "Name a model: one of the ids that /v1/models lists.")
        limit = body.get("max_tokens")
        if limit is None and not counts:
            raise wrong("max_tokens", "Field required.")
        if not counts and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            shown = "negative" if isinstance(limit, int) and limit < 0 else kind_of(limit)
            raise wrong("max_tokens", f"Input should be a whole number of at least 0, but is {shown}.")
        stream = body.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise wrong("stream", f"Input should be a valid boolean, but is {kind_of(stream)}.")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise wrong("messages", "Input should be an array of at least one message.")
        for i, message in enumerate(messages):
            _check(message, f"messages.{i}")
        return cls(model, stream is True, body)


def _check(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise wrong(where, "Input should be an object.")
    if message.get("role") not in ROLES:
        raise wrong(f"{where}.role", f"Input should be one of {', '.join(ROLES)}.")
    if not isinstance(message.get("content"), (str, list)):
        raise wrong(f"{where}.content", "Input should be a string or an array of content blocks.")


def wrong(where: str, message: str) -> InvalidRequest:
    """Return the 400 for what is wrong at a place; clients read the place at the beginning of the message."""
    return InvalidRequest(f"{where}: {message}", param=where)
