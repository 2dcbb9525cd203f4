"""The official `openai` client against the real gateway, over an upstream that speaks Anthropic's exact grammar."""

import base64
import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import openai
import pydantic
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from tests.support import (
    Chop,
    Close,
    Gateway,
    Hang,
    Seen,
    WaitFor,
    claude_error,
    claude_error_body,
    claude_events,
    claude_model,
    claude_sse,
    claude_upstream,
    error,
    joined,
    model_page,
    redacted_block,
    text_block,
    thinking_block,
    tool_block,
)

from .bed import Answer as Reply
from .bed import Bed, user, yaml

USER = cast(list[ChatCompletionMessageParam], user())
UPSTREAM_KEY = "sk-ant-api03-0123456789"
#: The model families that tests ask for; each test takes models of its own from one.
OPUS, HAIKU = "claude-opus-5", "claude-haiku-4-5"
LISTED = [f"{family}-{20260000 + number}" for number in range(200) for family in (OPUS, HAIKU)]
#: Models of two accounts, one of a family that goes on from a begun answer and one of a family that does not.
RESUMED = ["claude-sonnet-4-5-20250929", "claude-opus-4-6-20260205"]
#: 1 x 1 pixel.
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


class Weather(pydantic.BaseModel):
    """The weather in a city."""

    city: str


class Now(pydantic.BaseModel):
    """The time; there is nothing to say."""


class Answer(pydantic.BaseModel):
    """What a structured answer holds."""

    value: int
    reason: str


TOOLS: list[ChatCompletionFunctionToolParam] = [
    openai.pydantic_function_tool(Weather, name="weather"),
    openai.pydantic_function_tool(Now, name="now"),
]


@dataclass(eq=False)
class ClaudeBed(Bed):
    """A gateway over one upstream of Anthropic's dialect."""

    _of_family: dict[str, Iterator[int]] = field(
        default_factory=lambda: {OPUS: itertools.count(), HAIKU: itertools.count()}
    )

    def model(self, kind: str = OPUS) -> str:
        """A model of the family that no other test has used."""
        return f"{kind}-{20260000 + next(self._of_family[kind])}"

    def answered(self, *scripts: Any, kind: str = OPUS) -> str:
        """A model that the upstream answers with these."""
        model = self.model(kind)
        self.a.on(model, *scripts)
        return model

    def requests(self, model: str) -> list[Any]:
        """The bodies that the upstream got for a model."""
        return [seen.json for seen in self.a.requests if seen.model == model]


@pytest.fixture(scope="module")
def claude() -> Iterator[ClaudeBed]:
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(claude_upstream())
        half = len(LISTED) // 2
        pages = [
            model_page(*map(claude_model, LISTED[:half]), more=True),
            model_page(*map(claude_model, LISTED[half:])),
        ]
        upstream.on_models(lambda seen: pages["after_id" in seen.path])
        common = {"type": "claude", "base_url": upstream.root_url, "api_key": UPSTREAM_KEY}
        adapters = {
            "claude": common,
            "strict": common | {"models": ["claude-opus-5-strict"], "strict": True},
            "open": common | {"models": ["claude-opus-5-open"], "provider_blocks": True},
            "busy": common | {"models": ["claude-opus-5-busy"], "keep_529": True},
            "several": common | {"models": ["claude-opus-5-several"], "emulate_n": True},
            "elder": common | {"models": RESUMED, "prefill": True},
            "younger": common | {"models": RESUMED, "prefill": True},
            "named": common | {"models": ["claude-3-5-haiku", "claude-opus-5-5"]},
        }
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"}, ready_path="/ready")
        groups = {
            model: {"targets": [f"elder/{model}", f"younger/{model}"], "strategy": "ordered",
                    "on_stream_failure": "resume"}
            for model in RESUMED
        }  # fmt: skip
        gateway.config_yaml = yaml(adapters=adapters, model_groups=groups, retry={"budget": 1.0})
        running = ClaudeBed(held.enter_context(gateway), {"a": upstream})
        yield running
        running.check_settled()
        assert UPSTREAM_KEY not in gateway.log


