"""A stream, put together, is the answer that the same server gives when it does not stream."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import normalise
from tests.dialects.recorded import OURS, chunk, opened, stream, translate, usage

WORDS = st.text(min_size=1, max_size=12)


def assemble(*chunks: JSONObject) -> JSONObject:
    """The completion that chunks amount to."""
    assembler = Assembler()
    for each in chunks:
        assembler.add(each)
    return assembler.completion()


@st.composite
def messages(draw: st.DrawFn) -> JSONObject:
    """A message of an upstream: text, a refusal, reasoning and tool calls, in any combination."""
    message: JSONObject = {"role": "assistant", "content": draw(st.none() | WORDS), "refusal": draw(st.none() | WORDS)}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(WORDS)
    if names := draw(st.lists(WORDS, max_size=3)):
        message["tool_calls"] = [_call(position, name, draw(WORDS)) for position, name in enumerate(names)]
    return message


def _call(position: int, name: str, text: str) -> JSONObject:
    arguments = json.encode({"text": text}).decode()
    return {"id": f"call_{position}", "type": "function", "function": {"name": name, "arguments": arguments}}


@st.composite
def answers(draw: st.DrawFn) -> JSONObject:
    """A whole answer of an upstream with one to three choices."""
    choices = []
    for index, message in enumerate(draw(st.lists(messages(), min_size=1, max_size=3))):
        reason = "tool_calls" if "tool_calls" in message else draw(st.sampled_from(["stop", "length"]))
        tokens = draw(st.none() | st.lists(WORDS, min_size=1, max_size=4))
        logprobs = tokens and {"content": [{"token": token, "logprob": -0.5} for token in tokens], "refusal": None}
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    head: JSONObject = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_750_000_000, "model": "m-2025"}
    return {**head, "choices": choices, **draw(st.sampled_from([{}, {"usage": usage(9, 3)}]))}


def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    """The text, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def chunks_of(draw: st.DrawFn, choice: JSONObject) -> list[JSONObject]:
    """The chunks in which a server would send one choice."""
    message, index = choice["message"], choice["index"]
    deltas: list[JSONObject] = [{"role": "assistant", "content": None if message["content"] is None else ""}]
    for key in ("reasoning_content", "content", "refusal"):
        deltas += [{key: piece} for piece in pieces_of(draw, message.get(key) or "") if piece]
    for position, call in enumerate(message.get("tool_calls", ())):
        deltas.append({"tool_calls": [{"index": position, **call, "function": {**call["function"], "arguments": ""}}]})
        for piece in pieces_of(draw, call["function"]["arguments"]):
            deltas.append({"tool_calls": [{"index": position, "function": {"arguments": piece}}]})
    chunks = [chunk(delta, index=index) for delta in deltas]
    for token in (choice["logprobs"] or {}).get("content", ()):
        chunks.append(chunk({}, index=index))
        chunks[-1]["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    return [*chunks, chunk({}, choice["finish_reason"], index=index)]


@given(answers(), st.data())
def test_a_stream_amounts_to_the_whole_answer(answer: JSONObject, data: st.DataObject) -> None:
    queues = [data.draw(st.composite(chunks_of)(choice)) for choice in answer["choices"]]
    payloads: list[JSONObject | str] = []
    while waiting := [queue for queue in queues if queue]:
        payloads.append(data.draw(st.sampled_from(waiting)).pop(0))
    if "usage" in answer:
        payloads.append({"choices": [], "usage": answer["usage"]})

    whole = normalise(copy.deepcopy(answer), OURS)

    assert assemble(*translate(stream(*payloads)).chunks) == whole


def test_a_text_is_put_together() -> None:
    completion = assemble(*translate(stream(chunk({"content": "Hel"}), chunk({"content": "lo"}, "stop"))).chunks)

    assert completion == {
        "id": "chatcmpl-1",
        "created": 1_750_000_000,
        "model": "m-2025",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


def test_what_one_chunk_alone_says_of_the_whole_is_not_lost() -> None:
    first, last = chunk({"content": "a"}), chunk({}, "stop")
    first["service_tier"], last["service_tier"], last["system_fingerprint"] = None, "flex", "fp"

    completion = assemble(first, last)

    assert (completion["service_tier"], completion["system_fingerprint"]) == ("flex", "fp")


def test_what_a_chunk_holds_beside_the_answer_is_kept() -> None:
    first, last = chunk({"content": "a"}, obfuscation="xx", citations=["u"]), chunk({}, "stop", citations=None)

    completion = assemble(first, last | {"timings": {"n": 1}})

    assert (completion["citations"], completion["timings"], "obfuscation" in completion) == (["u"], {"n": 1}, False)


def test_empty_text_before_a_tool_call_is_no_text() -> None:
    raw = stream(chunk({"role": "assistant", "content": ""}), chunk(opened("a", "f", "{}")), chunk({}, "stop"))

    message = assemble(*translate(raw).chunks)["choices"][0]["message"]

    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["a"]


@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_there_when_the_stream_told_it(asked: bool) -> None:
    raw = stream(chunk({"content": "a"}, "stop"), {"choices": [], "usage": usage(9, 1)})

    completion = assemble(*translate(raw, include_usage=asked).chunks)

    assert completion.get("usage") == (usage(9, 1) if asked else None)


def test_the_chunks_are_not_touched() -> None:
    chunks = translate(stream(chunk(opened("a", "f", "")), chunk({"tool_calls": [_piece("{}")]}, "stop"))).chunks
    before = copy.deepcopy(chunks)

    assemble(*chunks)

    assert chunks == before


def _piece(arguments: str) -> dict[str, Any]:
    return {"index": 0, "function": {"arguments": arguments}}
