"""Whatever Claude says, in whatever pieces: the whole answer and the stream say the same, and what was said."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from tests.support import (
    Action,
    Close,
    Gateway,
    Send,
    claude_events,
    claude_sse,
    claude_upstream,
    joined,
    redacted_block,
    text_block,
    thinking_block,
    tool_block,
)
from tests.support.examples import examples

from .bed import Answer, Bed, yaml

MODEL = "claude-opus-5"
FINISH = {
    "end_turn": "stop", "tool_use": "stop", "stop_sequence": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "content_filter", "something_new": "stop",
}  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PIECES = st.lists(TEXT, max_size=4)
ARGUMENTS = st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(TEXT, max_size=2), max_size=3)
COUNT = st.none() | st.integers(0, 10**9)


@pytest.fixture(scope="module")
def claude() -> Iterator[Bed]:
    """A gateway over one upstream of Anthropic's dialect."""
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(claude_upstream())
        adapters = {"claude": {"type": "claude", "base_url": upstream.root_url, "models": [MODEL]}}
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"}, config_yaml=yaml(adapters=adapters))
        running = Bed(held.enter_context(gateway), {"a": upstream})
        yield running
        running.check_settled()


@dataclass(frozen=True)
class Said:
    """A message as the upstream says it: its blocks as (kind, pieces), why it stopped, and counts of tokens."""

    blocks: Sequence[tuple[str, list[str]]]
    stop: str
    begun: dict[str, Any]
    ended: dict[str, Any]

    @property
    def events(self) -> list[Any]:
        """The events of the stream."""
        made = []
        for number, (kind, pieces) in enumerate(self.blocks):
            if kind in ("tool_use", "server_tool_use"):
                made.append(tool_block(f"toolu_{number}", f"tool_{number}", *pieces, kind=kind))
            elif kind == "redacted":
                made.append(redacted_block())
            else:
                made.append(text_block(*pieces) if kind == "text" else thinking_block(*pieces))
        details: dict[str, Any] = (
            {"stop_details": {"type": "refusal", "explanation": "No."}} if self.stop == "refusal" else {}
        )
        return claude_events(*made, stop=self.stop, usage=self.begun, end_usage=self.ended, **details)

    def texts(self, kind: str) -> list[str]:
        """The blocks of one kind, each joined."""
        return ["".join(pieces) for known, pieces in self.blocks if known == kind]

    @property
    def told(self) -> dict[str, Any]:
        """What a client is to be told of it."""
        calls = [
            (f"toolu_{number}", f"tool_{number}", "".join(pieces) or "{}")
            for number, (kind, pieces) in enumerate(self.blocks)
            if kind == "tool_use"
        ]
        natural = calls and self.stop in ("end_turn", "tool_use")
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        largest = (max(self.begun.get(name) or 0, self.ended.get(name) or 0) for name in names)
        fresh, completion, read, written = largest
        prompt = fresh + read + written
        return {
            "content": "".join(self.texts("text")),
            "reasoning": "".join(self.texts("thinking")),
            "thinking": [kind for kind, _ in self.blocks if kind in ("thinking", "redacted")],
            "calls": calls,
            "finish": ("tool_calls" if natural else FINISH[self.stop], self.stop),
            "refusal": "No." if self.stop == "refusal" else None,
            "usage": (prompt, completion, prompt + completion, read),
        }


@st.composite
def blocks(draw: st.DrawFn) -> tuple[str, list[str]]:
    """One block; the input of a tool is JSON, cut anywhere, or is left out."""
    kind = draw(st.sampled_from(["text", "text", "thinking", "redacted", "tool_use", "tool_use", "server_tool_use"]))
    if kind in ("tool_use", "server_tool_use"):
        text = draw(st.just("") | ARGUMENTS.map(lambda given: json.dumps(given, ensure_ascii=False)))
        return kind, cut(text, draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return kind, draw(PIECES)


USAGES = st.fixed_dictionaries({
    "input_tokens": COUNT, "output_tokens": COUNT, "cache_read_input_tokens": COUNT,
    "cache_creation_input_tokens": COUNT,
})  # fmt: skip
SAID = st.builds(
    Said, st.lists(blocks(), max_size=6), st.sampled_from(sorted(FINISH)), USAGES,
    st.fixed_dictionaries({"output_tokens": COUNT}, optional={"input_tokens": COUNT, "cache_read_input_tokens": COUNT}),
)  # fmt: skip
#: Places in the bytes of a response, as shares of its length.
PLACES = st.lists(st.floats(0, 1), max_size=6)


def cut(whole: Any, places: list[int]) -> list[Any]:
    """A text, or bytes, cut at these places."""
    edges = [0, *sorted(places), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


def sent(said: Said, places: list[float]) -> list[Action]:
    """The script that sends the response in pieces."""
    raw = joined(claude_sse(*said.events))
    return [Send(piece) for piece in cut(raw, [round(place * len(raw)) for place in places]) if piece]


def both(claude: Bed, script: list[Action]) -> tuple[Answer, Answer]:
    """The whole answer and the stream that the script makes."""
    claude.a.on(MODEL, script)
    options = {"include_usage": True}
    return claude.ask(MODEL), claude.ask(MODEL, stream=True, stream_options=options)


def told_by(completion: dict[str, Any]) -> dict[str, Any]:
    """What a completion says."""
    (choice,) = completion["choices"]
    message, usage = choice["message"], completion["usage"]
    thinking = [block["type"].removesuffix("_thinking") for block in message.get("thinking_blocks") or ()]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning_content") or "",
        "thinking": thinking,
        "calls": [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ],
        "finish": (choice["finish_reason"], choice["native_finish_reason"]),
        "refusal": message["refusal"],
        "usage": (
            usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
        ),
    }  # fmt: skip


def assembled(answer: Answer) -> dict[str, Any]:
    """What the official client makes of a stream."""
    assert answer.stream_error is None
    state = ChatCompletionStreamState()
    for chunk in answer.chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    found = state.current_completion_snapshot.model_dump()
    (native,) = {each["native_finish_reason"] for chunk in answer.chunks for each in chunk["choices"]
                 if each["finish_reason"]}  # fmt: skip
    found["choices"][0]["native_finish_reason"] = native  # the client forgets it
    return found


@settings(max_examples=examples(150))
@given(SAID, PLACES)
def test_the_whole_answer_and_the_stream_say_what_was_said(claude: Bed, said: Said, places: list[float]) -> None:
    whole, stream = both(claude, sent(said, places))

    assert whole.status == 200, whole.body
    assert told_by(whole.json) == said.told
    assert told_by(assembled(stream)) == said.told


@settings(max_examples=examples(100))
@given(SAID, st.floats(0, 1, exclude_max=True))
def test_an_answer_that_is_cut_short_is_whole_in_neither_form_or_in_both(claude: Bed, said: Said, share: float) -> None:
    raw = joined(claude_sse(*said.events))

    whole, stream = both(claude, [Send(raw[: int(share * len(raw))]), Close()])

    if whole.status == 200:
        assert told_by(whole.json) == told_by(assembled(stream))
        assert told_by(whole.json)["finish"] == said.told["finish"]
    else:
        failure = stream.stream_error if stream.status == 200 else stream.error
        assert failure is not None
        assert (whole.status, whole.error["code"]) == (502, failure["code"])
