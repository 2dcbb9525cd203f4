"""What an upstream calls reasoning is read off its answers, and off its refusals."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.openai.reasoning_names import ReasoningNames, name_in_answer, name_in_body, other_name


def answer(part: str = "message", **holder: Any) -> dict[str, Any]:
    """An answer, or a chunk, with one choice."""
    return {"choices": [{"index": 0, part: holder}]}


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (answer(reasoning="hm"), "reasoning"),
        (answer(reasoning_content="hm"), "reasoning_content"),
        (answer("delta", reasoning="hm", reasoning_content=None), "reasoning"),
        (answer("delta", reasoning_text="hm", content="x"), "reasoning_text"),
        (answer(reasoning="hm", reasoning_content="hm"), "reasoning_content"),
        (answer(reasoning=""), None),
        (answer(content="reasoning"), None),
        (answer(reasoning={"effort": "low"}), None),
        ({"choices": [None, {"delta": 1}, {"message": {"thinking": "hm"}}]}, "thinking"),
        ({"choices": {}}, None),
        ([], None),
    ],
)
def test_the_name_is_the_one_with_words_in_it(payload: Any, name: str | None) -> None:
    assert name_in_answer(payload) == name
    assert name_in_body(json.encode(payload)) == name


@pytest.mark.parametrize("data", [b"[DONE]", b'{"reasoning"', b"", b'"reasoning"'])
def test_an_event_that_cannot_be_read_has_no_name(data: bytes) -> None:
    assert name_in_body(data) is None


@pytest.mark.parametrize(
    ("refusal", "message", "other"),
    [
        ("property 'reasoning_content' is unsupported", {"reasoning_content": "hm"}, "reasoning"),
        ("messages.1.reasoning: Extra inputs are not permitted", {"reasoning": "hm"}, "reasoning_content"),
        ("`reasoning_effort` is not supported", {"reasoning": "hm"}, None),
        ("property 'reasoning_content' is unsupported", {"content": "x"}, None),
        ("temperature is too high", {"reasoning_content": "hm"}, None),
    ],
)
def test_a_refusal_names_what_it_refuses(refusal: str, message: dict[str, Any], other: str | None) -> None:
    assert other_name(refusal, [{"role": "assistant", **message}, "x"]) == other


def test_what_is_remembered_is_bounded() -> None:
    names = ReasoningNames()

    for number in range(20_000):
        names.learn(str(number), "reasoning")
    names.learn("0", "thinking")
    names.learn("0", None)

    assert (names.get("0"), names.get("9999"), names.get("19999")) == ("thinking", "reasoning", None)
