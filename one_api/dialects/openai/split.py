"""A whole answer as the chunks of a stream."""

from collections.abc import Iterator

from one_api.dialects.json import JSONObject

#: What stands elsewhere in a stream, or is sent once.
_NOT_COPIED = frozenset({"object", "choices", "usage"})
#: Fields of a choice that have a place of their own in the chunks.
_PLACED = frozenset({"index", "message", "logprobs", "finish_reason"})
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
        {**head, "choices": [{"index": choice["index"], "logprobs": None, "finish_reason": None, **piece}]} | said
        for choice in sorted(completion["choices"], key=lambda choice: int(choice["index"]))
        for piece in _pieces(choice)
    ]
    return [*chunks, {**head, "choices": [], "usage": usage}] if said else chunks


def _pieces(choice: JSONObject) -> Iterator[JSONObject]:
    """Give what the chunks of one choice hold: each a delta, and what belongs beside it."""
    message = choice["message"]
    content, refusal = message.get("content"), message.get("refusal")
    # Told once: with the text that they are of, if there is any.
    logprobs = {"logprobs": choice.get("logprobs")}
    # An answer that begins with a call has no text, not an empty one: clients see the difference.
    yield {"delta": {"role": "assistant", "content": None if content is None else "", "refusal": None}}
    if reasoning := message.get("reasoning_content"):
        yield {"delta": {"reasoning_content": reasoning}}
    if content:
        yield {"delta": {"content": content}, **logprobs}
    if refusal:
        yield {"delta": {"refusal": refusal}, **({} if content else logprobs)}
    if calls := message.get("tool_calls"):
        yield {"delta": {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}}
    if rest := {key: value for key, value in message.items() if key not in _TOLD_APART and value is not None}:
        yield {"delta": rest}
    end = {} if content or refusal else logprobs
    others = {key: value for key, value in choice.items() if key not in _PLACED}
    yield {"delta": {}, **end, "finish_reason": choice.get("finish_reason"), **others}
