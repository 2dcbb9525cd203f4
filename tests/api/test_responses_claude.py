"""``/v1/responses`` over an upstream that speaks Anthropic's dialect."""

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.support import (
    CLAUDE,
    Gateway,
    Script,
    build_request,
    claude_error,
    claude_events,
    claude_sse,
    claude_upstream,
    json_reply,
    redacted_block,
    text_block,
    thinking_block,
    tool_block,
)

from .bed import KEY, Bed, yaml

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7\n").decode()
F: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
PATCH: Any = {"type": "custom", "name": "apply_patch"}


@pytest.fixture(scope="module")
def claude() -> Iterator[Bed]:
    """A gateway over one account of Anthropic's dialect."""
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(claude_upstream(CLAUDE))
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"}, ready_path="/ready")
        gateway.config_yaml = yaml(adapters={"claude": {"type": "claude", "base_url": upstream.root_url}})
        yield Bed(held.enter_context(gateway), {"a": upstream})


@pytest.fixture(scope="module")
def sdk(claude: Bed) -> Iterator[OpenAI]:
    with claude.sdk() as opened:
        yield opened


def sent(claude: Bed, sdk: OpenAI, given: Any, *scripts: Script, **fields: Any) -> Any:
    """The body that reaches the upstream."""
    if scripts:
        claude.a.on(CLAUDE, *scripts)
    sdk.responses.create(model=CLAUDE, input=given, **fields)
    return claude.last(CLAUDE).json


HELLO = claude_sse(*claude_events(text_block("Hello")))


def test_instructions_and_developers_are_two_blocks_of_the_system(claude: Bed, sdk: OpenAI) -> None:
    given = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}]

    body = sent(claude, sdk, given, HELLO, instructions="Be brief.", max_output_tokens=50)

    assert [block["text"] for block in body["system"]] == ["Be brief.", "Be kind."]
    assert body["max_tokens"] == 50


def test_an_image_stands_between_its_texts_and_a_pdf_has_its_name(claude: Bed, sdk: OpenAI) -> None:
    parts = [
        {"type": "input_text", "text": "before"},
        {"type": "input_image", "image_url": f"data:image/jpg;base64,{PNG}", "detail": "original"},
        {"type": "input_text", "text": "after"},
        {"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"},
    ]

    blocks = sent(claude, sdk, [{"role": "user", "content": parts}], HELLO)["messages"][0]["content"]

    assert [block["type"] for block in blocks] == ["text", "image", "text", "document"]
    assert blocks[1]["source"]["media_type"] == "image/png"
    assert blocks[3]["title"] == "a.pdf"


def test_thinking_comes_back_with_its_signature(claude: Bed, sdk: OpenAI) -> None:
    first = claude_events(
        thinking_block("Let me ", "see."), redacted_block("x"), tool_block("toolu_1", "f", "{}"), stop="tool_use"
    )
    claude.a.on(CLAUDE, claude_sse(*first), HELLO)
    include: Any = ["reasoning.encrypted_content"]

    with sdk.responses.stream(
        model=CLAUDE, input="go", tools=[F], include=include, reasoning={"summary": "auto"}
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_response()
    items: Any = [{"role": "user", "content": "go"}, *(item.model_dump(exclude_none=True) for item in answer.output)]
    items.append({"type": "function_call_output", "call_id": "toolu_1", "output": "ok"})
    body = sent(claude, sdk, items, tools=[F], include=include)

    assert [item.type for item in answer.output] == ["reasoning", "function_call"]
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    ]


def test_a_custom_tool_is_called_by_its_text(claude: Bed, sdk: OpenAI) -> None:
    call = claude_events(tool_block("toolu_1", "apply_patch", '{"inp', 'ut":"a\\nb"}'), stop="tool_use")
    claude.a.on(CLAUDE, claude_sse(*call))

    with sdk.responses.create(model=CLAUDE, input="go", tools=[PATCH], stream=True) as stream:
        events = list(stream)

    done = next(event for event in events if event.type == "response.custom_tool_call_input.done")
    assert done.input == "a\nb"
    assert claude.last(CLAUDE).json["tools"][0]["input_schema"]["required"] == ["input"]


def test_a_context_that_is_too_long_has_the_code_that_clients_know(claude: Bed) -> None:
    claude.a.on(CLAUDE, claude_error(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"))

    with claude.sdk() as client, pytest.raises(Exception, match="too long") as caught:
        client.responses.create(model=CLAUDE, input="hi")

    assert getattr(caught.value, "code", None) == "context_length_exceeded"


def test_input_tokens_are_counted_by_claude(claude: Bed, sdk: OpenAI) -> None:
    claude.a.on(CLAUDE, json_reply({"input_tokens": 321}))

    raw = sdk.responses.input_tokens.with_raw_response.count(
        model=CLAUDE, input="hi", instructions="Be brief.", tools=[F]
    )

    assert raw.parse().input_tokens == 321
    assert "x-gateway-warnings" not in raw.headers
    seen = claude.last(CLAUDE)
    assert seen.path == "/v1/messages/count_tokens"
    assert {"model", "messages", "system", "tools"} <= seen.json.keys()
    assert not {"max_tokens", "stream"} & seen.json.keys()
    assert seen.json["system"][0]["text"] == "Be brief."


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": "hi", "max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x/a.png"}]}]}, "input",
         "invalid_image_url"),
        ({"input": [{"role": "system", "content": "Be brief."}]}, "input", "invalid_value"),
        ({"input": "hi", "include": ["message.output_text.logprobs"]}, "include", "unsupported_parameter"),
        ({"input": "hi", "top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"input": "hi", "tools": [F], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [F]}},
         "tool_choice.mode", "invalid_value"),
    ],
)  # fmt: skip
def test_what_claude_cannot_be_asked_is_named_in_the_words_of_the_door(
    claude: Bed, fields: Any, param: str, code: str
) -> None:
    answer = claude.send(claude_request(claude, {"model": CLAUDE, **fields}))

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code)
    assert "max_completion_tokens" not in answer.error["message"]
    assert "`logprobs`" not in answer.error["message"]


def test_what_claude_is_not_told_is_named_in_the_words_of_the_door(claude: Bed) -> None:
    claude.a.on(CLAUDE, claude_sse(*claude_events(text_block('{"a":1}'))))
    text = {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"$ref": "#/$defs/a"}}}

    answer = claude.send(claude_request(claude, {"model": CLAUDE, "input": "hi", "text": text}))

    assert answer.header("x-gateway-warnings") == "text.verbosity, text.format"


def claude_request(claude: Bed, body: Any) -> bytes:
    """The bytes of a request for a response."""
    pairs = [("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json")]
    host, port = claude.gateway.host, claude.gateway.port
    return build_request("POST", "/v1/responses", host, port, headers=pairs, body=json.dumps(body).encode())
