"""The bytes that the scripted upstream sends, built once at import."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bench.target import (
    FAST_MODEL,
    FLOOD_MODEL,
    IDLE_MODEL,
    NATIVE_MODEL,
    SHORT_CHUNKS,
    SHORT_MODEL,
    SLOW_MODEL,
    STREAM_CHUNKS,
)

_CREATED = 1_760_000_000
_USAGE_COUNTS = {"prompt_tokens": 31, "completion_tokens": STREAM_CHUNKS, "total_tokens": 31 + STREAM_CHUNKS}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LAST_FRAME = b"0\r\n\r\n"


def answer(payload: object, status: str = "200 OK") -> bytes:
    """A whole JSON response."""
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def _frame(data: bytes) -> bytes:
    """One server-sent event in an HTTP chunk of its own, as real servers send them."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(model: str, delta: dict[str, str], finish: str | None, with_usage: bool) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _chunk_of(model, [choice], {"usage": None} if with_usage else {})


def _chunk_of(model: str, choices: list[dict[str, object]], more: dict[str, object]) -> bytes:
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": _CREATED, "model": model}
    chunk |= {"service_tier": "default", "system_fingerprint": "fp_bench", "choices": choices, **more}
    return json.dumps(chunk, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Script:
    """The frames of one stream: what opens it, a content frame cut in two around its content, what ends it."""

    opening: bytes
    before: bytes
    after: bytes
    ending: bytes

    @classmethod
    def build(cls, model: str, with_usage: bool) -> "Script":
        """The frames for one model, with or without the usage chunk at the end."""
        before, after = _chunk(model, {"content": "@"}, None, with_usage).split(b"@")
        ending = _frame(_chunk(model, {}, "stop", with_usage))
        if with_usage:
            ending += _frame(_chunk_of(model, [], {"usage": _USAGE_COUNTS}))
        opening = _STREAM_HEAD + _frame(_chunk(model, {"role": "assistant", "content": ""}, None, with_usage))
        return cls(opening, before, after, ending + _frame(b"[DONE]") + _LAST_FRAME)

    def content(self, text: bytes) -> bytes:
        """One content frame."""
        return _frame(self.before + text + self.after)

    def whole(self, chunks: int) -> tuple[bytes, ...]:
        """A stream of so many chunks, in the few writes in which it is sent."""
        frames = [self.content(b" word%02d" % i) for i in range(chunks)]
        half = chunks // 2
        return self.opening, b"".join(frames[:half]), b"".join(frames[half:]), self.ending


FAST = {usage: Script.build(FAST_MODEL, usage).whole(STREAM_CHUNKS) for usage in (False, True)}
SHORT = {usage: Script.build(SHORT_MODEL, usage).whole(SHORT_CHUNKS) for usage in (False, True)}
PACED = {usage: Script.build(SLOW_MODEL, usage) for usage in (False, True)}
MODELS = answer(
    {
        "object": "list",
        "data": [
            {"id": model, "object": "model", "created": _CREATED, "owned_by": "bench"}
            for model in (FAST_MODEL, SHORT_MODEL, SLOW_MODEL, IDLE_MODEL, FLOOD_MODEL)
        ],
    }
)
COMPLETION = answer(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": _CREATED,
        "model": FAST_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "One address, many models.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE_COUNTS,
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }
)
NATIVE_MODELS = answer({"data": [{"type": "model", "id": NATIVE_MODEL, "display_name": "bench"}], "has_more": False})
EMBEDDING = answer(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [round(i / 257 - 0.5, 6) for i in range(256)]}],
        "model": FAST_MODEL,
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    }
)


def _native_stream() -> tuple[bytes, ...]:
    """A stream of Anthropic's Messages with as many texts as the short model's, in the same few writes."""
    message = {"id": "msg_bench", "type": "message", "role": "assistant", "model": NATIVE_MODEL, "content": []}
    usage = {"input_tokens": 31, "output_tokens": 1}
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    texts = [{"type": "text_delta", "text": f" word{i:02}"} for i in range(SHORT_CHUNKS)]
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    end = {"type": "message_delta", "delta": stop, "usage": {"output_tokens": SHORT_CHUNKS}}
    head = message | {"stop_reason": None, "stop_sequence": None, "usage": usage}
    opening = _named({"type": "message_start", "message": head}, start)
    deltas = [_named({"type": "content_block_delta", "index": 0, "delta": text}) for text in texts]
    ending = _named({"type": "content_block_stop", "index": 0}, end, {"type": "message_stop"})
    half = SHORT_CHUNKS // 2
    return _STREAM_HEAD + opening, b"".join(deltas[:half]), b"".join(deltas[half:]), ending + _LAST_FRAME


def _named(*events: Mapping[str, object]) -> bytes:
    """Events of Messages as Anthropic writes them, with names and without spaces, each in an HTTP chunk of its own."""
    texts = [(each["type"], json.dumps(each, separators=(",", ":"))) for each in events]
    frames = [f"event: {name}\ndata: {text}\n\n".encode() for name, text in texts]
    return b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)


NATIVE = _native_stream()
NOT_FOUND = answer({"error": {"message": "no such route", "type": "invalid_request_error"}}, "404 Not Found")
NO_LENGTH = answer({"error": {"message": "content-length needed"}}, "411 Length Required")
