"""Messages made of chat completions, checked with the types of Anthropic's SDK."""

from typing import Any

import pytest
from anthropic.types import Message

from one_api.dialects.anthropic.inbound.answer import to_message
from one_api.dialects.anthropic.inbound.chat import AnswerForm
from one_api.dialects.json import JSONObject


def message(said: JSONObject, finish: str = "stop", form: AnswerForm | None = None, **choice: Any) -> JSONObject:
    """The message for an answer, which the SDK accepts."""
    completion = {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish, **choice}],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        },
    }
    found = to_message(completion, "msg_1", form or AnswerForm("asked"), lambda: 11, lambda text: f"gw1.{text}")
    Message.model_validate(found, strict=True)
    return found


def call(arguments: str, call_id: str = "call_1") -> JSONObject:
    """A tool call."""
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": arguments}}


def test_a_text() -> None:
    assert message({"content": "Hi"}) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "asked",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 30,
            "cache_creation_input_tokens": 10,
            "cache_read_input_tokens": 60,
            "output_tokens": 7,
        },
    }


def test_usage_that_nobody_tells_is_estimated() -> None:
    said = {"role": "assistant", "content": "x" * 40, "tool_calls": [call('{"a":1}')]}
    completion = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}]}

    usage = to_message(completion, "msg_1", AnswerForm("asked"), lambda: 11, lambda text: "")["usage"]

    assert (usage["input_tokens"], usage["output_tokens"]) == (11, 11)


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_an_empty_answer_has_no_block(content: str | None) -> None:
    assert message({"content": content})["content"] == []


def test_thinking_comes_first() -> None:
    said = {"content": "Hi", "reasoning_content": "Hm.", "tool_calls": [call('{"a":1}')]}

    shown = message(said, "tool_calls", AnswerForm("m", thinking="shown"))["content"]
    hidden = message(said, "tool_calls", AnswerForm("m", thinking="hidden"))["content"]
    none = message(said, "tool_calls")["content"]

    assert [block["type"] for block in shown] == ["thinking", "text", "tool_use"]
    assert shown[0] == {"type": "thinking", "thinking": "Hm.", "signature": "gw1.Hm."}
    assert hidden[0] == {"type": "thinking", "thinking": "", "signature": "gw1.Hm."}
    assert [block["type"] for block in none] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"a":"ü"}', {"a": "ü"}),
        ("", {}),
        ('{"a":', {"_raw_arguments": '{"a":'}),
        ("[1]", {"_value": [1]}),
    ],
)
def test_arguments(arguments: str, given: JSONObject) -> None:
    found = message({"content": None, "tool_calls": [call(arguments)]}, "tool_calls")

    assert found["content"] == [{"type": "tool_use", "id": "call_1", "name": "look", "input": given}]


def test_an_id_that_anthropic_would_refuse_is_hashed_the_same_each_time() -> None:
    first, second = (
        message({"tool_calls": [call("{}", "call:1/x.y")]}, "tool_calls")["content"][0]["id"] for _ in range(2)
    )

    assert first == second
    assert first.startswith("call_")
    assert len(first) == 29


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        ("stop", [], "end_turn"),
        ("stop", [call("{}")], "tool_use"),
        ("tool_calls", [call("{}")], "tool_use"),
        ("length", [], "max_tokens"),
        ("length", [call('{"a":1}')], "tool_use"),
        ("length", [call('{"a":')], "max_tokens"),
        ("content_filter", [], "refusal"),
    ],
)
def test_stop_reasons(finish: str, calls: list[JSONObject], reason: str) -> None:
    assert message({"content": "Hi", "tool_calls": calls}, finish)["stop_reason"] == reason


def test_a_refusal_is_told_as_one() -> None:
    found = message({"content": None, "refusal": "I cannot."}, "content_filter")

    assert found["content"] == [{"type": "text", "text": "I cannot."}]
    assert found["stop_details"]["explanation"] == "I cannot."


@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
def test_a_stop_string_is_named_where_the_upstream_names_it(key: str) -> None:
    form = AnswerForm("m", ("END",))

    assert message({"content": "Hi"}, "stop", form, **{key: "END"})["stop_sequence"] == "END"
    assert message({"content": "Hi"}, "stop", form, **{key: 151645})["stop_reason"] == "end_turn"


def test_a_fifth_stop_string_cuts_the_answer_here() -> None:
    found = message({"content": "one two three"}, form=AnswerForm("m", ("a", "b", "c", "d", " three")))

    assert found["content"] == [{"type": "text", "text": "one two"}]
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", " three")