@pytest.fixture(scope="module")
def sdk(claude: ClaudeBed) -> Iterator[OpenAI]:
    """The official client, without retries of its own."""
    with claude.sdk() as opened:
        yield opened


def text(*pieces: str, **message: Any) -> Any:
    """A script that says a text."""
    return claude_sse(*claude_events(text_block(*pieces), **message))


# Answers


def test_a_completion(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.model()

    answer = sdk.chat.completions.create(model=model, messages=USER, max_completion_tokens=50)

    choice = answer.choices[0]
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == ("Hello", None, "stop")
    assert (choice.message.tool_calls, choice.logprobs, choice.message.annotations) == (None, None, [])
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-01", "chat.completion", model)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 2, 11)
    (sent,) = claude.requests(model)
    assert sent == {
        "model": model, "max_tokens": 50, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True, "thinking": {"type": "adaptive", "display": "summarized"},
    }  # fmt: skip
    seen = claude.last(model)
    assert seen.headers.first("x-api-key") == UPSTREAM_KEY
    assert seen.headers.first("authorization") is None


def test_a_stream_in_openais_order(claude: ClaudeBed) -> None:
    answer = claude.ask(claude.model(), stream=True, stream_options={"include_usage": True})

    first, *middle, finish, usage = answer.chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["delta"] for chunk in middle] == [{"content": "Hel"}, {"content": "lo"}]
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 11)
    assert all(chunk["usage"] is None for chunk in (first, *middle, finish))
    assert answer.events[-1] == "data: [DONE]"


def test_a_stream_without_usage(claude: ClaudeBed) -> None:
    answer = claude.ask(claude.model(), stream=True)

    assert all("usage" not in chunk for chunk in answer.chunks)
    assert (claude.record_of(answer)["prompt_tokens"], claude.record_of(answer)["completion_tokens"]) == (9, 2)


@pytest.mark.parametrize("size", [1, 7])
def test_characters_that_are_split_between_reads(claude: ClaudeBed, size: int) -> None:
    model = claude.answered([Chop(joined(text("Grüß 😀", " Gott")), size)])

    assert claude.ask(model, stream=True).text == "Grüß 😀 Gott"


