"""What the local engine is asked, and what it is never asked."""

from typing import Any

import pytest

from one_api.dialects.llama.request import LocalRequest, Model, read_request
from one_api.errors import InvalidRequest

USER = {"role": "user", "content": "Hello"}
MODEL = Model(context_tokens=100, default_max_tokens=20)


def read(model: Model = MODEL, messages: list[Any] | None = None, **more: Any) -> LocalRequest:
    """Read a request with one message."""
    return read_request({"messages": messages or [USER], **more}, model)


def test_defaults_are_those_of_openai_and_not_of_the_engine() -> None:
    assert read().body == {
        "messages": [USER], "max_tokens": 20, "stream": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "min_p": 0.0, "repeat_penalty": 1.0,
    }  # fmt: skip


def test_the_models_defaults_win_over_openais_and_the_requests_over_both() -> None:
    model = Model(100, 20, {"temperature": 0.2, "top_p": 0.9})

    body = read(model, temperature=0.7, top_p=None).body

    assert (body["temperature"], body["top_p"]) == (0.7, 0.9)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, 20),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 2**40}, 100),
    ],
)
def test_an_answer_always_has_a_limit(given: dict[str, Any], sent: int) -> None:
    body = read(**given).body

    assert body["max_tokens"] == sent
    assert "max_completion_tokens" not in body


def test_only_known_parameters_reach_the_engine() -> None:
    given: dict[str, Any] = {
        "id_slot": 3, "n_predict": -1, "lora": [], "user": "u", "metadata": {}, "store": True, "top_k": 5,
        "repetition_penalty": 1.2, "x\r\ny": 1,
    }  # fmt: skip

    request = read(**given)

    assert request.body.keys() - read().body.keys() == set()
    assert (request.body["top_k"], request.body["repeat_penalty"]) == (5, 1.2)
    assert request.dropped == ["id_slot", "n_predict", "lora"]


@pytest.mark.parametrize(("seed", "sent"), [(5, [5, 6]), (-1, [2**32 - 2, 0]), (2**32 - 2, [2**32 - 2, 0])])
def test_seeds_of_choices_differ_and_never_mean_any(seed: int, sent: list[int]) -> None:
    request = read(seed=seed, n=2)

    assert [request.seed_of(index)["seed"] for index in range(request.n)] == sent
    assert "seed" not in request.body


def test_without_a_seed_none_is_sent() -> None:
    assert read().seed_of(1) == {}


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"presence_penalty": -3}, "presence_penalty", "decimal_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 1.0}, "n", "invalid_type"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "integer_below_min_value"),
        ({"seed": 0.5}, "seed", "invalid_type"),
        ({"logprobs": "yes"}, "logprobs", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"logit_bias": []}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"Hello": 5}}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"-5": 5}}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"5": "much"}}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"logit_bias": {"٣": 5}}, "logit_bias", "invalid_type"),
        ({"grammar": "%llguidance {}\nstart: %json {"}, "grammar", "unsupported_value"),
        ({"repeat_penalty": 0}, "repeat_penalty", "decimal_below_min_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": [1]}, "stop", "invalid_type"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"web_search_options": {"a": 1}}, "web_search_options", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
         "response_format.json_schema.schema", "invalid_type"),
        ({"tools": [1]}, "tools[0]", "invalid_type"),
        ({"tools": [TOOL, {"type": "custom"}]}, "tools[1].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "invalid_type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "invalid_type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
         "tools[0].function.parameters", "invalid_type"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_engine_would_misunderstand_is_refused(given: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**given)

    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages[1].content[0].text"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[1].tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
         "messages[1].tool_calls[0].function.arguments"),
    ],
    ids=str,
)  # fmt: skip
def test_messages_that_the_engine_would_choke_on_are_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(messages=[USER, message])

    assert caught.value.param == param


def test_refusals_become_text() -> None:
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}

    assert read(messages=[said, USER]).body["messages"][0]["content"] == [{"type": "text", "text": "No."}]


def test_a_header_that_poses_as_a_system_message_is_left_out() -> None:
    header = {"role": "system", "content": "x-anthropic-billing-header: cc_version=2; cch=1f"}

    assert read(messages=[header, USER]).body["messages"] == [USER]


def test_the_request_itself_stays_as_it_is() -> None:
    body = {"messages": [USER], "temperature": None, "repetition_penalty": 1.1}

    read_request(body, MODEL)

    assert body == {"messages": [USER], "temperature": None, "repetition_penalty": 1.1}


@pytest.mark.parametrize(("given", "sent"), [("", None), ([], None), ([""], None), ("a", ["a"]), (["", "a"], ["a"])])
def test_an_empty_stop_string_stops_nothing(given: Any, sent: list[str] | None) -> None:
    request = read(stop=given)

    assert request.body.get("stop") == sent
    assert request.dropped == []
