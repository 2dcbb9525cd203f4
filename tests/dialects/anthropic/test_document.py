"""docs/claude.md says what the code does: its table is the code's, and the code keeps to it."""

from pathlib import Path
from typing import Any

import pytest

from one_api.dialects.anthropic.policy import FEATURES, PARAMETERS
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


def test_the_page_has_the_rows_of_the_code() -> None:
    lines = PAGE.read_text(encoding="utf-8").split("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]

    assert rows == [
        f"| {row.feature} | {', '.join(row.handling)} | {row.becomes} | {row.rule} |" for row in PARAMETERS + FEATURES
    ]


def test_no_feature_stands_there_twice() -> None:
    features = [row.feature for row in PARAMETERS + FEATURES]

    assert len(set(features)) == len(features)


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


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.feature)
def test_no_handling_of_a_row_is_left_unshown(row: Any) -> None:
    if row.feature in SHOWN:
        assert set(SHOWN[row.feature]) == set(row.handling) - {"emulated"}
    else:
        assert row.feature in ("model", "messages", "stream", "stream_options", "functions", "function_call")
