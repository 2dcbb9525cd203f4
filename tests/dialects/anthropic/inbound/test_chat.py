"""What a chat-only upstream is sent for a Messages request."""

from typing import Any

import pytest

from one_api.dialects.anthropic.inbound.chat import Translated, to_chat
from one_api.dialects.anthropic.inbound.request import MessagesRequest
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest

PNG = "iVBORw0KGgo="
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "ü"}}


def translated(*messages: JSONObject, **fields: Any) -> Translated:
    """A request with these messages, translated; what a server of OpenAI's would refuse fails here."""
    body = {"model": "m", "max_tokens": 50, "messages": list(messages) or [user("Hi")], **fields}
    found = to_chat(MessagesRequest.read(body), b"secret", lambda signature: signature.removeprefix("gw1.") or None)
    ChatRequest.read(found.body)
    return found


def sent(*messages: JSONObject, **fields: Any) -> list[JSONObject]:
    """The messages of it."""
    found: list[JSONObject] = translated(*messages, **fields).body["messages"]
    return found


def refusal(*messages: JSONObject, **fields: Any) -> InvalidRequest:
    """The error for it."""
    with pytest.raises(InvalidRequest) as caught:
        translated(*messages, **fields)
    return caught.value


def user(*content: Any) -> JSONObject:
    """A user turn: one text as a string, else blocks."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*blocks: JSONObject) -> JSONObject:
    """An assistant turn."""
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **fields: Any) -> JSONObject:
    """A text block."""
    return {"type": "text", "text": words, **fields}


def result(content: Any = None, call_id: str = "toolu_1", **fields: Any) -> JSONObject:
    """A result of a call."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def test_a_plain_request_needs_little() -> None:
    assert translated().body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 50,
    }


def test_a_stream_asks_for_usage() -> None:
    body = translated(stream=True).body

    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_system_blocks_stay_apart_and_the_one_for_billing_goes() -> None:
    system = [
        text("x-anthropic-billing-header: cc_version=2.1; cch=0f2;"),
        text("One.", cache_control={"type": "ephemeral"}),
        text("Two."),
    ]

    assert sent(system=system)[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
    }


def test_a_system_message_stays_in_the_middle_and_its_effort_wins() -> None:
    later = {"role": "system", "content": "Be brief.", "output_config": {"effort": "low"}}

    found = translated(user("Hi"), later, output_config={"effort": "high"}, thinking={"type": "adaptive"})

    assert found.body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be brief."},
    ]
    assert found.effort == "low"


def test_turns_of_one_role_are_one_turn() -> None:
    history = [user("Hi"), assistant(CALL), user(result("1")), user("And?")]

    assert sent(*history)[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"ü"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "1"},
        {"role": "user", "content": "And?"},
    ]


def test_results_come_first_and_their_images_after_all_of_them() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    other = {**CALL, "id": "toolu_2"}
    turn = user(text("See."), result([text("A:"), image]), result("no such file", "toolu_2", is_error=True))

    *_, first, second, rest = sent(user("Hi"), assistant(CALL, other), turn)

    assert first["content"] == [
        {"type": "text", "text": "A:"},
        {"type": "text", "text": "[image: it follows the results of the tools]"},
    ]
    assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no such file"}
    assert rest["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "See."},
    ]


def test_a_result_without_content_is_an_empty_text() -> None:
    assert sent(user("Hi"), assistant(CALL), user(result()))[-1]["content"] == ""


@pytest.mark.parametrize(
    ("history", "where"),
    [
        ([user("Hi"), assistant(CALL), user("And?")], "messages.1: "),
        ([user("Hi"), assistant(CALL)], "messages.1: "),
        ([user("Hi"), user(result("1"))], "messages.1.content.0: "),
        ([user("Hi"), assistant(CALL), user(result("1"), result("2"))], "messages.2.content.1: "),
    ],
)
def test_calls_and_results_pair_up(history: list[JSONObject], where: str) -> None:
    assert refusal(*history).message.startswith(where)


def test_thinking_is_only_sent_back_where_it_is_ours_and_beside_a_call() -> None:
    ours = {"type": "thinking", "thinking": "", "signature": "gw1.Look there."}
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    redacted = {"type": "redacted_thinking", "data": "x"}

    history = [user("Hi"), assistant(ours, redacted, CALL), user(result("1")), assistant(unsigned, text("Yes."))]
    found = sent(*history, user("So?"))

    assert found[1]["reasoning_content"] == "Look there."
    assert found[3] == {"role": "assistant", "content": "Yes."}


def test_an_assistant_turn_of_thinking_only_is_left_out() -> None:
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}

    assert sent(user("Hi"), assistant(unsigned), user("So?")) == [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "So?"},
    ]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ),
        (
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            },
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        ),
        (
            {"type": "document", "title": "Notes", "source": {"type": "text", "data": "One."}},
            {"type": "text", "text": "Notes\n\nOne."},
        ),
        (
            {"type": "document", "title": "Notes", "context": "Of May.", "source": {"type": "text", "data": "One."}},
            {"type": "text", "text": "Notes\n\nOf May.\n\nOne."},
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "One."}]}},
            {"type": "text", "text": "One."},
        ),
        (
            {"type": "search_result", "title": "T", "source": "https://a", "content": [{"type": "text", "text": "C"}]},
            {"type": "text", "text": "T\n\nhttps://a\n\nC"},
        ),
    ],
)
def test_content_becomes_parts(block: JSONObject, part: JSONObject) -> None:
    assert sent(user(text("See:"), block))[0]["content"] == [{"type": "text", "text": "See:"}, part]


def test_a_file_of_anthropics_is_refused() -> None:
    error = refusal(user({"type": "image", "source": {"type": "file", "file_id": "file_1"}}))

    assert error.message.startswith("messages.0.content.0.source: ")


