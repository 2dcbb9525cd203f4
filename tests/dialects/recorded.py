"""Whole streams in the shapes in which servers were seen to send them, and what a client must make of each.

The shapes are those of public reports and of the servers' own sources; texts, ids and numbers are made up.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.answer import read_in_steps
from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.sse import EventReader

OURS = Identity("chatcmpl-ours", 1_700_000_000, "asked-for")
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Recording:
    """One stream, and the choices and usage of the completion that it amounts to."""

    name: str
    raw: bytes
    choices: list[JSONObject]
    usage: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Translated:
    """What a translator made of a stream."""

    chunks: list[JSONObject]
    finished: bool
    usage: JSONObject | None


def every_cut(length: int, apart: int) -> Iterator[list[int]]:
    """Each place at which so many bytes can be cut, in lists; those in one list are ``apart`` bytes from each other."""
    for first in range(1, min(apart + 1, length)):
        yield list(range(first, length, apart))


def translate(raw: bytes, cuts: Iterable[int] = (), *, include_usage: bool = True) -> Translated:
    """Read a stream that arrives in the pieces between ``cuts``, as the adapters do, and return its chunks."""
    stream, events = OpenAIStream(OURS, include_usage=include_usage), EventReader()
    inner = sorted(cuts)
    chunks: list[JSONObject] = []
    for start, end in zip([0, *inner], [*inner, len(raw)], strict=True):
        for event in events.feed(raw[start:end]):
            chunks += stream.feed(event)
    chunks += stream.end()
    return Translated(chunks, stream.finished, stream.usage)


def read_answer(
    data: bytes,
    identity: Identity,
    *,
    choices: int = 1,
    tools: Collection[str] = (),
    decoded: Any = None,
) -> JSONObject:
    """Return the completion that the body of an answer holds, in one go, see ``read_in_steps``."""
    steps = read_in_steps(data, identity, choices=choices, tools=tools, decoded=decoded)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: JSONObject = done.value
            return answer


def stream(*payloads: JSONObject | str, done: bool = True) -> bytes:
    """The bytes of a stream: dicts as events, texts as they are."""
    pieces = [piece if isinstance(piece, str) else f"data: {json.encode(piece).decode()}\n\n" for piece in payloads]
    return "".join([*pieces, DONE if done else ""]).encode()


def chunk(delta: Any = None, finish: Any = None, index: Any = 0, **fields: Any) -> JSONObject:
    """A chunk with one choice, as OpenAI sends it; further fields of the chunk by name."""
    choice = {"index": index, "delta": {} if delta is None else delta, "logprobs": None, "finish_reason": finish}
    return {**_HEAD, "choices": [choice], **fields}


_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_750_000_000, "model": "m-2025"}


def opened(call_id: Any, name: str, arguments: Any = "", **fields: Any) -> JSONObject:
    """A delta whose entry opens a tool call."""
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"id": call_id, "type": "function", "function": function, **fields}]}


def piece(arguments: str, **fields: Any) -> JSONObject:
    """A delta whose entry continues a tool call."""
    return {"tool_calls": [{"function": {"arguments": arguments}, **fields}]}


def usage(prompt: int, completion: int, **details: Any) -> JSONObject:
    """A usage object."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **details}


