"""docs/claude.md says what the code does: it has every parameter that the code knows, and the code keeps to it."""

import re
from pathlib import Path
from typing import Any

import pytest

from one_api.dialects.anthropic.parameters import KNOWN
from one_api.errors import InvalidRequest
from tests.dialects.anthropic.samples import HAIKU, OPUS, function, sent, translated

PAGE = Path(__file__).parents[3] / "docs/claude.md"
TOOLS = [function("f", {"type": "object", "properties": {"a": {"type": "string"}}})]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}

SEARCH = {"web_search": "web_search_20250305"}

#: Parameter -> handling -> a request that shows it. What a request shows by its answer only is not here.
SHOWN: dict[str, dict[str, dict[str, Any]]] = {
    "max_completion_tokens": {"mapped": {"max_completion_tokens": 5}},
    "max_tokens": {"mapped": {"max_tokens": 5}, "warned": {"max_tokens": 5, "max_completion_tokens": 6}},
    "temperature": {
        "mapped": {"temperature": 0.5}, "ignored": {"temperature": 1, "model": OPUS}, "warned": {"temperature": 1.5},
    },
    "top_p": {"mapped": {"top_p": 0.5}, "ignored": {"top_p": 1}, "warned": {"temperature": 0.5, "top_p": 0.5}},
    "top_k": {"mapped": {"top_k": 5}, "warned": {"top_k": 5, "model": OPUS}},
    "stop": {"mapped": {"stop": "x"}},
    "n": {"ignored": {"n": 1}, "refused": {"n": 2}},
    "tools": {"mapped": {"tools": TOOLS}, "warned": {"tools": [function("f", {"anyOf": [SCHEMA]})]}},
    "tool_choice": {
        "mapped": {"tools": TOOLS, "tool_choice": "required"},
        "warned": {"tools": TOOLS, "tool_choice": "required", "model": "claude-opus-5-5"},
        "refused": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
    },
    "parallel_tool_calls": {
        "mapped": {"tools": TOOLS, "parallel_tool_calls": False}, "ignored": {"parallel_tool_calls": False},
    },
    "response_format": {
        "mapped": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        "warned": {"response_format": {"type": "json_object"}},
        "refused": {"response_format": {"type": "xml"}},
    },
    "reasoning_effort": {"mapped": {"reasoning_effort": "low"}, "warned": {"reasoning_effort": "low", "max_tokens": 9}},
    "reasoning": {
        "mapped": {"reasoning": {"effort": "low"}},
        "warned": {"reasoning": {"effort": "low"}, "max_tokens": 9},
    },
    "output_config": {
        "mapped": {"output_config": {"effort": "low"}, "model": "claude-opus-5"},
        "warned": {"output_config": {"effort": "low"}},
    },
    "thinking": {
        "mapped": {"thinking": {"type": "adaptive"}},
        "warned": {"thinking": {"type": "enabled"}, "tools": TOOLS, "tool_choice": "required"},
    },
    "user": {"mapped": {"user": "u"}},
    "safety_identifier": {"mapped": {"safety_identifier": "u"}},
    "metadata": {"ignored": {"metadata": {"a": "b"}}},
    "service_tier": {"mapped": {"service_tier": "auto"}, "warned": {"service_tier": "flex"}},
    "prompt_cache_key": {"ignored": {"prompt_cache_key": "k"}},
    "prompt_cache_retention": {"ignored": {"prompt_cache_retention": "24h"}},
    "prompt_cache_options": {"ignored": {"prompt_cache_options": {"mode": "implicit"}}},
    "frequency_penalty": {"ignored": {"frequency_penalty": 0}, "warned": {"frequency_penalty": 1}},
    "presence_penalty": {"ignored": {"presence_penalty": 0}, "warned": {"presence_penalty": 1}},
    "seed": {"warned": {"seed": 1}},
    "logit_bias": {"ignored": {"logit_bias": {}}, "warned": {"logit_bias": {"1": 1}}},
    "logprobs": {"ignored": {"logprobs": False}, "refused": {"logprobs": True}},
    "top_logprobs": {"ignored": {"top_logprobs": 0}, "refused": {"top_logprobs": 2}},
    "verbosity": {"ignored": {"verbosity": "medium"}, "warned": {"verbosity": "high"}},
    "prediction": {"ignored": {"prediction": {"type": "content", "content": "x"}}},
    "store": {"ignored": {"store": False}, "warned": {"store": True}},
    "modalities": {"ignored": {"modalities": ["text"]}, "refused": {"modalities": ["audio"]}},
    "audio": {"refused": {"audio": {"voice": "alloy"}}},
    "moderation": {
        "warned": {"moderation": {"model": "m"}},
        "refused": {"moderation": {"policy": {"input": {"mode": "block"}}}},
    },
    "web_search_options": {
        "mapped": {"web_search_options": {}, "options": SEARCH},
        "warned": {"web_search_options": {"search_context_size": "high"}, "options": SEARCH},
        "refused": {"web_search_options": {}},
    },
}  # fmt: skip


#: The rows of the page's table: the feature, and its handlings.
ROWS = [
    (feature.strip(), set(handling.strip().split(", ")))
    for line in PAGE.read_text(encoding="utf-8").split("\n## ")[0].splitlines()
    if line.startswith("| ")
    for feature, handling in [line.split("|")[1:3]]
][1:]
PARAMETERS = [(feature, handling) for feature, handling in ROWS if re.fullmatch("[a-z_]+", feature)]


def test_the_page_has_every_parameter_that_the_code_knows() -> None:
    assert {feature for feature, _ in PARAMETERS} == KNOWN


def test_no_feature_stands_there_twice() -> None:
    features = [feature for feature, _ in ROWS]

    assert len(features) > len(KNOWN)
    assert len(set(features)) == len(features)


def test_a_feature_is_handled_in_ways_that_the_page_explains() -> None:
    for _, handling in ROWS:
        assert handling
        assert handling <= {"mapped", "emulated", "ignored", "warned", "refused"}


def outcome(name: str, fields: dict[str, Any]) -> str:
    """Tell how a parameter was handled: by what the request becomes with and without it."""
    model = fields.get("model", HAIKU)
    try:
        made = translated(**{"model": model} | fields)
    except InvalidRequest as error:
        assert error.param is not None and error.param.startswith(name)
        return "refused"
    if made.warnings:
        assert made.warnings == (name,)
        return "warned"
    without = {key: value for key, value in fields.items() if key != name}
    return "ignored" if made.body == sent(**{"model": model} | without) else "mapped"


@pytest.mark.parametrize(
    ("name", "handling"), [(name, handling) for name, shown in SHOWN.items() for handling in shown]
)
def test_a_parameter_is_handled_as_its_row_says(name: str, handling: str) -> None:
    assert outcome(name, SHOWN[name][handling]) == handling


@pytest.mark.parametrize(("name", "handling"), PARAMETERS)
def test_no_handling_of_a_row_is_left_unshown(name: str, handling: set[str]) -> None:
    if name in SHOWN:
        assert set(SHOWN[name]) == handling - {"emulated"}
    else:
        assert name in ("model", "messages", "stream", "stream_options", "functions", "function_call")
