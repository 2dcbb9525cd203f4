"""The numbered cases of the protocol reference that are about requests to Anthropic, each as it is written there."""

import base64
import re
from typing import Any

import pytest

from one_api.dialects import json
from tests.dialects.anthropic.samples import (
    FORCELESS,
    HAIKU,
    HI,
    OPUS,
    assistant,
    call,
    function,
    refusal,
    result,
    sent,
    system,
    text,
    translated,
    turns,
    user,
)

STRICT = {"strict": True}
LATER = [system("S"), HI, assistant("Yo"), user("Go"), system("Be brief")]


def test_61_system_developer_user() -> None:
    body = sent(system("S"), {"role": "developer", "content": "D"}, HI)

    assert len(body["system"]) == 2
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_62_a_later_system_message_on_opus_5() -> None:
    assert turns(*LATER, model=OPUS)[-1]["role"] == "system"


def test_63_the_same_on_haiku_4_5() -> None:
    made = translated(*LATER)

    assert "Be brief" in made.body["messages"][-1]["content"][-1]["text"]
    assert made.body["messages"][-1]["role"] == "user"
    assert made.body["system"] == [text("S")]
    assert made.warnings


@pytest.mark.parametrize(("model", "limit"), [(HAIKU, 64_000), (OPUS, 128_000)])
def test_65_no_max_tokens(model: str, limit: int) -> None:
    assert sent(model=model)["max_tokens"] == limit


def test_67_temperature_on_haiku() -> None:
    high, low = translated(temperature=1.7), translated(temperature=0.3)

    assert (high.body["temperature"], high.warnings) == (1, ("temperature",))
    assert (low.body["temperature"], low.warnings) == (0.3, ())


def test_69_temperature_on_opus_5() -> None:
    made = translated(model=OPUS, temperature=0)

    assert ("temperature" in made.body, made.warnings) == (False, ("temperature",))
    assert refusal(model=OPUS, temperature=0, options=STRICT) == ("temperature", "unsupported_value")
    assert translated(model=OPUS, temperature=1).warnings == ()


def test_71_two_results_then_text() -> None:
    found = turns(HI, assistant(None, call("a"), call("b")), result("a"), result("b"), user("Go"))

    assert [block["type"] for block in found[-1]["content"]] == ["tool_result", "tool_result", "text"]


def test_73_an_empty_result() -> None:
    assert "content" not in turns(HI, assistant(None, call()), result(content=""))[-1]["content"][0]


def test_75_a_bad_id() -> None:
    found = turns(HI, assistant(None, call("call:1/ä"), call("call:1/ö")), result("call:1/ä"), result("call:1/ö"))

    ids = [block["id"] for block in found[1]["content"]]
    assert ids == [block["tool_use_id"] for block in found[2]["content"]]
    assert len(set(ids)) == 2 and all(re.fullmatch(r"[a-zA-Z0-9_-]+", each) for each in ids)


def test_77_tools_in_history_only() -> None:
    body = sent(HI, assistant(None, call(name="f")), result(), user("Go"))

    assert ([tool["name"] for tool in body["tools"]], body["tool_choice"]) == (["f"], {"type": "none"})


def test_79_required() -> None:
    fields: dict[str, Any] = {"tools": [function("f")], "tool_choice": "required"}

    assert sent(model=OPUS, **fields)["tool_choice"] == {"type": "any"}
    weak = translated(model=FORCELESS, **fields)
    assert (weak.body["tool_choice"], weak.warnings) == ({"type": "auto"}, ("tool_choice",))
    assert refusal(model=FORCELESS, options=STRICT, **fields)[0] == "tool_choice"


def test_81_no_parallel_calls() -> None:
    choice = sent(tools=[function("f")], parallel_tool_calls=False)["tool_choice"]

    assert choice == {"type": "auto", "disable_parallel_tool_use": True}
    assert sent(parallel_tool_calls=False) == sent()


def test_83_no_parameters_and_a_bad_name() -> None:
    made = translated(tools=[function("a.b/c")])

    (tool,) = made.body["tools"]
    assert tool["input_schema"] == {"type": "object", "properties": {}}
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]) and made.response.names[tool["name"]] == "a.b/c"


def test_85_no_reasoning() -> None:
    assert sent(model=OPUS, reasoning_effort="none")["thinking"] == {"type": "disabled"}
    forceless = translated(model=FORCELESS, reasoning_effort="none")
    assert (forceless.body["output_config"]["effort"], forceless.warnings) == ("low", ("reasoning_effort",))
    assert sent(reasoning_effort="none") == sent()


def test_87_xhigh_on_opus_4_6() -> None:
    made = translated(model="claude-opus-4-6", reasoning_effort="xhigh")

    assert (made.body["thinking"]["type"], made.body["output_config"]["effort"]) == ("adaptive", "high")
    assert made.warnings == ("reasoning_effort",)


def test_89_a_json_object_is_to_be_bared() -> None:
    made = translated(response_format={"type": "json_object"})

    assert (made.response.unfence, made.response.json_object) == (True, True)


def test_91_two_answers() -> None:
    assert refusal(n=2) == ("n", "unsupported_value")


def test_93_a_png_that_is_said_to_be_a_jpg() -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpg;charset=x;base64,{data}"}}

    assert turns(user([part]))[0]["content"][0]["source"]["media_type"] == "image/png"


def test_95_a_pdf() -> None:
    data = base64.b64encode(b"%PDF-1.7").decode()
    part = {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}", "filename": "a.pdf"}}

    block = turns(user([part]))[0]["content"][0]
    assert (block["type"], block["title"]) == ("document", "a.pdf")


def test_97_an_answer_that_is_begun() -> None:
    assert turns(HI, assistant("Sure: "))[-1]["content"] == [text("Sure:")]
    assert refusal(HI, assistant("Sure: "), model="claude-opus-4-8") == ("messages[1].role", "unsupported_value")


def test_99_turn_by_turn() -> None:
    tools = [function("f"), function("a.b")]
    first = [system("S"), HI, assistant(None, call("x:1", "a.b", "oops")), result("x:1")]
    second = [*first, assistant("Yo"), user("Go"), system("Be brief")]

    for model in (HAIKU, OPUS):
        one, two = (sent(*messages, model=model, tools=tools) for messages in (first, second))
        assert json.encode(one) == json.encode(sent(*first, model=model, tools=tools))
        assert (one["system"], one["tools"]) == (two["system"], two["tools"])
        assert two["messages"][: len(one["messages"])] == one["messages"]
