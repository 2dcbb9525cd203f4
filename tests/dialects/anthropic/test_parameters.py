"""Each parameter of OpenAI is mapped, emulated, without effect, warned about or refused: row by row."""

from typing import Any

import pytest

from one_api.dialects.anthropic.request import RequestOptions
from tests.dialects.anthropic.samples import (
    FORCELESS,
    HAIKU,
    HI,
    OPUS,
    assistant,
    call,
    refusal,
    result,
    sent,
    translated,
)

UNKNOWN = "claude-none-such"


# The limit


@pytest.mark.parametrize(
    ("fields", "model", "limit", "warned"),
    [
        ({}, HAIKU, 64_000, ()),
        ({}, OPUS, 128_000, ()),
        ({}, "claude-3-5-haiku-20241022", 8_192, ()),
        ({"max_tokens": 5}, HAIKU, 5, ()),
        ({"max_completion_tokens": 7}, HAIKU, 7, ()),
        ({"max_tokens": 7, "max_completion_tokens": 7}, HAIKU, 7, ()),
        ({"max_tokens": 5, "max_completion_tokens": 7}, HAIKU, 7, ("max_tokens",)),
        ({"max_tokens": None, "max_completion_tokens": None}, HAIKU, 64_000, ()),
        ({"max_tokens": 999_999_999}, HAIKU, 999_999_999, ()),
        ({"options": {"default_max_tokens": 99}}, HAIKU, 64_000, ()),
        ({"options": {"default_max_tokens": 99}}, "other", 99, ()),
    ],
)
def test_the_limit_is_the_clients_or_the_models(fields: Any, model: str, limit: int, warned: tuple[str, ...]) -> None:
    found = translated(model=model, **fields)

    assert (found.body["max_tokens"], found.warnings) == (limit, warned)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("value", "code"), [(0, "integer_below_min_value"), (-1, "integer_below_min_value"), (True, "invalid_type"),
                        (1.5, "invalid_type"), ("9", "invalid_type")],
)  # fmt: skip
def test_a_limit_must_be_a_count(name: str, value: Any, code: str) -> None:
    assert refusal(**{name: value}) == (name, code)


def test_a_limit_that_nobody_knows_is_asked_for() -> None:
    assert refusal(model="other") == ("max_completion_tokens", "missing_required_parameter")


# Sampling


@pytest.mark.parametrize(
    ("fields", "found", "warned"),
    [
        ({"temperature": 0.3}, {"temperature": 0.3}, ()),
        ({"temperature": 0}, {"temperature": 0}, ()),
        ({"temperature": 1.7}, {"temperature": 1}, ("temperature",)),
        ({"temperature": None, "top_p": None, "top_k": None}, {}, ()),
        ({"top_p": 0.5}, {"top_p": 0.5}, ()),
        ({"top_p": 1}, {}, ()),
        ({"temperature": 1, "top_p": 0.5}, {"top_p": 0.5}, ()),
        ({"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5}, ("top_p",)),
        ({"temperature": 0.5, "top_p": 1.0}, {"temperature": 0.5}, ()),
        ({"top_k": 40}, {"top_k": 40}, ()),
        ({"temperature": 0.2, "reasoning_effort": "low"}, {}, ("temperature",)),
        ({"temperature": 1, "reasoning_effort": "low"}, {"temperature": 1}, ()),
        ({"top_p": 0.5, "reasoning_effort": "low"}, {}, ("top_p",)),
        ({"top_p": 0.96, "reasoning_effort": "low"}, {"top_p": 0.96}, ()),
        ({"top_k": 4, "reasoning_effort": "low"}, {}, ("top_k",)),
    ],
)
def test_older_models_take_sampling(fields: Any, found: Any, warned: tuple[str, ...]) -> None:
    made = translated(**fields)

    sampled = {key: made.body[key] for key in ("temperature", "top_p", "top_k") if key in made.body}
    assert (sampled, made.warnings) == (found, warned)


@pytest.mark.parametrize(
    ("model", "options"), [(OPUS, {}), ("claude-opus-4-7", {}), (UNKNOWN, {}), (HAIKU, {"version": "2026-10-21"})]
)
@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"temperature": 0}, ("temperature",)),
        ({"temperature": 1}, ()),
        ({"temperature": 1.0, "top_p": 1}, ()),
        ({"top_p": 0.9}, ("top_p",)),
        ({"top_k": 3}, ("top_k",)),
    ],
)
def test_newer_models_and_versions_take_none(model: str, options: Any, fields: Any, warned: tuple[str, ...]) -> None:
    made = translated(model=model, options=options, **fields)

    assert not {"temperature", "top_p", "top_k"} & set(made.body)
    assert made.warnings == warned
    if warned:
        strict = refusal(model=model, options=options | {"strict": True}, **fields)
        assert strict == (warned[0], "unsupported_value")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"temperature": 2.1}, "decimal_above_max_value"),
        ({"temperature": -0.1}, "decimal_below_min_value"),
        ({"top_p": 1.1}, "decimal_above_max_value"),
        ({"temperature": "1"}, "invalid_type"),
        ({"top_p": True}, "invalid_type"),
        ({"top_k": 1.5}, "invalid_type"),
    ],
)
def test_sampling_must_be_a_number_in_range(fields: Any, code: str) -> None:
    assert refusal(**fields) == (next(iter(fields)), code)