def test_the_stream_helper(claude: ClaudeBed, sdk: OpenAI) -> None:
    blocks = (
        thinking_block("Hm", "m."),
        redacted_block(),
        text_block("So"),
        tool_block("toolu_a", "weather", '{"ci', 'ty":"Bern"}'),
    )
    model = claude.answered(claude_sse(*claude_events(*blocks, tool_block("toolu_b", "now"), stop="tool_use")))

    with sdk.chat.completions.stream(model=model, messages=USER, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message

    assert {"content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert (message.role, message.content) == ("assistant", "So")
    assert [call.id for call in message.tool_calls or ()] == ["toolu_a", "toolu_b"]
    assert [call.function.arguments for call in message.tool_calls or ()] == ['{"city":"Bern"}', "{}"]
    extra: Any = message.model_extra
    assert extra["reasoning_content"] == "Hmm."
    assert [block["type"] for block in extra["thinking_blocks"]] == ["thinking", "redacted_thinking"]


def calling(number: int) -> Any:
    """A script that thinks, and calls the tool for the n-th time."""
    blocks = (
        thinking_block(f"Thought {number}", signature=f"s{number}"),
        tool_block(f"t{number}", "weather", '{"city": "X"}'),
    )
    return claude_sse(*claude_events(*blocks, stop="tool_use"))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop_of_three_turns(claude: ClaudeBed, sdk: OpenAI, streamed: bool) -> None:
    """The client sends no thinking back; the upstream gets it as it was, in every turn."""
    model = claude.answered(calling(1), calling(2), text("Sunny."))
    turns: list[Any] = list(USER)

    for _ in range(5):
        if streamed:
            with sdk.chat.completions.stream(model=model, messages=turns, tools=TOOLS) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            message = sdk.chat.completions.create(model=model, messages=turns, tools=TOOLS).choices[0].message
        if not message.tool_calls:
            break
        calls = [call.model_dump(exclude_none=True) for call in message.tool_calls]
        turns.append({"role": "assistant", "content": message.content, "tool_calls": calls})
        turns += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]

    assert message.content == "Sunny."
    first, second, third = (body["messages"] for body in claude.requests(model))
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert [[block["type"] for block in turn["content"]] for turn in third] == [
        ["text"], ["thinking", "tool_use"], ["tool_result"], ["thinking", "tool_use"], ["tool_result"]
    ]  # fmt: skip
    assert [third[1]["content"][0]["signature"], third[3]["content"][0]["signature"]] == ["s1", "s2"]


def test_thinking_that_the_client_sends_back(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.model()
    thought = {"index": 0, "type": "thinking", "thinking": "Hm", "signature": "theirs"}
    turns: list[Any] = [*USER, {"role": "assistant", "content": "So.", "thinking_blocks": [thought]}, *USER]

    sdk.chat.completions.create(model=model, messages=turns)

    content = claude.requests(model)[0]["messages"][1]["content"]
    assert content[0] == {"type": "thinking", "thinking": "Hm", "signature": "theirs"}


def test_an_answer_by_a_schema(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.answered(text('{"value": 4, "rea', 'son": "2+2"}'))

    parsed = sdk.chat.completions.parse(model=model, messages=USER, response_format=Answer)

    assert parsed.choices[0].message.parsed == Answer(value=4, reason="2+2")
    schema = claude.requests(model)[0]["output_config"]["format"]
    assert schema["type"] == "json_schema"
    assert schema["schema"]["required"] == ["value", "reason"]


def test_an_answer_that_is_only_said_to_be_json(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.answered(text('```json\n{"a"', ":1}\n```"))

    answer = sdk.chat.completions.create(model=model, messages=USER, response_format={"type": "json_object"})

    assert json.loads(answer.choices[0].message.content or "") == {"a": 1}


def test_an_answer_that_is_not_the_json_asked_for_is_told(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.answered(text("Sure: ", '{"a":1}'))

    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(model=model, messages=USER, response_format={"type": "json_object"})

    assert (caught.value.status_code, caught.value.code) == (502, "upstream_invalid_json")


def test_a_stream_that_is_not_the_json_asked_for_ends_with_an_error(claude: ClaudeBed) -> None:
    gate, events = threading.Event(), claude_events(text_block("Sure: ", '{"a":1}'))
    model = claude.answered(claude_sse(*events[:4], WaitFor(gate), *events[4:]))

    with claude.begin(model, response_format={"type": "json_object"}) as begun:
        first = [begun.next(), begun.next()]
        gate.set()
        answer = begun.answer([*first, *begun.rest()])

    assert answer.text == 'Sure: {"a":1}'
    assert answer.stream_error is not None
    assert answer.stream_error["code"] == "upstream_invalid_json"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in answer.chunks)


def test_an_answer_by_a_schema_from_a_model_that_knows_none(claude: ClaudeBed, sdk: OpenAI) -> None:
    def answer(seen: Seen) -> Any:
        name = seen.json["tool_choice"]["name"]
        return claude_sse(*claude_events(tool_block("t", name, '{"value": 4, ', '"reason": "2+2"}'), stop="tool_use"))

    claude.a.on("claude-3-5-haiku", answer)

    with sdk.chat.completions.stream(
        model="claude-3-5-haiku", messages=USER, response_format=Answer
    ) as stream:  # fmt: skip
        choice = stream.get_final_completion().choices[0]

    assert choice.message.parsed == Answer(value=4, reason="2+2")
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)


def test_a_named_tool_of_a_model_that_cannot_be_forced(claude: ClaudeBed, sdk: OpenAI) -> None:
    claude.a.on("claude-opus-5-5", text('{"city": ', '"Bern"}'))

    answer = sdk.chat.completions.create(
        model="claude-opus-5-5", messages=USER, tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )  # fmt: skip

    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Bern"})
    (sent,) = claude.requests("claude-opus-5-5")
    assert sent["tool_choice"] == {"type": "none"}
    assert sent["output_config"]["format"]["type"] == "json_schema"


def test_a_pdf(claude: ClaudeBed, sdk: OpenAI) -> None:
    model, pdf = claude.model(), base64.b64encode(b"%PDF-1.7 ...").decode()
    file: Any = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"}

    sdk.chat.completions.create(
        model=model, messages=[{"role": "user", "content": [{"type": "file", "file": file}]}]
    )  # fmt: skip

    block = claude.requests(model)[0]["messages"][0]["content"][0]
    assert (block["type"], block["title"], block["source"]["data"]) == ("document", "a.pdf", pdf)


def test_an_image(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.model()
    parts: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}},
    ]

    sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])

    block = claude.requests(model)[0]["messages"][0]["content"][1]
    assert block == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def test_names_that_the_upstream_refuses(claude: ClaudeBed, sdk: OpenAI) -> None:
    def answer(seen: Seen) -> Any:
        return claude_sse(*claude_events(tool_block("t", seen.json["tools"][0]["name"]), stop="tool_use"))

    model = claude.answered(answer)
    tools: Any = [{"type": "function", "function": {"name": "a.b/c"}}]

    made = sdk.chat.completions.create(model=model, messages=USER, tools=tools).choices[0].message.tool_calls

    assert claude.requests(model)[0]["tools"][0]["name"] != "a.b/c"
    assert made is not None
    assert made[0].type == "function"
    assert made[0].function.name == "a.b/c"


