"""``/v1/messages`` over an upstream that knows chat only, with Anthropic's own client and byte by byte."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.support import (
    Close,
    Gateway,
    Hang,
    RawClient,
    ScriptedUpstream,
    WaitFor,
    completion,
    error,
    error_body,
    json_reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import KEY, Answer, adapter, user, yaml
from .messages_bed import MessagesBed, message_events, post, running_messages_bed

HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]
LOOK: ToolParam = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
USAGE = {**tokens(100, 7), "prompt_tokens_details": {"cached_tokens": 60}}


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


@pytest.fixture(scope="module")
def sdk(doors: MessagesBed) -> Iterator[anthropic.Anthropic]:
    with doors.anthropic() as opened:
        yield opened


def failed(answer: Answer) -> tuple[int, str]:
    """The status and the type of an error in Anthropic's envelope."""
    assert answer.json.keys() == {"type", "error", "request_id"}
    assert answer.json["type"] == "error"
    assert answer.json["request_id"] == answer.header("request-id") == answer.header("x-request-id")
    return answer.status, answer.json["error"]["type"]


# Answers


def test_create(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(model, json_reply(completion("Hello", model=model, usage=USAGE)))

    message = sdk.messages.create(model=model, max_tokens=50, messages=HI, system="Be brief.")

    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello"
    assert (message.model, message.role, message.stop_reason) == (model, "assistant", "end_turn")
    assert message.id.startswith("msg_")
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (40, 7, 60)
    assert doors.sent_to("o", model) == {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 50,
    }


def test_the_stream_helper(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(model, sse(*text_chunks("Hel", "lo", model=model, usage=USAGE)))

    with sdk.messages.stream(model=model, max_tokens=50, messages=HI) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()

    assert pieces == ["Hel", "lo"]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (40, 60)
    assert doors.sent_to("o", model)["stream_options"] == {"include_usage": True}


def test_the_events_of_a_stream(doors: MessagesBed) -> None:
    model = doors.model()
    doors.o.on(model, sse(*text_chunks("Hel", "lo", model=model, usage=USAGE)))

    answer = doors.message(model, stream=True)

    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    events = message_events(answer)
    assert [event["type"] for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert events[-2]["usage"] == {
        "input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 60, "output_tokens": 7,
    }  # fmt: skip


def test_a_loop_of_tools(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(
        model,
        sse(*tool_chunks(("look", '{"at":', '"x"}'), ("look", "{}"), model=model, usage=USAGE)),
        sse(*text_chunks("Seen.", model=model, usage=USAGE)),
    )
    with sdk.messages.stream(model=model, max_tokens=50, messages=HI, tools=[LOOK]) as stream:
        first = stream.get_final_message()
    calls = [block for block in first.content if block.type == "tool_use"]
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "dark"} for call in calls]
    replayed: Any = [block.model_dump() for block in first.content]

    with sdk.messages.stream(
        model=model,
        max_tokens=50,
        messages=[*HI, {"role": "assistant", "content": replayed}, {"role": "user", "content": results}],
        tools=[LOOK],
    ) as stream:
        second = stream.get_final_text()

    assert first.stop_reason == "tool_use"
    assert [call.input for call in calls] == [{"at": "x"}, {}]
    assert second == "Seen."
    assert [message["role"] for message in doors.sent_to("o", model)["messages"]] == [
        "user", "assistant", "tool", "tool",
    ]  # fmt: skip


def test_the_tool_runner_repeats_without_threads(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(
        model,
        json_reply(completion(None, model=model, finish="tool_calls", tool_calls=[
            {"id": "call_1", "type": "function", "function": {"name": "double", "arguments": '{"number": 4}'}}
        ])),
        json_reply(completion("8", model=model)),
    )  # fmt: skip

    @anthropic.beta_tool
    def double(number: int) -> str:
        """Double a number.

        Args:
            number: The number.
        """
        return str(2 * number)

    runner = sdk.beta.messages.tool_runner(
        model=model, max_tokens=50, tools=[double], messages=[{"role": "user", "content": "4?"}]
    )
    final = runner.until_done()

    assert final.content[0].type == "text"
    assert final.content[0].text == "8"
    sent = doors.sent_to("o", model)["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[-1]["content"] == "8"


CLAUDE_CODE: dict[str, Any] = {
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332; cch=00000;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "The folder is /tmp.", "output_config": {"effort": "low"}},
    ],
    "tools": [
        {**LOOK, "input_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}},
        {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": True},
    ],
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
    "max_tokens": 32000,
}
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,per-turn-control-2026-07-01"


def test_a_request_of_claude_code(doors: MessagesBed) -> None:
    model = doors.model()

    answer = doors.message(model, headers={"anthropic-beta": BETAS}, **CLAUDE_CODE)

    assert answer.status == 200
    sent = doors.sent_to("o", model)
    assert sent.keys() == {"model", "messages", "max_completion_tokens", "tools", "user"}
    assert sent["messages"] == [
        {
            "role": "system",
            "content": [{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Be brief."}],
        },
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "The folder is /tmp."},
    ]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["look"]
    assert "device" not in sent["user"]
    last = next(seen for seen in reversed(doors.o.requests) if seen.model == model)
    assert last.headers.first("anthropic-beta") is None


def test_reasoning_is_shown_to_those_who_ask(doors: MessagesBed) -> None:
    model = doors.model()
    said = [*text_chunks("Hi", model=model, usage=USAGE)]
    said.insert(1, {**said[0], "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]})
    doors.o.on(model, sse(*said))

    shown = message_events(doors.message(model, stream=True, thinking={"type": "adaptive", "display": "summarized"}))
    hidden = message_events(doors.message(model, stream=True, thinking={"type": "adaptive", "display": "omitted"}))

    assert [event["content_block"]["type"] for event in shown if event["type"] == "content_block_start"] == [
        "thinking",
        "text",
    ]
    assert "Hm." not in json.dumps(hidden)


def test_reasoning_goes_back_to_its_model_beside_its_calls(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model, other = doors.model(), doors.model()
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said = completion(None, model=model, finish="tool_calls", reasoning_content="Look there.", tool_calls=[call])
    doors.o.on(model, json_reply(said), json_reply(completion("Seen.", model=model)))
    asked: Any = {"max_tokens": 50, "tools": [LOOK], "thinking": {"type": "adaptive", "display": "omitted"}}
    first = sdk.messages.create(model=model, messages=HI, **asked)
    history: Any = [
        *HI,
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "dark"}]},
    ]

    sdk.messages.create(model=model, messages=history, **asked)
    sdk.messages.create(model=other, messages=history, **asked)

    assert first.content[0].type == "thinking"
    assert first.content[0].thinking == ""
    assert "Look" not in first.content[0].signature
    assert doors.sent_to("o", model)["messages"][1]["reasoning_content"] == "Look there."
    assert "reasoning_content" not in doors.sent_to("o", other)["messages"][1]


def test_a_filtered_answer_is_a_refusal(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(model, json_reply(completion("I", model=model, finish="content_filter")))

    assert sdk.messages.create(model=model, max_tokens=50, messages=HI).stop_reason == "refusal"


def test_effort_and_length_are_what_the_model_takes() -> None:
    with ScriptedUpstream() as upstream:
        listed = [
            {"id": "thinker-1", "object": "model", "max_output_tokens": 2000},
            {"id": "small", "object": "model", "context_window": 4096},
            {"id": "unknown", "object": "model"},
        ]
        upstream.on_models(json_reply({"object": "list", "data": listed}))
        gateway = Gateway(ready_path="/ready")
        gateway.config_yaml = yaml(
            adapters={"x": adapter(upstream, None, reasoning_models=["thinker-*"])},
            server={"host": gateway.host, "port": gateway.port},
        )
        with gateway:
            bed = MessagesBed(gateway, {"o": upstream})
            asked: dict[str, Any] = {"max_tokens": 32000, "output_config": {"effort": "max"}}
            warnings = {
                model: bed.message(model, **asked).header("x-gateway-warnings") for model in ("thinker-1", "small")
            }
            plain = bed.message("unknown", **asked)
            sent = {model: bed.sent_to("o", model) for model in ("thinker-1", "small", "unknown")}

    assert (sent["thinker-1"]["reasoning_effort"], sent["thinker-1"]["max_completion_tokens"]) == ("high", 2000)
    assert sent["small"]["max_completion_tokens"] == 2048
    assert "reasoning_effort" not in sent["small"]
    assert sent["unknown"]["max_completion_tokens"] == 32000
    assert warnings == {"thinker-1": "max_tokens", "small": "max_tokens"}
    assert plain.header("x-gateway-warnings") is None


# Streams that break


def test_a_stream_that_is_cut_is_never_complete(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()
    doors.o.on(model, sse(*text_chunks("Hel", finish=None, model=model), Close(), done=False))

    events = message_events(doors.message(model, stream=True))

    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert "message_stop" not in [event["type"] for event in events]
    with (
        pytest.raises(anthropic.APIStatusError),
        sdk.messages.stream(model=model, max_tokens=50, messages=HI) as stream,
    ):
        stream.get_final_message()


def test_an_error_before_the_first_content_has_its_status(doors: MessagesBed) -> None:
    model = doors.model()
    doors.o.on(model, error(503))

    answer = doors.message(model, stream=True)

    assert failed(answer) == (529, "overloaded_error")
    assert answer.header("x-should-retry") == "false"


def test_silence_is_filled_with_pings_after_ten_seconds_at_most() -> None:
    with running_messages_bed({"heartbeat_s": 60, "commit_s": 0.3}) as doors:
        model, gate = doors.model(), threading.Event()
        first, *rest = text_chunks("Hel", "lo", model=model)
        doors.o.on(model, sse(first, rest[0], WaitFor(gate), *rest[1:]))
        with RawClient(doors.gateway.host, doors.gateway.port, timeout_s=30) as client:
            body = {"model": model, "max_tokens": 50, "messages": user(), "stream": True}
            client.send(post(doors.gateway, "/v1/messages", body))
            events = client.iter_events(client.read_head())
            began = time.monotonic()
            while "ping" not in next(events):
                pass
            silent_s = time.monotonic() - began
            gate.set()
            assert "message_stop" in list(events)[-1]

        assert silent_s < 15


def test_silence_is_filled_with_pings() -> None:
    with running_messages_bed({"heartbeat_s": 0.1, "commit_s": 0.3}) as doors:
        model, gate = doors.model(), threading.Event()
        first, *rest = text_chunks("Hel", "lo", model=model, usage=USAGE)
        doors.o.on(model, sse(first, rest[0], WaitFor(gate), *rest[1:]))
        timer = threading.Timer(1.0, gate.set)
        timer.start()

        answer = doors.message(model, stream=True)

        assert 'event: ping\ndata: {"type":"ping"}' in answer.events
        assert message_events(answer)[-1]["type"] == "message_stop"
        late = doors.model()
        doors.o.on(late, [WaitFor(gate2 := threading.Event()), *sse(*text_chunks("Hi", model=late))])
        threading.Timer(1.0, gate2.set).start()
        slow = doors.message(late, stream=True)
        assert slow.events[0].startswith(":")
        assert [event["type"] for event in message_events(slow)].count("message_start") == 1


# Errors


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_without_a_key(doors: MessagesBed, path: str) -> None:
    answer = doors.post_to(path, {}, key=None)

    assert failed(answer) == (401, "authentication_error")
    assert answer.header("x-should-retry") == "false"


def test_either_header_holds_the_key(doors: MessagesBed) -> None:
    model = doors.model()

    assert doors.message(model, key=None, headers={"x-api-key": KEY}).status == 200
    assert doors.message(model, headers={"x-api-key": KEY}).status == 200


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"])
def test_two_different_keys_are_refused_on_every_door(doors: MessagesBed, path: str) -> None:
    body = {"model": doors.model(), "max_tokens": 5, "messages": user()}

    assert doors.post_to(path, body, headers={"x-api-key": "another"}).status == 401


def test_errors_before_the_door(doors: MessagesBed) -> None:
    assert failed(doors.get("/v1/messages")) == (405, "invalid_request_error")
    assert doors.get("/v1/messages").header("allow")
    assert failed(doors.get("/v1/messages/batches")) == (404, "not_found_error")
    assert failed(doors.post_to("/v1/messages", b"{")) == (400, "invalid_request_error")
    assert failed(doors.message("nobody")) == (404, "not_found_error")


def test_a_body_that_is_too_large() -> None:
    with running_messages_bed({"max_body_bytes": 1000}) as doors:
        answer = doors.message(doors.model(), system="x" * 2000)

    assert failed(answer) == (413, "request_too_large")


def test_a_limit_is_told_in_anthropics_words() -> None:
    with running_messages_bed(env={"RATE_LIMIT_REQUESTS": "1"}) as doors:
        model = doors.model()
        began = datetime.now(UTC)
        first, second = doors.message(model), doors.message(model)
        ended = datetime.now(UTC)

    assert first.header("anthropic-ratelimit-requests-limit") == "1"
    reset = datetime.fromisoformat(first.header("anthropic-ratelimit-requests-reset") or "")
    assert timedelta(seconds=60) <= reset - began
    # A second that counts leaves the window as a whole, and the moment is rounded up to one.
    assert reset - ended <= timedelta(seconds=62)
    assert failed(second) == (429, "rate_limit_error")
    assert second.header("retry-after")


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"max_tokens": -1}, "max_tokens: "),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content: "),
        ({"messages": [{"role": "user", "content": []}], "system": "Be brief."}, "messages.0.content: "),
        ({"safeguards": {"mode": "auto"}}, "safeguards: "),
        ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, "tools.0: "),
    ],
)
def test_a_refusal_begins_with_the_place(doors: MessagesBed, fields: dict[str, Any], start: str) -> None:
    answer = doors.message(doors.model(), **fields)

    assert failed(answer) == (400, "invalid_request_error")
    assert answer.json["error"]["message"].startswith(start)


def test_a_prompt_that_is_too_long(doors: MessagesBed) -> None:
    model = doors.model()
    said = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."
    doors.o.on(model, error(400, error_body(said, "invalid_request_error", "context_length_exceeded")))

    answer = doors.message(model)

    assert failed(answer) == (400, "invalid_request_error")
    assert answer.json["error"]["message"] == "prompt is too long: 9001 tokens > 8192 maximum"


def test_a_deployment_that_is_down(doors: MessagesBed) -> None:
    with running_messages_bed() as other:
        model = other.model()
        other.o.on(model, [Close()])
        refused = other.message(model)

    assert refused.status in (502, 529)
    assert refused.header("x-should-retry") == "false"


def test_a_client_that_leaves_ends_the_exchange(doors: MessagesBed) -> None:
    model = doors.model()
    doors.o.on(model, sse(*text_chunks("Hel", finish=None, model=model), Hang(), done=False))
    with doors.anthropic() as client, client.messages.stream(model=model, max_tokens=50, messages=HI) as stream:
        assert next(iter(stream.text_stream)) == "Hel"

    assert doors.o.requests[-1].closed.wait(5)


# Counting


def test_tokens_are_estimated_where_nobody_counts(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model()

    answer = doors.post_to("/v1/messages/count_tokens?beta=true", {"model": model, "messages": user("x" * 400)})

    assert answer.json["input_tokens"] >= 100
    assert answer.header("x-gateway-warnings")
    assert sdk.messages.count_tokens(model=model, messages=HI).input_tokens > 0
    assert not [seen for seen in doors.o.requests if seen.model == model]


def test_counting_takes_nothing_of_the_limit() -> None:
    with running_messages_bed(env={"RATE_LIMIT_REQUESTS": "5"}) as doors, ThreadPoolExecutor(25) as pool:
        model = doors.model()
        body = {"model": model, "messages": user()}
        statuses = list(pool.map(lambda _: doors.post_to("/v1/messages/count_tokens", body).status, range(25)))

        assert statuses == [200] * 25
        assert doors.message(model).status == 200


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/responses/input_tokens"])
def test_counting_has_a_limit_of_its_own(path: str) -> None:
    with running_messages_bed(env={"RATE_LIMIT_REQUESTS": "1"}) as doors:
        model = doors.model()
        body = {"model": model, "messages": user(), "input": "hi"}
        *answered, refused = [doors.post_to(path, body) for _ in range(51)]

        assert {answer.status for answer in answered} == {200}
        assert (refused.status, refused.json["error"]["type"]) == (
            429,
            "rate_limit_error" if "messages" in path else "requests",
        )
        assert refused.header("retry-after")
        assert doors.message(model).status == 200


# Models


def test_the_list_of_models(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    pages = [*sdk.models.list(limit=1000).iter_pages()]

    ids = [info.id for page in pages for info in page.data]
    assert {"chat-0", "claude-0", "mixed-0"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert (pages[0].first_id, pages[-1].last_id) == (ids[0], ids[-1])
    assert [page.has_more for page in pages] == [True] * (len(pages) - 1) + [False]
    found = sdk.models.retrieve("o/m-1")
    assert (found.id, found.type, found.display_name, found.lifecycle) == ("o/m-1", "model", "o/m-1", "active")
    with pytest.raises(anthropic.NotFoundError):
        sdk.models.retrieve("nobody")
    assert doors.get("/v1/models").json["object"] == "list"


def test_other_models_have_an_alias_that_claude_code_shows() -> None:
    with running_messages_bed(models={"anthropic_alias_prefix": "claude-gw/"}) as doors, doors.anthropic() as sdk:
        model = doors.model()
        alias = f"claude-gw/{model}"

        ids = [info.id for info in sdk.models.list()]
        message = sdk.messages.create(model=alias, max_tokens=5, messages=HI)
        counted = sdk.messages.count_tokens(model=alias, messages=HI)

        assert alias in ids
        assert "claude-gw/claude-0" not in ids
        assert sdk.models.retrieve(alias).id == alias
        assert message.model == alias
        assert counted.input_tokens > 0
        assert doors.sent_to("o", model)["model"] == model


def test_only_what_chats_has_an_alias_and_is_shown_to_codex() -> None:
    kinds = {"chat-1": ["embedding"], "chat-2": ["chat", "embedding"]}
    with running_messages_bed(chat={"kinds": kinds}, models={"anthropic_alias_prefix": "claude-gw/"}) as doors:
        with doors.anthropic() as sdk:
            ids = {info.id for info in sdk.models.list()}
        slugs = {entry["slug"] for entry in doors.get("/v1/models?client_version=1").json["models"]}

        assert {"chat-1", "chat-2", "claude-gw/chat-0", "claude-gw/chat-2"} <= ids
        assert "claude-gw/chat-1" not in ids
        assert {"chat-0", "chat-2"} <= slugs
        assert "chat-1" not in slugs


@pytest.mark.parametrize("limit", [1, 90, 1000])
def test_the_sdk_reads_page_after_page(doors: MessagesBed, sdk: anthropic.Anthropic, limit: int) -> None:
    everything = [info.id for info in sdk.models.list()]
    first = sdk.models.list(limit=limit)

    assert len(first.data) == min(limit, len(everything))
    assert first.has_more == (limit < len(everything))
    if limit > 1:
        assert [info.id for info in first] == everything


def test_a_page_may_stand_before_or_after_a_model(sdk: anthropic.Anthropic) -> None:
    everything = [info.id for info in sdk.models.list()]

    after = sdk.models.list(limit=2, after_id=everything[4])
    before = sdk.models.list(limit=2, before_id=everything[4])

    assert [info.id for info in after.data] == everything[5:7]
    assert [info.id for info in before.data] == everything[2:4]
    assert (before.first_id, before.last_id, before.has_more) == (everything[2], everything[3], True)
    assert sdk.models.list(after_id=everything[-1]).data == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=nobody", "after_id=a&before_id=b"])
def test_a_page_that_there_is_not(doors: MessagesBed, query: str) -> None:
    answer = doors.get(f"/v1/models?{query}", headers={"anthropic-version": "2023-06-01"})

    assert failed(answer) == (400, "invalid_request_error")
    assert answer.json["error"]["message"].startswith(("limit: ", "after_id: ", "before_id: "))


def test_the_list_that_codex_reads(doors: MessagesBed) -> None:
    listed = doors.get("/v1/models?client_version=0.171.0").json

    assert listed["object"] == "list"
    assert [entry["slug"] for entry in listed["models"]] == [entry["id"] for entry in listed["data"]]
    assert listed["models"][0]["shell_type"] == "unified_exec"
    assert listed["models"][0]["base_instructions"]