# Stop strings


@pytest.mark.parametrize(
    ("stop", "found", "blank"),
    [
        ("END", ["END"], ()),
        (["a", None, "", "b", "a"], ["a", "b"], ()),
        (["a", "\n", "  "], ["a"], ("\n", "  ")),
        ("\n\n", None, ("\n\n",)),
        ([], None, ()),
        (None, None, ()),
        ("", None, ()),
    ],
)
def test_stop_strings_are_sent_or_looked_for(stop: Any, found: Any, blank: tuple[str, ...]) -> None:
    made = translated(stop=stop)

    assert (made.body.get("stop_sequences"), made.response.stops, made.warnings) == (found, blank, ())


@pytest.mark.parametrize("stop", [5, [5], {"a": 1}, [["a"]]])
def test_a_stop_string_must_be_one(stop: Any) -> None:
    assert refusal(stop=stop) == ("stop", "invalid_type")


# The end user, the tier


def test_the_user_is_hashed_with_the_gateways_secret() -> None:
    one = sent(user="a@b.example", options={"user_secret": b"k"})["metadata"]["user_id"]
    other = sent(user="a@b.example", options={"user_secret": b"l"})["metadata"]["user_id"]

    assert len(one) == 64 and int(one, 16) and one != other
    assert sent(user="a@b.example", options={"user_secret": b"k"})["metadata"] == {"user_id": one}


def test_the_safety_identifier_goes_before_the_user() -> None:
    assert sent(user="u", safety_identifier="s")["metadata"] == sent(user="s")["metadata"]
    assert sent(user="u", safety_identifier="")["metadata"] == sent(user="u")["metadata"]
    assert "metadata" not in sent(user="", safety_identifier=None, metadata={"a": "b"})


@pytest.mark.parametrize(
    ("tier", "found", "warned"),
    [
        ("auto", "auto", ()),
        ("default", "standard_only", ()),
        (None, None, ()),
        ("flex", None, ("service_tier",)),
        ("fast", None, ("service_tier",)),
        ("priority", None, ("service_tier",)),
    ],
)
def test_the_tier_is_translated(tier: Any, found: Any, warned: tuple[str, ...]) -> None:
    made = translated(service_tier=tier)

    assert (made.body.get("service_tier"), made.warnings) == (found, warned)