@pytest.mark.parametrize("streamed", [False, True])
def test_blocks_of_the_providers_own_tools(claude: ClaudeBed, sdk: OpenAI, streamed: bool) -> None:
    block = tool_block("srvtoolu_1", "web_search", '{"query":', '"sky"}', kind="server_tool_use")
    claude.a.on("claude-opus-5-open", claude_sse(*claude_events(block, text_block("Blue."))))

    if streamed:
        with sdk.chat.completions.stream(model="claude-opus-5-open", messages=USER) as stream:
            message: Any = stream.get_final_completion().choices[0].message
    else:
        message = sdk.chat.completions.create(model="claude-opus-5-open", messages=USER).choices[0].message

    assert (message.content, message.tool_calls or None) == ("Blue.", None)
    assert message.model_extra["provider_specific"]["content"] == [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}}
    ]


def test_a_custom_tool(claude: ClaudeBed, sdk: OpenAI) -> None:
    block = tool_block("t", "sh", '{"input":"ls ', '-l"}')
    model = claude.answered(claude_sse(*claude_events(block, stop="tool_use")))

    with sdk.chat.completions.create(
        model=model, messages=USER, tools=[{"type": "custom", "custom": {"name": "sh"}}], stream=True
    ) as stream:
        entries = [entry for chunk in stream for entry in chunk.choices[0].delta.tool_calls or ()]

    assert [entry.to_dict() for entry in entries] == [
        {"index": 0, "id": "t", "type": "custom", "custom": {"name": "sh", "input": ""}},
        {"index": 0, "custom": {"input": "ls -l"}},
    ]