def said(content: str | None, finish: str = "stop", index: int = 0, **fields: Any) -> JSONObject:
    """A choice of the completion; further fields of its message by name."""
    message = {"role": "assistant", "content": content, "refusal": None, **fields}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def called(call_id: str, name: str, arguments: str) -> JSONObject:
    """A tool call of the completion."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


_SAFE = {"hate": {"filtered": False, "severity": "safe"}}

OPENAI_TEXT = Recording(
    "OpenAI: text, usage asked for, padding",
    stream(
        chunk({"role": "assistant", "content": "", "refusal": None}, usage=None, service_tier="default"),
        chunk({"content": "Grüß "}, usage=None, service_tier="default", obfuscation="a8X"),
        chunk({"content": "Gott 😀"}, usage=None, service_tier="default", obfuscation="p"),
        chunk({}, "stop", usage=None, service_tier="default", obfuscation="k3"),
        {**_HEAD, "choices": [], "usage": usage(9, 3, prompt_tokens_details={"cached_tokens": 0}), "obfuscation": "x"},
    ),
    [said("Grüß Gott 😀")],
    usage(9, 3, prompt_tokens_details={"cached_tokens": 0}),
)
OPENAI_TOOLS = Recording(
    "OpenAI: two tool calls",
    stream(
        chunk({"role": "assistant", "content": None, **opened("call_a", "weather", index=0), "refusal": None}),
        chunk(piece('{"city"', index=0)),
        chunk(piece(':"Köln"}', index=0)),
        chunk(opened("call_b", "time", index=1)),
        chunk(piece("{}", index=1)),
        chunk({}, "tool_calls"),
    ),
    [
        said(
            None,
            "tool_calls",
            tool_calls=[called("call_a", "weather", '{"city":"Köln"}'), called("call_b", "time", "{}")],
        )
    ],
)
OPENAI_CHOICES = Recording(
    "OpenAI: two choices that take turns, logprobs left out",
    stream(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "He"}),
        chunk({"role": "assistant", "content": "", "refusal": None}, index=1),
        chunk({"content": "Sa"}, index=1),
        chunk({"content": "llo"}),
        chunk({"content": "lut"}, index=1),
        chunk({}, "stop"),
        chunk({}, "length", index=1),
        {**_HEAD, "choices": [], "usage": usage(9, 4)},
    ),
    [said("Hello"), said("Salut", "length", 1)],
    usage(9, 4),
)
AZURE = Recording(
    "Azure: a first chunk without choices, a late one without a delta",
    stream(
        {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"x": _SAFE}]},
        chunk({"role": "assistant", "content": ""}, content_filter_results={}),
        chunk({"content": "Hi"}),
        chunk({}, "stop"),
        {"id": "", "object": "", "created": 0, "model": "", "choices": [
            {"index": 0, "finish_reason": None, "content_filter_results": _SAFE, "content_filter_offsets": {}}]},
    ),
    [said("Hi")],
)  # fmt: skip
OPENROUTER = Recording(
    "OpenRouter: comments, a role in every chunk, reasoning, usage with a cost",
    stream(
        ": OPENROUTER PROCESSING\n\n",
        chunk({"role": "assistant", "content": "", "reasoning": "First "}, provider="P"),
        chunk({"role": "assistant", "content": "", "reasoning": "think."}, provider="P"),
        ": OPENROUTER PROCESSING\n\n",
        chunk({"role": "assistant", "content": "Hi"}, provider="P"),
        chunk({"role": "assistant", "content": ""}, "stop", provider="P"),
        chunk({"role": "assistant", "content": ""}, usage=usage(9, 8, cost=0.00012), provider="P"),
    ),
    [said("Hi", reasoning_content="First think.")],
    usage(9, 8, cost=0.00012),
)
OLLAMA = Recording(
    "Ollama: a whole tool call in one chunk, without an index, that ends with stop",
    stream(
        chunk({"role": "assistant", "content": "", **opened("call_ejieksiz", "f", '{"a":10,"b":11}')}),
        chunk({"role": "assistant", "content": ""}, "stop"),
    ),
    [said(None, "tool_calls", tool_calls=[called("call_ejieksiz", "f", '{"a":10,"b":11}')])],
)
LLAMA_CPP = Recording(
    "llama.cpp: reasoning, a name in every delta, timings, usage beside an empty list",
    stream(
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "Hm"}, timings={"predicted_n": 1}),
        chunk({"reasoning_content": "m."}),
        chunk(opened("x9", "add", "{", index=0)),
        chunk(opened("x9", "add", '"a":', index=0)),
        chunk(opened("x9", "add", "1}", index=0)),
        chunk({}, "tool_calls"),
        {**_HEAD, "choices": [], "usage": usage(20, 9), "timings": {"predicted_n": 9}},
    ),
    [said(None, "tool_calls", reasoning_content="Hmm.", tool_calls=[called("x9", "add", '{"a":1}')])],
    usage(20, 9),
)
VLLM = Recording(
    "vLLM: usage on every chunk, on request",
    stream(
        chunk({"role": "assistant", "content": ""}, usage=usage(5, 0)),
        chunk({"content": "a"}, usage=usage(5, 1)),
        chunk({"content": "b"}, usage=usage(5, 2)),
        chunk({"content": ""}, "stop", usage=usage(5, 3), stop_reason=None),
        {**_HEAD, "choices": [], "usage": usage(5, 3)},
    ),
    [said("ab")],
    usage(5, 3),
)
DEEPSEEK = Recording(
    "DeepSeek: reasoning and content are null in turn, usage on the finish chunk",
    stream(
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
        chunk({"content": None, "reasoning_content": "So"}),
        chunk({"content": "42", "reasoning_content": None}),
        chunk({"content": "", "reasoning_content": None}, "stop", usage=usage(7, 9, prompt_cache_hit_tokens=0)),
    ),
    [said("42", reasoning_content="So")],
    usage(7, 9, prompt_cache_hit_tokens=0),
)
BARE = Recording(
    "A small server: hardly any field, an id of its own on each chunk, no end mark",
    stream(
        {"id": "1", "choices": [{"delta": {"content": "Hi"}}]},
        {"id": "2", "choices": [{"delta": {"content": " there"}}]},
        {"id": "3", "choices": [{"delta": {}, "finish_reason": "eos"}]},
        done=False,
    ),
    [said("Hi there") | {"native_finish_reason": "eos"}],
)
ALL = [
    OPENAI_TEXT,
    OPENAI_TOOLS,
    OPENAI_CHOICES,
    AZURE,
    OPENROUTER,
    OLLAMA,
    LLAMA_CPP,
    VLLM,
    DEEPSEEK,
    BARE,
]
