"""What is sent to a server under test, and what a right answer to it looks like."""

import json
from dataclasses import dataclass
from enum import StrEnum

STREAM_CHUNKS = 64
"""Content chunks in every scripted stream."""

PACE_S = 0.05
"""Time between two chunks of the slow model."""

FAST_MODEL = "bench"
SLOW_MODEL = "bench-slow"
SHORT_MODEL = "bench-short"
IDLE_MODEL = "bench-idle"
"""Its streams begin and are silent from then on."""

FLOOD_MODEL = "bench-flood"
"""Its streams have no end, and come as fast as they are read."""

NATIVE_MODEL = "bench-native"
"""The short model of an upstream that speaks Anthropic's Messages."""

SHORT_CHUNKS = 16
"""Content chunks in a stream of the short model."""

CLIENT_KEY = "bench-key"
"""The key that clients show to a gateway; the scripted upstream asks for none."""

UPSTREAM_KEY = "upstream-key"
"""The key that a gateway shows to the upstream."""

LOOPBACK = "127.0.0.1"


class Kind(StrEnum):
    """The two ways of asking for a completion."""

    COMPLETION = "non-stream"
    STREAM = "stream"


class BenchError(Exception):
    """A run whose figures would mean nothing: a wrong answer, a dead server, a missed deadline."""


@dataclass(frozen=True)
class Target:
    """A server under test on loopback and the key it wants."""

    port: int
    api_key: str = CLIENT_KEY

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://{LOOPBACK}:{self.port}"

    def chat_request(self, kind: Kind, model: str = FAST_MODEL, *, close: bool = False) -> bytes:
        """One whole HTTP request for a completion; with `close` the server ends the connection after its answer."""
        return self.request("/v1/chat/completions", chat_body(kind, model), close=close)

    def request(self, path: str, body: bytes, *, close: bool = False) -> bytes:
        """One whole HTTP request with a JSON body."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {LOOPBACK}:{self.port}",
            f"Authorization: Bearer {self.api_key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(["Connection: close"] if close else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat_body(kind: Kind, model: str = FAST_MODEL) -> bytes:
    """A request body of everyday size: two messages, the usual parameters, usage asked for in streams."""
    payload: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _QUESTION},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    if kind is Kind.STREAM:
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(payload).encode()


_SYSTEM = "You are a helpful assistant. Answer briefly and to the point."
_QUESTION = "Explain in two sentences why a gateway in front of several models is useful."


def responses_body(model: str = SHORT_MODEL) -> bytes:
    """The same request for a stream in the words of Responses."""
    payload = {"model": model, "instructions": _SYSTEM, "input": _QUESTION, "temperature": 0.7, "store": False}
    return json.dumps(payload | {"max_output_tokens": 256, "stream": True}).encode()


def messages_body(model: str = SHORT_MODEL) -> bytes:
    """The same request for a stream in the words of Anthropic's Messages."""
    payload = {"model": model, "system": _SYSTEM, "messages": [{"role": "user", "content": _QUESTION}]}
    return json.dumps(payload | {"temperature": 0.7, "max_tokens": 256, "stream": True}).encode()


def embedding_body(model: str = FAST_MODEL) -> bytes:
    """A request for the vector of one text."""
    return json.dumps({"model": model, "input": _QUESTION}).encode()


def check_answer(kind: Kind, status: int, body: bytes) -> None:
    """Raise BenchError unless this is a complete answer of the scripted upstream to a request of this kind."""
    if status != 200:
        raise BenchError(f"a {kind} request was answered {status}: {body[:300]!r}")
    if kind is Kind.COMPLETION:
        if b'"usage"' not in body or b'"finish_reason"' not in body:
            raise BenchError(f"an answer lacks its usage or finish reason: {body[:300]!r}")
        return
    if not body.rstrip().endswith(b"data: [DONE]"):
        raise BenchError(f"a stream ended without [DONE]: ...{body[-300:]!r}")
    # As many chunks as were sent, or as many words: a stream from a cache comes in fewer pieces.
    chunks = max(body.count(b"data: {"), body.count(b" word"))
    if chunks < STREAM_CHUNKS:
        raise BenchError(f"a stream had {chunks} chunks, at least {STREAM_CHUNKS} were sent: ...{body[-300:]!r}")
