"""OpenAI's messages become system blocks and turns that Anthropic accepts: the algorithm, step by step."""

from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from tests.dialects.anthropic.samples import (
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

MARK = {"type": "ephemeral"}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "data": "xyz"}


def marked(said: str) -> JSONObject:
    return text(f"<system_message>\n{said}\n</system_message>")


# The start: system


def test_leading_system_and_developer_messages_become_system_blocks() -> None:
    body = sent(system("A"), {"role": "developer", "content": "B"}, HI)

    assert body["system"] == [text("A"), text("B")]
    assert body["messages"] == [user([text("Hi")])]


def test_each_part_is_a_block_of_its_own_and_blank_ones_are_dropped() -> None:
    body = sent(system([text("A"), text(" \n"), text("B", cache_control=MARK)]), system("  "), HI)

    assert body["system"] == [text("A"), text("B", cache_control=MARK)]


@pytest.mark.parametrize("content", ["", " ", [text("")]])
def test_system_without_text_is_left_out(content: Any) -> None:
    assert "system" not in sent(system(content), HI)


# Later system messages


def test_a_later_system_message_has_its_role_where_the_model_takes_it() -> None:
    made = translated(system("S"), HI, assistant("Yo"), user("Go"), system("Be brief"), model=OPUS)

    assert made.body["system"] == [text("S")]
    assert made.body["messages"][-2:] == [user([text("Go")]), system([text("Be brief")])]
    assert made.warnings == ()


def test_one_before_a_user_message_goes_behind_it() -> None:
    found = turns(HI, assistant("Yo"), system("A"), user("Go"), system("B"), assistant("So"), user("On"), model=OPUS)

    assert [turn["role"] for turn in found] == ["user", "assistant", "user", "system", "assistant", "user"]
    assert found[3] == system([text("A"), text("B")])


def test_elsewhere_it_is_marked_text_at_its_place_in_the_user_turn() -> None:
    made = translated(system("S"), HI, assistant("Yo"), user("Go"), system("A"), system("B"), user("Now"))

    assert made.body["system"] == [text("S")]
    assert made.body["messages"][-1] == user([text("Go"), marked("A\n\nB"), text("Now")])
    assert made.warnings == ("messages.role",)


def test_between_two_answers_it_is_a_user_turn_for_every_model() -> None:
    for model in (HAIKU, OPUS):
        made = translated(HI, assistant("Yo"), system("A"), assistant("So"), user("Go"), model=model)

        assert made.body["messages"][2] == user([marked("A")])
        assert made.warnings == ("messages.role",)


def test_after_tool_results_it_stands_behind_them() -> None:
    history = [HI, assistant(None, call()), result(), system("A"), user("Go")]

    assert [block["type"] for block in turns(*history)[-1]["content"]] == ["tool_result", "text", "text"]
    assert turns(*history, model=OPUS)[-1] == system([text("A")])


def test_strict_refuses_a_system_message_out_of_place() -> None:
    assert refusal(HI, system("A"), options={"strict": True}) == ("messages[1].role", "unsupported_value")
    assert translated(HI, system("A"), model=OPUS, options={"strict": True}).warnings == ()


def test_a_blank_later_system_message_leaves_no_trace() -> None:
    assert translated(HI, system(" ")) == translated(HI)


# User and assistant


def test_blank_user_text_is_dropped() -> None:
    found = turns(user([text(" "), text("A"), text("")]), assistant("Yo"), user(" "), user("Go"))

    assert found == [user([text("A")]), assistant([text("Yo")]), user([text("Go")])]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user(" ")], "messages[0].content"),
        ([system("S"), user([text("")])], "messages[1].content"),
        ([system("S")], "messages"),
        ([assistant("")], "messages"),
    ],
)
def test_a_conversation_without_content_is_refused(messages: list[JSONObject], param: str) -> None:
    assert refusal(*messages) == (param, "invalid_value")


def test_neighbours_of_one_role_are_merged() -> None:
    found = turns(user("A"), user("B"), assistant("C"), user(""), assistant("D"), user("E"))

    assert found == [user([text("A"), text("B")]), assistant([text("C"), text("D")]), user([text("E")])]