def test_the_deprecated_form_of_tools(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.answered(claude_sse(*claude_events(tool_block("t", "f", '{"a":1}'), stop="tool_use")))

    answer = sdk.chat.completions.create(model=model, messages=USER, functions=[{"name": "f"}])

    choice = answer.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert choice.message.function_call.arguments == '{"a":1}'


@pytest.mark.parametrize("streamed", [False, True])
def test_a_blank_stop_string(claude: ClaudeBed, sdk: OpenAI, streamed: bool) -> None:
    model = claude.answered(claude_sse(*claude_events(text_block("one\n", "\ntwo"))[:6], Hang()))

    answer = claude.ask(model, stop=["\n\n"], stream=streamed)

    found = answer.text if streamed else answer.json["choices"][0]["message"]["content"]
    assert found == "one"
    assert claude.last(model).closed.wait(5)


def test_a_refusal(claude: ClaudeBed, sdk: OpenAI) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I cannot help with that."}
    model = claude.answered(text("Well", stop="refusal", stop_details=details))

    answer = sdk.chat.completions.create(model=model, messages=USER)

    assert answer.choices[0].message.refusal == "I cannot help with that."
    with pytest.raises(openai.ContentFilterFinishReasonError):
        sdk.chat.completions.parse(model=model, messages=USER, response_format=Answer)


def test_an_answer_that_pauses(claude: ClaudeBed, sdk: OpenAI) -> None:
    model = claude.answered(text("One ", stop="pause_turn"), text("two."))

    answer = sdk.chat.completions.create(model=model, messages=USER)

    assert answer.choices[0].message.content == "One two."
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 18


def test_several_choices(claude: ClaudeBed, sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(model="claude-opus-5-several", messages=USER, n=3) as stream:
        answer = stream.get_final_completion()

    assert [choice.message.content for choice in answer.choices] == ["Hello"] * 3


# What is dropped, altered or refused


def test_what_is_dropped_is_named_in_a_header(claude: ClaudeBed) -> None:
    answer = claude.ask(claude.model(HAIKU), seed=1, temperature=1.7)

    assert (answer.header("x-gateway-warnings") or "").split(", ") == ["seed", "temperature"]
    assert claude.ask(claude.model()).header("x-gateway-warnings") is None


def test_a_stream_names_it_too(claude: ClaudeBed) -> None:
    assert claude.ask(claude.model(), stream=True, seed=1).header("x-gateway-warnings") == "seed"


def test_strictness_refuses_it(claude: ClaudeBed, sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="claude-opus-5-strict", messages=USER, temperature=0)

    assert (caught.value.param, caught.value.code) == ("temperature", "unsupported_value")
    assert not claude.requests("claude-opus-5-strict")


@pytest.mark.parametrize(
    ("fields", "param"), [({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"modalities": ["audio"]}, "modalities")]
)
def test_what_cannot_be_had_is_refused(claude: ClaudeBed, fields: dict[str, Any], param: str) -> None:
    answer = claude.ask(claude.model(), **fields)

    assert (answer.status, answer.error["param"]) == (400, param)


# Errors

PLAIN = "something is wrong"
CASES: dict[str, tuple[Any, type[openai.APIStatusError], int, str, str | None]] = {
    "invalid request": (claude_error(400, "invalid_request_error", PLAIN),
                        openai.BadRequestError, 400, "invalid_request_error", None),
    "too long": (claude_error(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
                 openai.BadRequestError, 400, "invalid_request_error", "context_length_exceeded"),
    "no credit": (claude_error(400, "invalid_request_error", "Your credit balance is too low to access the API"),
                  openai.RateLimitError, 429, "insufficient_quota", "insufficient_quota"),
    "credential": (claude_error(401, "authentication_error", f"invalid x-api-key {UPSTREAM_KEY}"),
                   openai.InternalServerError, 502, "server_error", "upstream_authentication_error"),
    "billing": (claude_error(402, "billing_error", PLAIN),
                openai.RateLimitError, 429, "insufficient_quota", "insufficient_quota"),
    "closed model": (claude_error(403, "permission_error", "Your account has no access to this model."),
                     openai.PermissionDeniedError, 403, "permission_error", None),
    "closed account": (claude_error(403, "permission_error", "Your organization is disabled."),
                       openai.InternalServerError, 502, "server_error", "upstream_authentication_error"),
    "closed feature": (claude_error(403, "permission_error", "The long context beta is not open to you."),
                       openai.PermissionDeniedError, 403, "invalid_request_error", None),
    "flagged": (claude_error(400, "invalid_request_error", "Output blocked by content filtering policy"),
                openai.BadRequestError, 400, "invalid_request_error", "content_filter"),
    "closed account, as a bad request": (
        claude_error(400, "invalid_request_error", "This organization has been disabled."),
        openai.InternalServerError, 502, "server_error", "upstream_authentication_error"),
    "a proxy's bill": (error(402, {"detail": "pay"}),
                       openai.InternalServerError, 503, "server_error", "upstream_quota_exhausted"),
    "unknown model": (claude_error(404, "not_found_error", "model: claude-nope"),
                      openai.NotFoundError, 404, "invalid_request_error", "model_not_found"),
    "conflict": (claude_error(409, "conflict_error", PLAIN),
                 openai.ConflictError, 409, "conflict_error", "upstream_error"),
    "too large": (claude_error(413, "request_too_large", PLAIN),
                  openai.APIStatusError, 413, "invalid_request_error", "request_too_large"),
    "too large, by the edge": (error(413, "<html>413</html>"),
                               openai.APIStatusError, 413, "invalid_request_error", "request_too_large"),
    "rate": (claude_error(429, "rate_limit_error", PLAIN, {"retry-after": "7"}),
             openai.RateLimitError, 429, "requests", "rate_limit_exceeded"),
    "token rate": (claude_error(429, "rate_limit_error", "input tokens per minute", {"retry-after": "7"}),
                   openai.RateLimitError, 429, "tokens", "rate_limit_exceeded"),
    "spend": (claude_error(429, "rate_limit_error", PLAIN, details={"error_code": "enforced_spend_limit_reached"}),
              openai.RateLimitError, 429, "insufficient_quota", "insufficient_quota"),
    "ramp": (claude_error(429, "rate_limit_error", PLAIN, details={"error_code": "ramp_limit_exceeded"}),
             openai.RateLimitError, 429, "requests", "rate_limit_exceeded"),
    "failed": (claude_error(500, "api_error", PLAIN),
               openai.InternalServerError, 502, "server_error", "upstream_error"),
    "timed out": (claude_error(504, "timeout_error", PLAIN),
                  openai.InternalServerError, 504, "server_error", "upstream_timeout"),
    "overloaded": (claude_error(529, "overloaded_error", PLAIN),
                   openai.InternalServerError, 503, "server_error", "overloaded"),
    "new to us": (claude_error(418, "teapot_error", PLAIN), openai.APIStatusError, 418, "teapot_error", None),
    "new code": (claude_error(400, "invalid_request_error", PLAIN, details={"error_code": "tool_name_conflict"}),
                 openai.BadRequestError, 400, "invalid_request_error", "tool_name_conflict"),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_an_error_of_the_upstream(claude: ClaudeBed, sdk: OpenAI, case: str, streamed: bool) -> None:
    script, kind, status, error_type, code = CASES[case]
    model = claude.answered(script)

    with pytest.raises(kind) as caught:
        sdk.chat.completions.create(model=model, messages=USER, stream=streamed)

    found = caught.value
    assert (found.status_code, found.type, found.code) == (status, error_type, code)
    assert UPSTREAM_KEY not in str(found)
    assert found.request_id


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("script", "message"),
    [(claude_error(500, "api_error", "Out of memory at 10.0.0.7"),
      "The upstream failed with status 500. It said: Out of memory at [removed]"),
     (claude_error(529, "overloaded_error", "Busy"), "The upstream is overloaded. It said: Busy"),
     (error(500, '{"error": "text"}'), "The upstream failed with status 500. It said: text"),
     (error(400, {"detail": [{"loc": ["body", "top_p"], "msg": "odd", "type": "x"}]}), "top_p: odd")],
)  # fmt: skip
def test_the_client_reads_what_the_upstream_said(claude: ClaudeBed, script: Any, message: str, streamed: bool) -> None:
    assert claude.ask(claude.answered(script), stream=streamed).error["message"] == message


def test_the_limits_of_the_upstream_come_with_its_429_under_a_name_of_their_own(claude: ClaudeBed) -> None:
    limits = {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-input-tokens-remaining": "0"}
    model = claude.answered(claude_error(429, "rate_limit_error", PLAIN, limits))

    answer = claude.ask(model)

    assert answer.header("x-upstream-ratelimit-limit-requests") == "50"
    assert answer.header("x-upstream-ratelimit-remaining-tokens") == "0"
    assert answer.header("anthropic-ratelimit-requests-limit") == "50"


def test_the_status_of_an_overloaded_upstream_can_be_kept(claude: ClaudeBed, sdk: OpenAI) -> None:
    claude.a.on("claude-opus-5-busy", claude_error(529, "overloaded_error", PLAIN))

    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(model="claude-opus-5-busy", messages=USER)

    assert (caught.value.status_code, caught.value.code) == (529, "overloaded")


def test_when_to_come_back_is_passed_on(claude: ClaudeBed) -> None:
    model = claude.answered(claude_error(429, "rate_limit_error", PLAIN, {"retry-after": "7"}))

    assert claude.ask(model).header("retry-after") == "7"


@pytest.mark.parametrize("case", ["no credit", "billing", "credential"])
def test_what_no_retry_can_help(claude: ClaudeBed, case: str) -> None:
    assert claude.ask(claude.answered(CASES[case][0])).header("x-should-retry") == "false"


@pytest.mark.parametrize(
    ("message", "shown", "param"),
    [("max_tokens: 9 > 8", None, "max_tokens"), ("tools.0.custom.name: bad", "tools.custom.name: bad", "tools"),
     ("messages.3.content.0: bad", "messages.content: bad", "messages"), ("stop_sequences: bad", None, "stop"),
     ("odd_thing: bad", None, None)],
)  # fmt: skip
def test_where_the_upstream_found_a_fault(
    claude: ClaudeBed, message: str, shown: str | None, param: str | None
) -> None:
    """Its numbers are those of its own turns and blocks."""
    model = claude.answered(claude_error(400, "invalid_request_error", message))

    answer = claude.ask(model)

    assert (answer.error["message"], answer.error["param"]) == (shown or message, param)


def test_an_error_as_the_first_event_is_a_real_status_and_retried(claude: ClaudeBed) -> None:
    model = claude.answered(claude_sse(claude_error_body("overloaded_error", "Overloaded")))

    with claude.sdk(max_retries=2) as patient, pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(model=model, messages=USER, stream=True)

    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert len(claude.requests(model)) == 3


def test_an_error_before_the_first_block_is_a_real_status_too(claude: ClaudeBed) -> None:
    model = claude.answered(claude_sse(*claude_events()[:2], claude_error_body("api_error")))

    assert claude.ask(model, stream=True).status == 502


def test_an_error_in_the_middle_ends_the_stream(claude: ClaudeBed, sdk: OpenAI) -> None:
    gate, events = threading.Event(), claude_events(text_block("Hi"))[:4]
    model = claude.answered(claude_sse(*events, WaitFor(gate), claude_error_body("overloaded_error", "Busy")))

    with sdk.chat.completions.create(model=model, messages=USER, stream=True) as stream:
        assert next(stream).choices[0].delta.content == ""
        gate.set()
        with pytest.raises(openai.APIError) as caught:
            list(stream)

    assert (type(caught.value), caught.value.code) == (openai.APIError, "overloaded")
    assert caught.value.message == "The upstream is overloaded. It said: Busy"


def test_a_stream_that_is_cut(claude: ClaudeBed, sdk: OpenAI) -> None:
    script = claude_sse(*claude_events(text_block("one ", "two"))[:5], Close())
    model = claude.answered(script)
    pieces: list[str | None] = []

    with pytest.raises(openai.APIError) as caught, sdk.chat.completions.create(
        model=model, messages=USER, stream=True
    ) as stream:  # fmt: skip
        pieces += [chunk.choices[0].delta.content for chunk in stream]

    assert caught.value.code == "upstream_stream_truncated"
    answer = claude.ask(claude.answered(script), stream=True)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in answer.chunks)
    assert answer.stream_error is not None
    assert claude.ask(claude.answered(script)).status == 502


def broken_in_the_middle(claude: ClaudeBed, model: str, *rest: Any) -> Reply:
    """The answer to a stream that says "One two " and breaks; ``rest`` is what the other account says."""
    gate = threading.Event()
    claude.a.on(model, claude_sse(*claude_events(text_block("One ", "two "))[:5], WaitFor(gate), Close()), *rest)
    with claude.begin(model, max_tokens=50) as begun:
        first = [begun.next() for _ in range(3)]
        gate.set()
        return begun.answer([*first, *begun.rest()])


def test_a_broken_stream_goes_on_at_another_account(claude: ClaudeBed) -> None:
    answer = broken_in_the_middle(claude, RESUMED[0], text("Other"), text(" three", "."))

    assert (answer.text, answer.stream_error) == ("One two three.", None)
    *_, last = claude.requests(RESUMED[0])
    assert last["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "One two"}]}
    assert last["max_tokens"] == 48


def test_a_family_that_takes_no_begun_answer_is_not_asked_for_one(claude: ClaudeBed) -> None:
    answer = broken_in_the_middle(claude, RESUMED[1], text("Other"))

    assert answer.stream_error is not None
    assert (answer.text, answer.stream_error["code"]) == ("One two ", "upstream_stream_truncated")
    assert len(claude.requests(RESUMED[1])) == 2


# Headers and models


def test_the_upstreams_limits_in_openais_words(claude: ClaudeBed) -> None:
    limits = {
        "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2020-01-01T00:00:00Z",
        "anthropic-ratelimit-input-tokens-limit": "30000", "anthropic-ratelimit-input-tokens-remaining": "29000",
        "anthropic-ratelimit-output-tokens-limit": "8000", "anthropic-ratelimit-output-tokens-remaining": "100",
        "request-id": "req_upstream", "set-cookie": "a=b", "anthropic-organization-id": "org",
    }  # fmt: skip
    model = claude.answered(claude_sse(*claude_events(text_block("Hi")), headers=limits))

    answer = claude.ask(model)

    names = ("limit-requests", "remaining-requests", "reset-requests", "limit-tokens", "remaining-tokens")
    assert [answer.header(f"x-ratelimit-{name}") for name in names] == ["50", "49", "0ms", "8000", "100"]
    assert answer.header("anthropic-ratelimit-requests-remaining") == "49"
    assert answer.header("x-upstream-request-id") == "req_upstream"
    assert answer.header("set-cookie") is None
    assert answer.header("anthropic-organization-id") is None


def test_both_pages_of_the_model_list(claude: ClaudeBed, sdk: OpenAI) -> None:
    listed = {model.id: model for model in sdk.models.list()}

    assert {LISTED[0], LISTED[-1]} <= listed.keys()
    assert (listed[LISTED[0]].owned_by, listed[LISTED[0]].created) == ("anthropic", 1763942400)
    assert sdk.models.retrieve(LISTED[-1]).id == LISTED[-1]


def test_a_client_that_leaves_frees_the_upstream(claude: ClaudeBed) -> None:
    model = claude.answered(claude_sse(*claude_events(text_block("Hi"))[:4], Hang()))

    with claude.begin(model) as begun:
        begun.next()

    assert claude.last(model).closed.wait(5)
