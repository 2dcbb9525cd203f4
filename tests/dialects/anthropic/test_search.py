"""``web_search_options``: the upstream's own tool, where the operator allows it."""

from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from tests.dialects.anthropic.samples import (
    FORCELESS,
    assistant,
    call,
    function,
    refusal,
    result,
    sent,
    translated,
    user,
)

ALLOWED = {"web_search": "web_search_20250305"}
F = function("f", {"type": "object", "properties": {"a": {"type": "string"}}})
TOOL: JSONObject = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize("given", [{}, {"search_context_size": "medium"}, {"user_location": None}])
def test_a_search_is_the_upstreams_own_tool(given: JSONObject) -> None:
    made = translated(web_search_options=given, options=ALLOWED)

    assert (made.body["tools"], made.warnings) == ([TOOL], ())
    assert "tool_choice" not in made.body


def test_where_the_user_is() -> None:
    place = {"city": "Bern", "country": "CH", "region": None, "timezone": "Europe/Zurich"}
    location = {"type": "approximate", "approximate": place}

    (tool,) = sent(web_search_options={"user_location": location}, options=ALLOWED)["tools"]

    assert tool["user_location"] == {
        "type": "approximate", "city": "Bern", "country": "CH", "timezone": "Europe/Zurich"
    }  # fmt: skip


def test_it_follows_the_clients_tools() -> None:
    body = sent(tools=[function("f")], parallel_tool_calls=False, web_search_options={}, options=ALLOWED)

    assert [tool["name"] for tool in body["tools"]] == ["f", "web_search"]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    "given", [{"search_context_size": "high"}, {"search_context_size": "low"}, {"filters": {"allowed_domains": []}}]
)
def test_what_cannot_be_chosen_is_warned_about(given: JSONObject) -> None:
    made = translated(web_search_options=given, options=ALLOWED)

    assert (made.body["tools"], made.warnings) == ([TOOL], ("web_search_options",))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [function("f")], "tool_choice": "required"},
        {"tools": [function("f")], "tool_choice": "none"},
        {"tools": [function("f")], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [F], "tool_choice": {"type": "function", "function": {"name": "f"}}, "model": FORCELESS},
    ],
)
def test_it_is_dropped_while_tools_are_forced_or_forbidden(fields: JSONObject) -> None:
    made = translated(web_search_options={}, **fields, options=ALLOWED)

    assert [tool["name"] for tool in made.body["tools"]] == ["f"]
    assert made.warnings == ("web_search_options",)


def test_it_is_dropped_when_only_the_history_has_tools() -> None:
    made = translated(user("Hi"), assistant(None, call()), result(), web_search_options={}, options=ALLOWED)

    assert (made.body["tool_choice"], made.warnings) == ({"type": "none"}, ("web_search_options",))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"web_search_options": [], "options": ALLOWED}, "web_search_options", "invalid_type"),
        ({"web_search_options": {}, "tools": [function("web_search")], "options": ALLOWED},
         "web_search_options", "unsupported_value"),
        ({"web_search_options": {"user_location": "Bern"}, "options": ALLOWED},
         "web_search_options.user_location", "invalid_type"),
        ({"web_search_options": {"user_location": {}}, "options": ALLOWED},
         "web_search_options.user_location.approximate", "invalid_type"),
        ({"web_search_options": {"user_location": {"approximate": {"city": 3}}}, "options": ALLOWED},
         "web_search_options.user_location.approximate.city", "invalid_type"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    assert refusal(**fields) == (param, code)