def test_an_assistant_message_is_thinking_then_text_then_calls() -> None:
    message = assistant(
        [text("A"), {"type": "refusal", "refusal": "B"}], call("c1"), call("c2", "g", '{"x":1}'),
        thinking_blocks=[{"index": 0} | SIGNED, {"index": 1} | HIDDEN], refusal="C",
    )  # fmt: skip

    found = turns(HI, message, result("c1"), result("c2"))[1]["content"]

    assert found[:5] == [SIGNED, HIDDEN, text("A"), text("B"), text("C")]
    assert found[5:] == [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {"x": 1}},
    ]


def test_an_assistant_message_without_content_is_skipped() -> None:
    assert turns(HI, assistant(None), assistant("", tool_calls=[]), user("Go")) == [user([text("Hi"), text("Go")])]


def test_what_only_answers_carry_is_ignored() -> None:
    message = assistant(
        "Yo", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=[], parsed=None,
        reasoning_content="hm", reasoning="hm",
    )  # fmt: skip

    assert translated(HI, message, HI) == translated(HI, assistant("Yo"), HI)


def test_audio_of_an_earlier_answer_is_refused() -> None:
    assert refusal(HI, assistant(None, audio={"id": "a"}), HI) == ("messages[1].audio", "unsupported_parameter")


def test_an_unknown_key_of_a_message_is_warned_about() -> None:
    assert translated(user("Hi", mood="good")).warnings == ("messages.mood",)
    assert refusal(user("Hi", mood="good"), options={"strict": True}) == ("messages[0].mood", "unknown_parameter")


def test_several_user_names_are_warned_about_and_one_is_not() -> None:
    assert translated(user("A", name="x"), user("B", name="x"), user("C")).warnings == ()
    assert translated(user("A", name="x"), user("B", name="y")).warnings == ("messages.name",)


# Tool results


def test_results_of_one_answer_stand_in_one_user_turn_before_its_text() -> None:
    found = turns(HI, assistant(None, call("a"), call("b")), result("b", "2"), result("a", "1"), user("Go"))

    assert found[2] == user([
        {"type": "tool_result", "tool_use_id": "b", "content": "2"},
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        text("Go"),
    ])  # fmt: skip


@pytest.mark.parametrize("content", ["", " \n", [], [text("")]])
def test_an_empty_result_has_no_content(content: Any) -> None:
    found = turns(HI, assistant(None, call()), result(content=content))[2]["content"]

    assert found == [{"type": "tool_result", "tool_use_id": "call_1"}]


def test_parts_of_a_result_become_blocks() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}

    found = turns(HI, assistant(None, call()), result(content=[text("A"), image]))[2]["content"][0]["content"]

    assert found == [text("A"), {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}]


@pytest.mark.parametrize(
    ("fields", "is_error"),
    [({"is_error": True}, True), ({"status": "error"}, True), ({"is_error": False, "status": "ok"}, False)],
)
def test_a_result_can_be_an_error(fields: Any, is_error: bool) -> None:
    found = turns(HI, assistant(None, call()), result(**fields))[2]["content"][0]

    assert found.get("is_error", False) is is_error


def test_function_messages_answer_the_last_function_call() -> None:
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}}

    found = turns(HI, asked, {"role": "function", "name": "f", "content": "ok"}, HI)

    assert found[1]["content"] == [{"type": "tool_use", "id": "call_fn_1", "name": "f", "input": {"a": 1}}]
    assert found[2]["content"][0] == {"type": "tool_result", "tool_use_id": "call_fn_1", "content": "ok"}


