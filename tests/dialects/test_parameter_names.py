"""What parameters are called in each dialect."""

from collections.abc import Mapping
from typing import Any

import pytest

from one_api.dialects.llama.request import Model, read_request
from one_api.dialects.parameter_names import (
    IN_MESSAGES,
    IN_RESPONSES,
    find_foreign,
    in_messages,
    in_responses,
    with_own_names,
    without_positions,
)
from one_api.errors import InvalidRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "responses", "messages"),
    [
        ("max_completion_tokens", "max_output_tokens", "max_tokens"),
        ("response_format", "text.format", "output_config.format"),
        ("response_format.json_schema.schema", "text.format.schema", "output_config.format.schema"),
        ("response_format.type", "text.format.type", "output_config.format.type"),
        ("reasoning_effort", "reasoning.effort", "output_config.effort"),
        ("tools[3].function.parameters", "tools[3].parameters", "tools.3.input_schema"),
        ("tools[3].function.name", "tools[3].name", "tools.3.name"),
        ("tools.function.parameters", "tools.parameters", "tools.input_schema"),
        ("max_tokens_of_ours", "max_tokens_of_ours", "max_tokens_of_ours"),
        ("temperature", "temperature", "temperature"),
        ("stop", "stop", "stop_sequences"),
        ("stop[1]", "stop[1]", "stop_sequences[1]"),
        ("logprobs", "include", "logprobs"),
        ("tool_choice.function.name", "tool_choice.name", "tool_choice.name"),
        ("tool_choice.allowed_tools.mode", "tool_choice.mode", "tool_choice.allowed_tools.mode"),
        ("stream_options.include_usage", "stream.include_usage", "stream.include_usage"),
        ("user", "user", "metadata.user_id"),
    ],
)
def test_paths_are_those_of_the_door(path: str, responses: str, messages: str) -> None:
    assert (in_responses(path), in_messages(path)) == (responses, messages)


def test_paths_in_a_message_stand_in_backticks() -> None:
    message = "`response_format.type` or `max_tokens`, not max_tokens, `{a: 1}` or ` `."

    assert with_own_names(message, in_responses) == (
        "`text.format.type` or `max_output_tokens`, not max_tokens, `{a: 1}` or ` `."
    )


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Invalid value: 'messages[3].content[0].type'.", "Invalid value: 'messages.content.type'."),
        ("messages.3.content.1.image: over 5 MB", "messages.content.image: over 5 MB"),
        ("body -> messages -> 3 -> content", "body -> messages -> content"),
        ("input[2].content and tools.0.name", "input.content and tools.name"),
        ("messages.[4].role", "messages.role"),
        ("The input. 3 of 4 messages. 5 tools", "The input. 3 of 4 messages. 5 tools"),
    ],
)
def test_positions_are_taken_out_of_paths_alone(text: str, without: str) -> None:
    assert without_positions(text) == without


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("web_search_options", {}, True),
        ("web_search_options", None, False),
        ("response_format", {}, False),
        ("stop", [], False),
        ("parallel_tool_calls", True, False),
        ("n", 1, False),
    ],
)
@pytest.mark.parametrize("words", [IN_RESPONSES, IN_MESSAGES])
def test_a_word_of_another_dialect_that_asks_for_nothing_is_none(
    words: Mapping[str, str], name: str, value: Any, asks: bool
) -> None:
    assert (find_foreign({name: value}, words) is not None) == asks


@pytest.mark.parametrize("name", ["system", "stop_sequences", "max_output_tokens", "instructions", "output_format"])
def test_a_local_model_refuses_words_of_other_dialects(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_request({**CHAT, name: "x"}, Model(2048, 100))

    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_what_nobody_knows_is_only_warned_of() -> None:
    assert read_request({**CHAT, "foo": 1, "text": None}, Model(2048, 100)).dropped == ["foo"]