def test_a_block_that_only_claude_reads_is_dropped_with_a_warning() -> None:
    block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}

    found = translated(user("Hi"), assistant(block, text("Yes.")), user("So?"))

    assert found.body["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert found.warnings == ("messages.content",)


TOOL = {"name": "look", "description": "Looks.", "input_schema": {"$schema": "http://x", "type": "object"}}


def test_tools_keep_what_other_models_know() -> None:
    tool = {**TOOL, "cache_control": {"type": "ephemeral"}, "eager_input_streaming": True, "input_examples": [{}]}

    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert translated(tools=[tool]).body["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
        ({"type": "none"}, {"tool_choice": "none"}),
    ],
)
def test_choices_of_tools(choice: JSONObject, expected: JSONObject) -> None:
    body = translated(tools=[TOOL], tool_choice=choice).body

    assert {key: body[key] for key in ("tool_choice", "parallel_tool_calls") if key in body} == expected


def test_a_deferred_tool_is_sent_once_the_history_has_found_it() -> None:
    tools = [TOOL, {"name": "WebFetch", "input_schema": {"type": "object"}, "defer_loading": True}]
    found = result([{"type": "tool_reference", "tool_name": "WebFetch"}, {"type": "tool_reference", "tool_name": "B"}])

    before = translated(tools=tools).body
    after = translated(user("Hi"), assistant(CALL), user(found), tools=tools).body

    assert [tool["function"]["name"] for tool in before["tools"]] == ["look"]
    assert [tool["function"]["name"] for tool in after["tools"]] == ["look", "WebFetch"]
    assert after["messages"][-1]["content"] == "WebFetch\nB"


def test_without_tools_there_is_no_choice() -> None:
    placeholder = {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": True}

    body = translated(tools=[placeholder], tool_choice={"type": "auto"}).body

    assert not body.keys() & {"tools", "tool_choice"}


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"tools": [TOOL, {"type": "web_search_20260209", "name": "web_search"}]}, "tools.1: "),
        ({"mcp_servers": [{"type": "url", "url": "https://a"}]}, "mcp_servers: "),
        ({"safeguards": {"mode": "auto"}}, "safeguards: "),
        ({"container": "container_1"}, "container: "),
        ({"thread": {"type": "create"}}, "thread: "),
    ],
)
def test_what_only_anthropic_has_is_refused_by_name(fields: JSONObject, where: str) -> None:
    assert refusal(**fields).message.startswith(where)


def test_what_changes_no_content_is_dropped_without_a_word() -> None:
    found = translated(
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        cache_control={"type": "ephemeral"},
        mcp_servers=[],
        container=None,
        speed="standard",
        inference_geo="us",
        service_tier="auto",
        diagnostics={"previous_message_id": None},
        tags=["a"],
        betas=["x"],
        anything={"new": 1},
    )

    assert found.body.keys() == {"model", "messages", "max_completion_tokens"}
    assert found.warnings == ()


def test_the_end_user_is_hashed() -> None:
    user_id = '{"device_id":"d","account_uuid":"a","session_id":"s"}'

    first = translated(metadata={"user_id": user_id}).body["user"]

    assert first == translated(metadata={"user_id": user_id}).body["user"]
    assert len(first) == 64
    assert "device" not in first


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 16383}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none"),
    ],
)
def test_effort(fields: JSONObject, effort: str | None) -> None:
    found = translated(**fields)

    assert found.effort == effort
    assert "reasoning_effort" not in found.body


@pytest.mark.parametrize(
    ("thinking", "form"),
    [
        (None, "none"),
        ({"type": "disabled"}, "none"),
        ({"type": "adaptive", "display": "omitted"}, "hidden"),
        ({"type": "adaptive"}, "hidden"),
        ({"type": "adaptive", "display": "summarized"}, "shown"),
        ({"type": "enabled", "budget_tokens": 2048}, "shown"),
        ({"type": "enabled", "budget_tokens": 2048, "display": "omitted"}, "hidden"),
    ],
)
def test_what_becomes_of_thinking(thinking: JSONObject | None, form: str) -> None:
    assert translated(thinking=thinking).form.thinking == form


@pytest.mark.parametrize("key", ["output_config", "output_format"])
def test_a_schema_for_the_answer(key: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}

    body = translated(**{key: {"format": form} if key == "output_config" else form}).body

    schema = {"name": "output", "schema": {"type": "object"}, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_more_stop_strings_than_four_are_looked_for_here() -> None:
    found = translated(stop_sequences=["a", "b", "c", "d", "e"])

    assert found.body["stop"] == ["a", "b", "c", "d"]
    assert found.form.cuts
    assert not translated(stop_sequences=["a"]).form.cuts


def test_sampling_goes_along_but_for_top_k() -> None:
    found = translated(temperature=0.5, top_p=0.9, top_k=40)

    assert (found.body["temperature"], found.body["top_p"]) == (0.5, 0.9)
    assert found.warnings == ("top_k",)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model": 1}, "model: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"max_tokens": "5"}, "max_tokens: "),
        ({"max_tokens": None}, "max_tokens: "),
        ({"messages": "Hi"}, "messages: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages.0.role: "),
        ({"messages": [user("Hi"), {"role": "assistant"}]}, "messages.1.content: "),
        ({"messages": [user({"text": "Hi"})]}, "messages.0.content.0: "),
    ],
)
def test_the_message_of_a_refusal_begins_with_the_place(change: JSONObject, where: str) -> None:
    error = refusal(**change)

    assert error.status == 400
    assert error.message.startswith(where)


def test_tokens_are_counted_without_a_limit() -> None:
    assert MessagesRequest.read({"model": "m", "messages": [user("Hi")]}, counts=True).model == "m"
