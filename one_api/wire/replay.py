"""A whole answer, told again as the chunks of a stream."""

from collections.abc import Iterator
from typing import Any

from one_api.wire.json import JSONObject

#: What stands elsewhere in a stream, or is told once.
_NOT_COPIED = frozenset({"object", "choices", "usage"})
#: Fields of a message that have a place of their own in the deltas.
_TOLD_APART = frozenset({"role", "content", "refusal", "tool_calls", "reasoning_content"})


def chunks_of(completion: JSONObject, *, include_usage: bool) -> list[JSONObject]:
    """Return the chunks that amount to ``completion``: role, what was said, finish of each choice, then usage if asked.

    ``completion`` is not touched, and its parts are shared with the chunks.
    """
    head = {key: value for key, value in completion.items() if key not in _NOT_COPIED}
    head["object"] = "chat.completion.chunk"
    usage = completion.get("usage")
    said = {"usage": None} if include_usage and usage is not None else {}
    chunks = [
        {**head, "choices": [{"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
        | said
        for choice in sorted(completion["choices"], key=lambda choice: int(choice["index"]))
        for delta, logprobs, finish in _deltas(choice)
    ]
    return [*chunks, {**head, "choices": [], "usage": usage}] if said else chunks


def _deltas(choice: JSONObject) -> Iterator[tuple[JSONObject, Any, str | None]]:
    """Give the deltas of one choice, each with its logprobs and finish reason."""
    message, logprobs = choice["message"], choice.get("logprobs")
    content = message.get("content")
    reasoning = message.get("reasoning_content")
    # An answer that begins with a call has no text, not an empty one: clients see the difference.
    yield {"role": "assistant", "content": None if content is None else "", "refusal": None}, None, None
    if reasoning:
        yield {"reasoning_content": reasoning}, None, None
    if content:
        yield {"content": content}, logprobs, None
    if message.get("refusal"):
        yield {"refusal": message["refusal"]}, None if content else logprobs, None
    if calls := message.get("tool_calls"):
        yield {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}, None, None
    if rest := {key: value for key, value in message.items() if key not in _TOLD_APART and value is not None}:
        yield rest, None, None
    yield {}, None, choice.get("finish_reason")
