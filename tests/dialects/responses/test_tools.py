"""Tools of all kinds as functions, and back."""

from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from one_api.dialects.responses.tools import CUSTOM_PARAMETERS, Tool
from one_api.errors import InvalidRequest

from .bed import CUSTOM, FUNCTION, NAMESPACE, asked, said

GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}


def functions(*tools: JSONObject, given: Any = "hi") -> list[JSONObject]:
    """The functions that a request with these tools declares."""
    return [tool["function"] for tool in asked(given, tools=list(tools)).chat.body.get("tools", [])]


def test_a_function_is_nested() -> None:
    assert functions(FUNCTION | {"strict": True, "output_schema": {}}) == [
        {"name": "f", "description": "Does it.", "strict": True, "parameters": {"type": "object"}}
    ]


def test_a_function_without_parameters_takes_none() -> None:
    assert functions({"type": "function", "name": "f", "parameters": None}) == [
        {"name": "f", "parameters": {"type": "object", "properties": {}}}
    ]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    assert functions(CUSTOM) == [{"name": "apply_patch", "description": "Edits.", "parameters": CUSTOM_PARAMETERS}]


def test_a_grammar_goes_into_the_description() -> None:
    request = asked(tools=[CUSTOM | {"format": GRAMMAR}])

    (tool,) = request.chat.body["tools"]
    assert "lark grammar:\nstart: WORD" in tool["function"]["description"]
    assert request.warnings == ("tools[0].format",)


def test_a_namespace_becomes_a_prefix() -> None:
    request = asked(tools=[NAMESPACE])

    assert request.chat.body["tools"][0]["function"]["name"] == "agents__spawn"
    assert request.tools.find("agents__spawn") == Tool("function", "spawn", "agents")


def test_tools_may_stand_in_the_input() -> None:
    inner = {"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}
    item = {"type": "additional_tools", "role": "developer", "tools": [inner]}

    request = asked([item, said("user", "hi")])

    (tool,) = request.chat.body["tools"]
    assert tool["function"] == {"name": "functions__exec", "parameters": CUSTOM_PARAMETERS}
    assert request.tools.find("functions__exec") == Tool("custom", "exec", "functions")


def test_a_deferred_tool_waits_until_it_was_found() -> None:
    search = {"type": "tool_search", "execution": "client", "description": "Finds.", "parameters": {"type": "object"}}
    deferred = {"type": "function", "name": "g", "defer_loading": True}
    history = [
        said("user", "hi"),
        {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {"query": "g"}},
        {"type": "tool_search_output", "call_id": "s", "execution": "client", "tools": [deferred]},
    ]

    before, after = asked(tools=[search, deferred]), asked(history, tools=[search, deferred])

    assert [tool["function"]["name"] for tool in before.chat.body["tools"]] == ["tool_search"]
    assert [tool["function"]["name"] for tool in after.chat.body["tools"]] == ["tool_search", "g"]
    assert after.chat.body["messages"][1]["tool_calls"][0]["function"] == {
        "name": "tool_search", "arguments": '{"query":"g"}'
    }  # fmt: skip
    assert after.chat.body["messages"][2]["content"] == "Found:\ng"


def test_of_two_tools_with_one_name_the_later_counts() -> None:
    assert functions(FUNCTION, FUNCTION | {"description": "Better."})[0]["description"] == "Better."


def test_names_that_are_not_legal_get_one_of_their_own_everywhere() -> None:
    long, odd = "n" * 80, "a.b"
    history = [
        said("user", "hi"),
        {"type": "function_call", "call_id": "1", "name": odd, "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": ""},
    ]

    request = asked(history, tools=[{"type": "function", "name": name} for name in (long, odd, "a_b")])

    names = [tool["function"]["name"] for tool in request.chat.body["tools"]]
    assert all(len(name) <= 64 for name in names)
    assert len(set(names)) == 3
    assert [request.tools.find(name).name for name in names] == [long, odd, "a_b"]
    assert request.chat.body["messages"][1]["tool_calls"][0]["function"]["name"] == names[1]


def test_a_prefix_never_makes_two_tools_one() -> None:
    request = asked(tools=[{"type": "function", "name": "agents__spawn"}, NAMESPACE])

    names = [tool["function"]["name"] for tool in request.chat.body["tools"]]
    assert [request.tools.find(name).namespace for name in names] == [None, "agents"]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview_2025_03_11", "image_generation", "brand_new"])
def test_tools_that_nobody_misses_are_dropped_with_a_warning(kind: str) -> None:
    request = asked(tools=[{"type": kind, "external_web_access": False}], tool_choice="auto", parallel_tool_calls=True)

    assert request.chat.body.keys() == {"model", "messages"}
    assert request.warnings == ("tools[0]",)


@pytest.mark.parametrize("kind", ["code_interpreter", "file_search", "computer_use_preview", "mcp", "local_shell"])
def test_tools_that_the_client_counts_on_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(tools=[FUNCTION, {"type": kind}])

    assert (caught.value.param, caught.value.code) == ("tools[1].type", "unsupported_value")


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "custom", "name": "apply_patch"}, {"type": "function", "function": {"name": "apply_patch"}}),
        (
            {"type": "function", "name": "spawn", "namespace": "agents"},
            {"type": "function", "function": {"name": "agents__spawn"}},
        ),
        ({"type": "function", "name": "spawn"}, {"type": "function", "function": {"name": "agents__spawn"}}),
        ({"type": "function", "name": "unheard_of"}, {"type": "function", "function": {"name": "unheard_of"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
    ],
)
def test_choices_of_tools(wanted: Any, sent: Any) -> None:
    assert asked(tools=[FUNCTION, CUSTOM, NAMESPACE], tool_choice=wanted).chat.body["tool_choice"] == sent


def test_tools_that_were_left_out_are_left_out_of_those_that_may_be_called() -> None:
    wanted = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}],
    }

    sent = asked(tools=[{"type": "web_search"}, FUNCTION], tool_choice=wanted).chat.body["tool_choice"]

    assert sent["allowed_tools"]["tools"] == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([], "required"),
        ([FUNCTION], {"type": "web_search_preview"}),
        ([{"type": "web_search"}], {"type": "web_search_preview"}),
        ([FUNCTION], "maybe"),
        ([FUNCTION], 1),
        ([], 1),
    ],
)
def test_choices_that_cannot_be_had(tools: list[JSONObject], choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(tools=tools, tool_choice=choice)

    assert caught.value.param == "tool_choice"


def test_a_name_that_the_model_made_up_is_a_function() -> None:
    assert asked(tools=[NAMESPACE]).tools.find("spawn") == Tool("function", "spawn")
