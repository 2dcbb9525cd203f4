"""A whole answer, put together from the chunks of a stream."""

from typing import Any

from one_api.wire.json import JSONObject

#: Fields of the first chunk that the whole answer has, too.
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")
#: Fields of a delta whose pieces are joined.
_JOINED = ("content", "refusal", "reasoning_content")


class Assembler:
    """Takes the chunks of one answer, in order, and returns the completion that they amount to."""

    def __init__(self) -> None:
        self._head: JSONObject = {}
        self._choices: dict[int, JSONObject] = {}

    def add(self, chunk: JSONObject) -> None:
        """Add one chunk, as our streams send them."""
        if not self._head:
            self._head = {key: chunk[key] for key in _HEAD if key in chunk}
        if chunk.get("usage") is not None:
            self._head["usage"] = chunk["usage"]
        for piece in chunk["choices"]:
            choice = self._choices.setdefault(
                piece["index"],
                {
                    "index": piece["index"],
                    "message": {"role": "assistant", "content": None, "refusal": None},
                    "logprobs": None,
                    "finish_reason": None,
                },
            )
            _add_delta(choice["message"], piece["delta"])
            _add_logprobs(choice, piece.get("logprobs"))
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]

    def completion(self) -> JSONObject:
        """Return the completion; call it when the stream has ended well."""
        head = dict(self._head)
        usage = {"usage": head.pop("usage")} if "usage" in head else {}
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**head, "object": "chat.completion", "choices": choices, **usage}


def _add_delta(message: JSONObject, delta: JSONObject) -> None:
    for key in _JOINED:
        if isinstance(delta.get(key), str):
            message[key] = (message.get(key) or "") + delta[key]
    for entry in delta.get("tool_calls") or ():
        calls: list[Any] = message.setdefault("tool_calls", [])
        if "id" in entry:
            kind = entry["type"]
            calls.append({"id": entry["id"], "type": kind, kind: dict(entry[kind])})
            continue
        call = calls[entry["index"]]
        field = "input" if call["type"] == "custom" else "arguments"
        body, more = call[call["type"]], entry[call["type"]]
        if "name" in more:
            body["name"] = more["name"]
        body[field] += more[field]
    if message.get("tool_calls") and message.get("content") == "":
        message["content"] = None


def _add_logprobs(choice: JSONObject, piece: Any) -> None:
    if not isinstance(piece, dict):
        return
    if choice["logprobs"] is None:
        choice["logprobs"] = {"content": None, "refusal": None}
    for key in ("content", "refusal"):
        if piece.get(key):
            choice["logprobs"][key] = (choice["logprobs"][key] or []) + piece[key]