# Order


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HI, result()], "messages.[1].role"),
        ([HI, assistant(None, call()), result("other")], "messages.[2].role"),
        ([HI, assistant(None, call()), result(), result()], "messages.[3].role"),
        ([HI, assistant(None, call()), HI], "messages.[1].role"),
        ([HI, assistant(None, call())], "messages.[1].role"),
        ([HI, assistant(None, call("a"), call("b")), result("a")], "messages.[1].role"),
        ([HI, assistant(None, call()), HI, result()], "messages.[1].role"),
        ([HI, {"role": "function", "name": "f", "content": "x"}], "messages.[1].role"),
        ([HI, assistant(function_call={"name": "f", "arguments": ""}), HI], "messages.[1].role"),
    ],
)
def test_a_call_without_its_result_or_the_reverse_is_refused(messages: list[JSONObject], param: str) -> None:
    assert refusal(*messages) == (param, None)


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        (["Hi"], "messages[0]", "invalid_type"),
        ([{"content": "Hi"}], "messages[0].role", "invalid_value"),
        ([{"role": "robot", "content": "Hi"}], "messages[0].role", "invalid_value"),
        ([user(5)], "messages[0].content", "invalid_type"),
        ([HI, assistant(5)], "messages[1].content", "invalid_type"),
        ([HI, assistant(tool_calls="x")], "messages[1].tool_calls", "invalid_type"),
        ([HI, assistant(tool_calls=["x"])], "messages[1].tool_calls[0]", "invalid_type"),
        ([HI, assistant(tool_calls=[{"id": 5}])], "messages[1].tool_calls[0].id", "invalid_type"),
        ([HI, assistant(tool_calls=[{"id": "a"}])], "messages[1].tool_calls[0].function", "invalid_type"),
        (
            [HI, assistant(tool_calls=[{"id": "a", "function": {}}])],
            "messages[1].tool_calls[0].function.name",
            "invalid_type",
        ),
        (
            [HI, assistant(tool_calls=[{"id": "a", "type": "custom", "custom": {}}])],
            "messages[1].tool_calls[0].custom.name",
            "invalid_type",
        ),
        ([HI, assistant(None, call()), {"role": "tool", "content": "x"}], "messages[2].tool_call_id", "invalid_type"),
    ],
)
def test_what_cannot_be_read_is_refused(messages: list[Any], param: str, code: str) -> None:
    assert refusal(*messages) == (param, code)


# Begin and end


def test_a_history_that_starts_with_the_assistant_gets_a_user_turn() -> None:
    made = translated(system("S"), assistant("Yo"), user("Go"))

    assert made.body["messages"][0] == user([text("Continue the conversation below.")])
    assert made.warnings == ("messages",)
    assert refusal(assistant("Yo"), HI, options={"strict": True}) == ("messages[0].role", "unsupported_value")


@pytest.mark.parametrize(("said", "found"), [("Sure: ", "Sure:"), ("Sure", "Sure"), ("A \n\t", "A")])
def test_older_models_go_on_with_a_last_assistant_message(said: str, found: str) -> None:
    assert turns(HI, assistant(said))[-1] == assistant([text(found)])


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-opus-4-8", OPUS, "claude-unknown"])
def test_newer_models_refuse_it(model: str) -> None:
    assert refusal(HI, assistant("Sure"), model=model) == ("messages[1].role", "unsupported_value")


def test_a_json_schema_refuses_it_for_all() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}

    for model in (HAIKU, "claude-sonnet-4"):
        assert refusal(HI, assistant("{"), model=model, response_format=form)[0] == "messages[1].role"


def test_thinking_is_dropped_when_the_answer_is_begun() -> None:
    made = translated(HI, assistant("Sure"), reasoning_effort="low")

    assert "thinking" not in made.body
    assert made.warnings == ("reasoning_effort",)


# Tools that only the history knows


def test_tools_of_the_history_are_declared_when_none_are_given() -> None:
    body = sent(
        HI, assistant(None, call("a", "g"), call("b", "f"), call("c", "g")), result("a"), result("b"), result("c")
    )

    assert body["tools"] == [
        {"name": "g", "input_schema": {"type": "object"}},
        {"name": "f", "input_schema": {"type": "object"}},
    ]
    assert body["tool_choice"] == {"type": "none"}


def test_given_tools_stay_as_they_are() -> None:
    body = sent(HI, assistant(None, call(name="gone")), result(), tools=[function("f")])

    assert [tool["name"] for tool in body["tools"]] == ["f"]
    assert "tool_choice" not in body


# Thinking that is remembered

STORED: list[JSONObject] = [
    SIGNED,
    text("A"),
    HIDDEN,
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
]