# What has no counterpart


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}, {"n": 1}, {"n": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0}, {"frequency_penalty": None}, {"logit_bias": {}},
        {"logit_bias": None}, {"seed": None}, {"logprobs": False, "top_logprobs": 0}, {"verbosity": "medium"},
        {"prediction": {"type": "content", "content": "x"}}, {"store": False}, {"modalities": ["text"]},
        {"audio": None}, {"moderation": None}, {"web_search_options": None}, {"metadata": {"a": "b"}},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"}},
        {"response_format": None}, {"response_format": {"type": "text"}}, {"parallel_tool_calls": False},
        {"parallel_tool_calls": True}, {"tools": None}, {"tools": []}, {"functions": []}, {"foo": None},
        {"reasoning_effort": None}, {"thinking": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_has_no_effect_leaves_no_trace(fields: Any) -> None:
    made = translated(options={"strict": True}, **fields)

    assert made == translated()
    assert made.body == {
        "model": HAIKU,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"frequency_penalty": 0.5}, "unsupported_parameter"),
        ({"presence_penalty": -1}, "unsupported_parameter"),
        ({"seed": 0}, "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "unsupported_parameter"),
        ({"verbosity": "low"}, "unsupported_parameter"),
        ({"store": True}, "unsupported_parameter"),
        ({"moderation": {"model": "m", "policy": {"input": {"mode": "score"}}}}, "unsupported_parameter"),
        ({"min_p": 0.1}, "unknown_parameter"),
        ({"chat_template_kwargs": {}}, "unknown_parameter"),
    ],
)
def test_what_is_dropped_is_warned_about_or_refused_when_strict(fields: Any, code: str) -> None:
    (name,) = fields
    made = translated(**fields)

    assert made.warnings == (name,)
    assert made.body == sent()
    assert refusal(options={"strict": True}, **fields) == (name, code)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": 2}, "unsupported_value"),
        ({"n": 0}, "integer_below_min_value"),
        ({"n": True}, "invalid_type"),
        ({"n": "1"}, "invalid_type"),
        ({"logprobs": True}, "unsupported_parameter"),
        ({"top_logprobs": 3}, "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "unsupported_parameter"),
        ({"web_search_options": {}}, "unsupported_parameter"),
        ({"moderation": {"policy": {"output": {"mode": "block"}}}}, "unsupported_parameter"),
        ({"user": 5}, "invalid_type"),
        ({"service_tier": []}, "invalid_type"),
    ],
)
def test_what_cannot_be_given_is_refused(fields: Any, code: str) -> None:
    assert refusal(**fields) == (next(iter(fields)), code)


def test_a_warning_is_fit_for_a_header() -> None:
    unknown: dict[str, Any] = {"a\r\nset-cookie: x": 1, "ключ": 1, "x" * 99: 1, "good.one": 1}

    assert translated(**unknown, seed=1).warnings == ("seed", "unknown_parameter", "good.one")


def test_warnings_have_a_limit() -> None:
    unknown: dict[str, Any] = {f"x{i}": 1 for i in range(1000)}

    assert len(translated(**unknown).warnings) == 40


def test_options_do_not_show_the_secret() -> None:
    assert "hush" not in repr(RequestOptions(user_secret=b"hush"))


def test_the_upstream_always_streams_in_a_fixed_order_of_keys() -> None:
    body = sent(
        {"role": "system", "content": "S"}, HI, assistant(None, call()), result(), model="claude-opus-4-6",
        temperature=1, stop="x", user="u", service_tier="auto", reasoning_effort="low", stream=False,
    )  # fmt: skip

    assert list(body) == [
        "model", "max_tokens", "temperature", "thinking", "output_config", "stop_sequences", "metadata",
        "service_tier", "tools", "tool_choice", "system", "messages", "stream",
    ]  # fmt: skip
    assert body["stream"] is True


def test_the_name_of_the_model_is_the_upstreams() -> None:
    assert sent(model=FORCELESS)["model"] == FORCELESS
