"""Responses requests in chat's words."""

from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

from .bed import FUNCTION, SEALER, asked, call, output, said, translated

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="


def messages(given: Any, **fields: Any) -> list[JSONObject]:
    """The messages that an input becomes."""
    return list(asked(given, **fields).chat.body["messages"])


def refusal(**body: Any) -> InvalidRequest:
    """The error that a body is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        translated({"model": "m", **body})
    return caught.value


def test_a_text_is_one_user_message() -> None:
    assert messages("hi") == [said("user", "hi")]


def test_instructions_come_first_and_developers_speak_as_the_system() -> None:
    given = [said("developer", "Be kind."), said("user", "hi")]

    assert messages(given, instructions="Be brief.") == [
        said("system", "Be brief."), said("system", "Be kind."), said("user", "hi")
    ]  # fmt: skip


def test_the_calls_of_one_turn_are_one_message() -> None:
    given = [said("user", "go"), call("a"), call("b"), output("a", "1"), output("b", "2")]

    turn, *results = messages(given)[1:]

    assert [each["id"] for each in turn["tool_calls"]] == ["a", "b"]
    assert turn["content"] is None
    assert results == [
        {"role": "tool", "tool_call_id": "a", "content": "1"}, {"role": "tool", "tool_call_id": "b", "content": "2"}
    ]  # fmt: skip


def test_call_and_output_by_turns_are_two_turns() -> None:
    found = messages([said("user", "go"), call("a"), output("a"), call("b"), output("b")])

    assert [each["role"] for each in found] == ["user", "assistant", "tool", "assistant", "tool"]


def test_text_before_and_after_a_call_is_of_the_same_turn() -> None:
    given = [said("user", "go"), said("assistant", "Look:"), call("a"), said("assistant", "So."), output("a")]

    turn = messages(given)[1]

    assert [part["text"] for part in turn["content"]] == ["Look:", "So."]
    assert len(turn["tool_calls"]) == 1


def test_a_user_message_between_a_call_and_its_output_comes_after_it() -> None:
    found = messages([said("user", "go"), call("a"), said("user", "wait"), output("a")])

    assert [each["role"] for each in found] == ["user", "assistant", "tool", "user"]


def test_one_id_may_be_used_again_in_a_later_turn() -> None:
    found = messages([said("user", "go"), call("a"), output("a", "1"), call("a"), output("a", "2")])

    assert [each["content"] for each in found if each["role"] == "tool"] == ["1", "2"]


@pytest.mark.parametrize(
    "given",
    [
        [said("user", "go"), call("a")],
        [said("user", "go"), output("a")],
        [said("user", "go"), output("a"), call("a")],
        [said("user", "go"), call("a"), output("b")],
    ],
    ids=["no output", "no call", "output first", "another id"],
)
def test_calls_and_outputs_must_match(given: list[JSONObject]) -> None:
    error = refusal(input=given)

    assert (error.status, error.param, error.code) == (400, "input", None)


def test_reasoning_without_a_carrier_is_ignored() -> None:
    empty: JSONObject = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None}

    assert messages([said("user", "hi"), empty, said("assistant", "yes"), said("user", "so?")])[1] == (
        said("assistant", "yes")
    )


def sealed(**content: Any) -> JSONObject:
    """A reasoning item that carries this."""
    return {"type": "reasoning", "summary": [], "encrypted_content": SEALER.seal({"model": "m", **content})}


def opened(given: list[JSONObject]) -> list[JSONObject]:
    """The messages of an input whose carriers can be opened."""
    body = {"model": "m", "input": given}
    return list(translated(body, unseal=SEALER.open).chat.body["messages"])


def test_claudes_thinking_comes_back_as_it_was() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}

    found = opened([said("user", "hi"), sealed(blocks=[block]), call("a"), output("a"), said("user", "and?")])

    assert found[1]["thinking_blocks"] == [block]


def test_reasoning_in_words_comes_back_for_the_calls_under_way_only() -> None:
    first = [said("user", "hi"), sealed(text="one"), call("a"), output("a"), said("assistant", "so")]
    second = [said("user", "go on"), sealed(text="two"), call("b"), output("b")]

    found = opened([*first, *second])

    assert [each.get("reasoning_content") for each in found if each["role"] == "assistant"] == [None, None, "two"]


def test_the_reasoning_of_another_model_is_dropped() -> None:
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": SEALER.seal({"model": "x", "text": "hm"})}

    found = opened([said("user", "hi"), foreign, call("a"), output("a")])

    assert "reasoning_content" not in found[1]


def test_text_images_and_files_keep_their_order() -> None:
    parts = [
        {"type": "input_text", "text": "before"},
        {"type": "input_image", "image_url": PNG, "detail": "original"},
        {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
        {"type": "input_text", "text": "after"},
    ]

    (message,) = messages([{"role": "user", "content": parts}])

    assert message["content"] == [
        {"type": "text", "text": "before"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "original"}},
        {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
        {"type": "text", "text": "after"},
    ]


def test_an_image_in_an_output_is_shown_by_a_user_message() -> None:
    parts = [{"type": "input_text", "text": "a file"}, {"type": "input_image", "image_url": PNG}]

    *_, result, shown = messages([said("user", "go"), call("a"), output("a", parts)])

    assert result["content"].startswith("a file\n[The image is in")
    assert shown == {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}


def test_text_formats_are_nested_as_chat_has_them() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}

    body = asked(text={"format": form, "verbosity": "low"}).chat.body

    assert body["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}
    }  # fmt: skip
    assert body["verbosity"] == "low"


def test_parameters_go_under_chats_names() -> None:
    body = asked(
        max_output_tokens=50, temperature=0.5, reasoning={"effort": "low"}, top_logprobs=2, prompt_cache_key="k"
    ).chat.body

    assert body == {
        "model": "m", "messages": [said("user", "hi")], "temperature": 0.5, "prompt_cache_key": "k",
        "max_completion_tokens": 50, "reasoning_effort": "low", "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip


def test_what_is_not_known_goes_nowhere() -> None:
    body = asked(client_metadata={"a": "b"}, foo=1, store=False, include=["reasoning.encrypted_content"]).chat.body

    assert body == {"model": "m", "messages": [said("user", "hi")]}


def test_a_stream_asks_for_its_usage() -> None:
    request = asked(stream=True).chat

    assert (request.stream, request.include_usage) == (True, True)


def test_what_changes_the_answer_and_cannot_be_had_is_named() -> None:
    found = asked(truncation="auto", reasoning={"mode": "pro"}, include=["web_search_call.action.sources"])

    assert found.warnings == ("truncation", "include", "reasoning.mode")


def test_the_last_update_of_the_configuration_counts() -> None:
    updates = [{"type": "configuration_update", "reasoning": {"effort": effort}} for effort in ("low", "high")]

    assert asked([said("user", "hi"), *updates]).chat.body["reasoning_effort"] == "high"


def test_work_that_ran_elsewhere_is_told_as_text() -> None:
    ran = {"type": "code_interpreter_call", "id": "ci", "outputs": [{"logs": "4"}]}
    searched = {"type": "web_search_call", "id": "ws", "status": "completed"}

    request = asked([said("user", "hi"), ran, searched, said("user", "so?")])

    assert request.chat.body["messages"][1] == said("assistant", '[code_interpreter_call: [{"logs":"4"}]]')
    assert request.warnings == ("input[1]", "input[2]")


def test_the_history_comes_before_the_input() -> None:
    request = translated(
        {"model": "m", "input": "and?", "previous_response_id": "resp_1"},
        history=[said("user", "hi"), said("assistant", "yes")],
    )

    assert [each["content"] for each in request.chat.body["messages"]] == ["hi", "yes", "and?"]
    assert request.items == [{"type": "message", "role": "user", "content": "and?"}]


def test_paths_count_from_the_clients_own_input() -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated({"model": "m", "input": [{"type": "odd"}]}, history=[said("user", "hi")])

    assert (caught.value.param, caught.value.code) == ("input[0].type", "invalid_value")


@pytest.mark.parametrize("type_", [{"type": "item_reference"}, {"type": None}, {}], ids=["named", "null", "absent"])
def test_a_reference_stands_for_an_item_that_is_kept(type_: JSONObject) -> None:
    kept = {"msg_1": said("assistant", "yes")}
    given = [said("user", "hi"), {"id": "msg_1", **type_}, said("user", "so?")]

    found = translated({"model": "m", "input": given}, find_item=kept.get)

    assert found.chat.body["messages"][1] == said("assistant", "yes")
    assert refusal(input=given).param == "input"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": "hi", "background": True}, "background", "unsupported_value"),
        ({"input": "hi", "conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"input": "hi", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"input": "hi", "previous_response_id": "r", "conversation": "c"}, "previous_response_id",
         "mutually_exclusive_parameters"),
        ({"input": "hi", "text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"input": "hi", "stream": "yes"}, "stream", "invalid_type"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "odd"}]}]}, "input[0].content[0].type", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id", "unsupported_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text",
         "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].input_audio",
         "missing_required_parameter"),
        ({"input": "hi", "tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"input": "hi", "tools": [{"type": "function", "name": 5}]}, "tools[0].name", "invalid_type"),
        ({"input": ["hi"]}, "input[0]", "invalid_type"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(body: JSONObject, param: str, code: str) -> None:
    error = refusal(**body)

    assert (error.status, error.param, error.code) == (400, param, code)


def test_messages_belong_to_another_address() -> None:
    assert "/v1/chat/completions" in refusal(messages=[said("user", "hi")]).message


def test_the_echo_repeats_the_request_and_fills_in_defaults() -> None:
    found = asked(instructions="x", tools=[FUNCTION], metadata={"a": "b"}).echo

    assert (found["instructions"], found["tools"], found["metadata"]) == ("x", [FUNCTION], {"a": "b"})
    assert (found["temperature"], found["tool_choice"], found["parallel_tool_calls"]) == (1, "auto", True)


def test_what_is_lost_of_the_history_is_named_by_what_it_is_of() -> None:
    image = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"}

    found = translated({"model": "m", "input": "and now?"}, history=[said("user", "draw"), image])

    assert found.warnings == ("previous_response_id",)
