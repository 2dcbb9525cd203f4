"""Chunks that hold all of the answer so far: what of each has not come before."""

from collections.abc import Callable

import pytest

from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import InvalidAnswer
from tests.dialects.recorded import OURS, called, chunk, opened, read_answer, said, stream, translate

Shape = Callable[..., JSONObject]


def native(message: JSONObject, finish: str | None = None) -> JSONObject:
    """A chunk of DashScope's own dialect, whose finish reason is a text for none until the end."""
    return {"output": {"choices": [{"message": message, "finish_reason": finish or "null"}]}, "request_id": "r"}


def chat(message: JSONObject, finish: str | None = None) -> JSONObject:
    """A chunk with a message in place of its delta."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def text(message: JSONObject, finish: str | None = None) -> JSONObject:
    """A chunk of DashScope's oldest form."""
    return {"output": {"text": message["content"], "finish_reason": finish or "null"}}


SHAPES = pytest.mark.parametrize("shape", [native, chat, text])


def choice_of(*chunks: JSONObject) -> JSONObject:
    """The choice that both readers make of a stream."""
    raw = stream(*chunks)
    (choice,) = read_answer(raw, OURS)["choices"]
    pieces = [piece["delta"].get("content") or "" for each in translate(raw).chunks for piece in each["choices"]]
    assert "".join(pieces) == (choice["message"]["content"] or "")
    found: JSONObject = choice
    return found


@SHAPES
@pytest.mark.parametrize(
    "texts",
    [
        ["Hel", "Hello", "Hello!"],
        ["", "Hel", "Hello!"],
        ["Hel", "Hel", "Hello!", "Hello!"],
        ["Hello!", "Hello!"],
        ["Hello!"],
        ["Hel", "lo", "!"],
        ["Hello", "", "!"],
    ],
    ids=" ".join,
)
def test_all_so_far_and_pieces_are_told_apart(shape: Shape, texts: list[str]) -> None:
    *begun, last = [{"role": "assistant", "content": each} for each in texts]

    assert choice_of(*map(shape, begun), shape(last, "stop")) == said("Hello!")


@pytest.mark.parametrize("shape", [native, chat])
def test_a_piece_that_is_like_the_first_is_kept_once_others_follow(shape: Shape) -> None:
    pieces = [{"content": each} for each in ("ha", "ha", "ha", "!")]

    assert choice_of(*map(shape, pieces), shape({"content": ""}, "stop")) == said("hahaha!")
    assert choice_of(*map(shape, pieces[:3]), shape({"content": ""}, "stop")) == said("hahaha")


@pytest.mark.parametrize("shape", [native, chat])
def test_reasoning_is_told_as_the_content_is(shape: Shape) -> None:
    messages = [
        {"content": "", "reasoning_content": "Let"},
        {"content": "", "reasoning_content": "Let me"},
        {"content": "Hi", "reasoning_content": "Let me"},
        {"content": "Hi there", "reasoning_content": ""},
    ]

    assert choice_of(*map(shape, messages), shape(messages[-1], "stop")) == said("Hi there", reasoning_content="Let me")


def test_calls_in_messages_that_hold_all_so_far_are_calls_once() -> None:
    messages = [{"content": "", **opened("a", "f", each, index=0)} for each in ('{"x', '{"x":1', '{"x":1}')]

    choice = choice_of(*map(native, messages), native(messages[-1], "tool_calls"))

    assert choice["message"]["tool_calls"] == [called("a", "f", '{"x":1}')]


def test_a_message_that_takes_back_what_was_said_ends_the_answer() -> None:
    with pytest.raises(InvalidAnswer, match="is not more of the one before"):
        translate(stream(*(chat({"content": each}) for each in ("Hel", "Hello", "Help"))))


LONG = "A text of many words"


@pytest.mark.parametrize("name", ["content", "reasoning_content"])
@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["Hel", "Hello", "Hello!"], "Hello!"),
        (["Hel", "Hello", "Hello"], "Hello"),
        (["", "H", "He", "", "Hello"], "Hello"),
        ([LONG, f"{LONG} goes on"], f"{LONG} goes on"),
        (["Hel", "Hell\ufffd", "Hellö", "Hellö!"], "Hellö!"),
        (["ha", "haha", "!"], "hahaha!"),
        (["ha", "haha"], "hahaha"),
        (["ha", "ha", "ha"], "hahaha"),
        (["1", "10", "0"], "1100"),
        ([LONG, LONG, "."], f"{LONG}{LONG}."),
    ],
)
def test_deltas_that_hold_all_so_far_and_pieces_are_told_apart(pieces: list[str], text: str, name: str) -> None:
    raw = stream(*(chunk({name: each}) for each in pieces), chunk({}, "stop"))

    (choice,) = read_answer(raw, OURS)["choices"]

    assert choice["message"][name] == text
    assert "".join(each["choices"][0]["delta"].get(name, "") for each in translate(raw).chunks) == text


def test_reasoning_that_came_in_pieces_tells_how_the_content_comes() -> None:
    deltas = [{"reasoning_content": each} for each in ("So", " it")] + [
        {"content": each} for each in ("ha", "haha", "haha")
    ]

    (choice,) = read_answer(stream(*map(chunk, deltas), chunk({}, "stop")), OURS)["choices"]

    assert choice["message"]["content"] == "hahahahaha"