def test_what_the_upstream_once_sent_is_sent_back_in_its_place() -> None:
    asked: list[JSONObject] = []

    def replay(message: JSONObject) -> list[JSONObject]:
        asked.append(message)
        return [*STORED, text("")]

    message = assistant("A", call("toolu_1", arguments='{"a":1}'))
    found = turns(HI, message, result("toolu_1"), replay=replay)

    assert asked == [message]
    assert found[1] == assistant(STORED)


@pytest.mark.parametrize("marked", [assistant("A", cache_control=MARK), assistant([text("A", cache_control=MARK)])])
@pytest.mark.parametrize(("last", "mark"), [(text("A"), MARK), (HIDDEN, None)])
def test_what_is_sent_back_keeps_the_clients_mark(marked: JSONObject, last: JSONObject, mark: Any) -> None:
    stored: list[JSONObject] = [SIGNED, text("B"), last]

    found = turns(HI, marked, HI, replay=lambda message: stored)[1]["content"]

    assert [block.get("cache_control") for block in found] == [None, None, mark]
    assert "cache_control" not in last


def test_thinking_blocks_of_the_client_go_before_memory() -> None:
    found = turns(HI, assistant("B", thinking_blocks=[HIDDEN]), HI, replay=lambda message: STORED)

    assert found[1] == assistant([HIDDEN, text("B")])


def test_memory_of_other_calls_gives_its_thinking_only() -> None:
    found = turns(HI, assistant("A", call("other")), result("other"), replay=lambda message: STORED)

    assert [block["type"] for block in found[1]["content"]] == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert found[1]["content"][-1]["id"] == "other"


@pytest.mark.parametrize(
    "block", [{"type": "thinking", "thinking": "x"}, {"type": "redacted_thinking"}, {"type": "text"}, 5]
)
def test_unsigned_thinking_is_dropped_with_a_warning(block: Any) -> None:
    made = translated(HI, assistant("A", thinking_blocks=[block, SIGNED]), HI)

    assert made.body["messages"][1] == assistant([SIGNED, text("A")])
    assert made.warnings == ("messages.thinking_blocks",)


# Marks for the cache


@pytest.mark.parametrize(
    ("holder", "long", "mark"),
    [
        ({"cache_control": {"type": "ephemeral"}}, False, MARK),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, False, MARK),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, True, MARK | {"ttl": "1h"}),
        ({"cache_control": {"type": "ephemeral", "ttl": "5m"}}, True, MARK),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}, True, MARK | {"ttl": "1h"}),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}, False, MARK),
        ({"prompt_cache_breakpoint": {"mode": "explicit"}}, True, MARK),
        ({"prompt_cache_breakpoint": {"mode": "implicit"}}, True, None),
        ({"cache_control": "yes"}, True, None),
    ],
)
def test_a_mark_goes_with_its_part_or_message(holder: Any, long: bool, mark: Any) -> None:
    options = {"long_cache": long}
    on_part = turns(user([text("A", **holder), text("B")]), options=options)[0]["content"]
    on_message = turns(user([text("A"), text("B")], **holder), options=options)[0]["content"]

    assert [block.get("cache_control") for block in on_part] == [mark, None]
    assert [block.get("cache_control") for block in on_message] == [None, mark]


def test_a_mark_on_a_tool_message_is_on_its_block() -> None:
    found = turns(HI, assistant(None, call(), cache_control=MARK), result(cache_control=MARK))

    assert found[1]["content"][-1]["cache_control"] == found[2]["content"][0]["cache_control"] == MARK


def test_of_too_many_marks_those_of_tools_and_system_stay_then_the_latest() -> None:
    made = translated(
        system([text("S", cache_control=MARK)]),
        *(user([text(f"{i}", cache_control=MARK)]) for i in range(5)),
        tools=[function("f") | {"cache_control": MARK}],
    )

    assert made.body["tools"][0]["cache_control"] == made.body["system"][0]["cache_control"] == MARK
    kept = [block["text"] for block in made.body["messages"][0]["content"] if "cache_control" in block]
    assert kept == ["3", "4"]
    assert made.warnings == ("cache_control",)
