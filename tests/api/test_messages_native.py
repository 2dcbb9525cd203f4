"""``/v1/messages`` over an upstream that speaks Messages itself, and over both kinds together."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam

from one_api.dialects.sse import EventReader
from tests.support import (
    Chop,
    Close,
    claude_bytes,
    claude_error,
    claude_error_body,
    claude_events,
    claude_sse,
    completion,
    error,
    joined,
    json_reply,
    redacted_block,
    sse,
    text_block,
    text_chunks,
    thinking_block,
    tool_block,
)

from .bed import KEY, user
from .messages_bed import UPSTREAM_KEY, MessagesBed, message_events, running_messages_bed
from .test_messages import BETAS, CLAUDE_CODE, failed

HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]
BLOCKS = (
    thinking_block("Hm", "."),
    redacted_block(),
    text_block("Grüß", " Gott"),
    tool_block("toolu_1", "look", '{"at"', ':"x"}'),
)


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


@pytest.fixture(scope="module")
def sdk(doors: MessagesBed) -> Iterator[anthropic.Anthropic]:
    with doors.anthropic() as opened:
        yield opened


def whole(model: str, **fields: Any) -> Any:
    """A script that answers with a whole message."""
    message = {
        "id": "msg_01", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 5}, **fields,
    }  # fmt: skip
    return json_reply(message)


# Requests


def test_the_body_and_the_betas_pass_as_they_came(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), model=model)))
    body = {**CLAUDE_CODE, "stream": True, "safeguards": {"mode": "auto"}, "unheard_of": 1.0, "model": model}
    data = json.dumps(body, indent=1).replace("1.0", "1.00e0").encode()
    headers = {
        "anthropic-beta": BETAS.replace(",", ", "),
        "anthropic-version": "2026-10-21",
        "x-stainless-lang": "js",
        "x-app": "cli",
    }

    answer = doors.post_to("/v1/messages?beta=true", data, headers=headers)

    assert answer.status == 200
    seen = doors.last(model)
    assert seen.body == data
    assert seen.path == "/v1/messages"
    assert seen.headers.first("anthropic-beta") == BETAS.replace(",", ", ")
    assert seen.headers.first("anthropic-version") == "2026-10-21"
    assert seen.headers.first("x-api-key") == UPSTREAM_KEY
    assert KEY not in str(seen.headers)
    assert [seen.headers.first(name) for name in ("authorization", "x-stainless-lang", "x-app")] == [None] * 3


def test_an_alias_changes_the_name_and_nothing_else(doors: MessagesBed) -> None:
    alias = doors.model("alias")
    real = alias.replace("alias", "real")
    doors.a.on(real, whole(real))
    data = json.dumps({"max_tokens": 5, "messages": user("Grüß"), "model": alias, "x": {"m": 1.0}}, indent=1).encode()

    answer = doors.post_to("/v1/messages", data)

    assert doors.last(real).body == data.replace(alias.encode(), real.encode())
    assert answer.json["model"] == alias


def test_thinking_of_other_models_is_taken_out(doors: MessagesBed) -> None:
    model = doors.model("claude")
    theirs = {"type": "thinking", "thinking": "Hm.", "signature": "sig=="}
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    sealed = {"type": "thinking", "thinking": "", "signature": "gw1.AAAA"}
    said = {"type": "text", "text": "Hi"}
    doors.a.on(model, whole(model))

    doors.message(model, messages=[
        *user(), {"role": "assistant", "content": [unsigned, sealed, theirs, said]}, *user("So?"),
    ])  # fmt: skip

    assert doors.sent_to("a", model)["messages"][1]["content"] == [theirs, said]


def test_a_server_with_other_habits() -> None:
    settings = {
        "betas": "strip", "beta": ["own-beta"], "strip_fields": ["context_management"], "system_role": "user",
        "deny_betas": [],
    }  # fmt: skip
    with running_messages_bed(claude=settings) as doors:
        model = doors.model("claude")
        doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), model=model)))
        doors.message(model, headers={"anthropic-beta": BETAS}, **{**CLAUDE_CODE, "max_tokens": 5, "stream": True})

        sent = doors.sent_to("a", model)
        assert "context_management" not in sent
        assert [message["role"] for message in sent["messages"]] == ["user", "user"]
        assert doors.last(model).headers.first("anthropic-beta") == "own-beta"


# Answers


def test_the_events_pass_as_they_came(doors: MessagesBed) -> None:
    model = doors.model("claude")
    events = claude_events(*BLOCKS, stop="tool_use", model=model)
    doors.a.on(model, claude_sse(*events, {"type": "after", "all": 1}))

    answer = doors.message(model, stream=True)

    assert message_events(answer) == events
    assert b"".join(answer.body.partition(b"event: ping")[1:]) == b"".join(
        claude_bytes(*events).partition(b"event: ping")[1:]
    )
    record = doors.record_of(answer)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 2)


@pytest.mark.parametrize("size", [1, 7])
def test_events_that_are_split_between_reads(doors: MessagesBed, size: int) -> None:
    model = doors.model("claude")
    events = claude_events(*BLOCKS, stop="tool_use", model=model)
    doors.a.on(model, [Chop(joined(claude_sse(*events)), size)])

    assert message_events(doors.message(model, stream=True)) == events


def test_the_stream_helper(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    alias = doors.model("alias")
    real = alias.replace("alias", "real")
    doors.a.on(real, claude_sse(*claude_events(*BLOCKS, stop="tool_use", model=real)))

    with sdk.messages.stream(model=alias, max_tokens=50, messages=HI) as stream:
        message = stream.get_final_message()

    assert message.model == alias
    assert message.id == "msg_01"
    assert [block.type for block in message.content] == ["thinking", "redacted_thinking", "text", "tool_use"]


def test_a_whole_message_passes_as_it_came(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, whole(model, unheard_of={"new": 1.0}))

    answer = doors.message(model)

    assert answer.json["unheard_of"] == {"new": 1.0}
    assert answer.json["usage"]["cache_read_input_tokens"] == 5
    assert "stream" not in doors.sent_to("a", model)
    record = doors.record_of(answer)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (8, 2)


@pytest.mark.parametrize("name", ["id", "type", "role", "model", "content", "input_tokens", "output_tokens", "usage"])
@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_strict_client_reads_a_message_that_lacks_a_part_of_its_head(
    doors: MessagesBed, name: str, null: bool, stream: bool
) -> None:
    model = doors.model("claude")
    payloads = claude_events(text_block("Hello"), model=model)
    head: Any = payloads[0]["message"]
    holder = head["usage"] if name.endswith("tokens") else head
    del holder[name]
    if null:
        holder[name] = None
    said = {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"}
    doors.a.on(model, claude_sse(*payloads) if stream else json_reply(head | said))

    with anthropic.Anthropic(base_url=doors.gateway.url, api_key=KEY, _strict_response_validation=True) as strict:
        if stream:
            with strict.messages.stream(model=model, max_tokens=9, messages=HI) as events:
                message: Any = events.get_final_message()
        else:
            message = strict.messages.create(model=model, max_tokens=9, messages=HI)

    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert message.id.startswith("msg_")
    assert message.content[0].text == "Hello"


@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
def test_a_strict_client_reads_blocks_and_counts_that_lack_a_part(doors: MessagesBed, null: bool) -> None:
    model = doors.model("claude")
    payloads: list[Any] = deepcopy(claude_events(*BLOCKS, stop="tool_use", model=model))
    starts = [each["content_block"] for each in payloads if each["type"] == "content_block_start"]
    thinking, call, said = starts[0], starts[-1], payloads[-2]["usage"]
    for holder, name in ((thinking, "signature"), (call, "id"), (said, "output_tokens")):
        del holder[name]
        if null:
            holder[name] = None
    lacking = [thinking, {"type": "text", "text": "Hello"}, call]
    doors.a.on(model, claude_sse(*payloads), whole(model, content=lacking, stop_reason="tool_use"))

    with anthropic.Anthropic(base_url=doors.gateway.url, api_key=KEY, _strict_response_validation=True) as strict:
        with strict.messages.stream(model=model, max_tokens=9, messages=HI) as events:
            streamed: Any = events.get_final_message()
        found: Any = strict.messages.create(model=model, max_tokens=9, messages=HI)

    for message in (streamed, found):
        assert (message.content[0].type, message.content[-1].type) == ("thinking", "tool_use")
        assert message.content[-1].id
        assert isinstance(message.usage.output_tokens, int)


def test_a_long_whole_message_is_streamed_by_the_upstream(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_sse(*claude_events(*BLOCKS, stop="tool_use", model=model)))

    answer = doors.message(model, max_tokens=64000)

    assert doors.sent_to("a", model)["stream"] is True
    assert answer.json["stop_reason"] == "tool_use"
    assert answer.json["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "Grüß Gott"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "x"}},
    ]


def test_a_long_whole_message_that_is_cut_is_an_error(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), stop=None), Close()))

    assert failed(doors.message(model, max_tokens=64000)) == (502, "api_error")


def test_a_stream_that_is_cut_is_never_complete(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), stop=None), Close()))

    events = message_events(doors.message(model, stream=True))

    assert events[-1]["type"] == "error"
    assert "message_stop" not in [event["type"] for event in events]


# Errors


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_upstream_keeps_its_words(doors: MessagesBed, stream: bool) -> None:
    model = doors.model("claude")
    said = "messages.1.role: role 'system' is not supported on this model"
    doors.a.on(model, claude_error(400, "invalid_request_error", said, {"request-id": "req_upstream"}))

    answer = doors.message(model, stream=stream)

    assert failed(answer) == (400, "invalid_request_error")
    assert answer.json["error"]["message"] == said
    assert answer.header("x-upstream-request-id") == "req_upstream"


def test_the_limits_of_the_upstreams_account_are_not_the_clients(doors: MessagesBed) -> None:
    model = doors.model("claude")
    headers = {"anthropic-ratelimit-tokens-remaining": "5", "anthropic-ratelimit-requests-limit": "7"}
    doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), model=model), headers=headers))

    answer = doors.message(model, stream=True)

    assert answer.header("anthropic-ratelimit-tokens-remaining") is None
    assert answer.header("anthropic-ratelimit-requests-limit") == "100000"


def test_our_own_key_is_not_the_clients_fault(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_error(401, "authentication_error", "invalid x-api-key"))

    answer = doors.message(model)

    assert failed(answer) == (502, "api_error")
    assert answer.header("x-should-retry") == "false"


# Both kinds


@pytest.mark.parametrize("stream", [False, True])
def test_failover_to_claude_starts_from_the_clients_own_body(doors: MessagesBed, stream: bool) -> None:
    group = doors.model("mixed")
    model = group.replace("mixed", "m")
    doors.o.on(model, error(503))
    doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), model=model)) if stream else whole(model))
    body = {"model": group, "max_tokens": 5, "messages": user(), "stream": stream, "unheard_of": 1}

    answer = doors.post_to("/v1/messages", body)

    assert answer.status == 200
    assert doors.sent_to("a", model) == body | {"model": model}
    assert doors.sent_to("o", model)["max_completion_tokens"] == 5
    assert doors.record_of(answer)["native"] is True
    named = message_events(answer)[0]["message"] if stream else answer.json
    assert named["model"] == group


@pytest.mark.parametrize("stream", [False, True])
def test_failover_from_claude_to_chat(doors: MessagesBed, stream: bool) -> None:
    group = doors.model("reverse")
    model = group.replace("reverse", "r")
    events = claude_events(text_block("Hi"), model=model)
    first = claude_sse(events[0], claude_error_body("overloaded_error")) if stream else claude_error(529, "overloaded")
    doors.a.on(model, first)
    doors.o.on(model, sse(*text_chunks("Hel", "lo", model=model)) if stream else json_reply(completion("Hello")))

    answer = doors.message(group, stream=stream)

    assert answer.status == 200
    assert doors.record_of(answer)["native"] is False
    if not stream:
        assert answer.json["content"] == [{"type": "text", "text": "Hello"}]
        return
    found = message_events(answer)
    assert [event["type"] for event in found].count("message_start") == 1
    assert found[0]["message"]["model"] == group
    assert found[-1]["type"] == "message_stop"


def test_what_only_claude_can_do_goes_to_claude(doors: MessagesBed) -> None:
    group = doors.model("mixed")
    model = group.replace("mixed", "m")
    doors.a.on(model, whole(model))
    tools = [{"type": "web_search_20260209", "name": "web_search"}]

    answer = doors.message(group, tools=tools)

    assert answer.status == 200
    assert doors.sent_to("a", model)["tools"] == tools
    assert doors.asked(model) == {"a": 1}


def test_a_stream_that_breaks_after_content_is_not_begun_anew() -> None:
    with running_messages_bed() as doors:
        group = doors.model("reverse")
        model = group.replace("reverse", "r")
        doors.a.on(model, claude_sse(*claude_events(text_block("Hi"), stop=None), Close()))

        events = message_events(doors.message(group, stream=True))

        assert [event["type"] for event in events].count("message_start") == 1
        assert events[-1]["type"] == "error"


def test_tokens_are_counted_by_claude(doors: MessagesBed, sdk: anthropic.Anthropic) -> None:
    model = doors.model("claude")
    doors.a.on(model, json_reply({"input_tokens": 14}))

    found = sdk.messages.count_tokens(model=model, messages=HI, system="Be brief.")

    assert found.input_tokens == 14
    assert doors.last(model).path == "/v1/messages/count_tokens"
    assert doors.sent_to("a", model) == {"model": model, "messages": HI, "system": "Be brief."}


def test_tokens_are_estimated_where_claude_fails(doors: MessagesBed) -> None:
    model = doors.model("claude")
    doors.a.on(model, claude_error(500, "api_error"))

    answer = doors.post_to("/v1/messages/count_tokens", {"model": model, "messages": user()})

    assert answer.json["input_tokens"] > 0
    assert answer.header("x-gateway-warnings") == "input_tokens: estimated"


def test_the_cache_keeps_no_native_answer() -> None:
    with running_messages_bed(cache={"enabled": True}) as doors:
        native, chat = doors.model("claude"), doors.model()
        doors.a.on(native, whole(native))

        twice = [doors.message(native).header("x-gateway-cache") for _ in range(2)]
        translated = [doors.message(chat, temperature=0) for _ in range(2)]

        assert twice == [None, None]
        assert [answer.header("x-gateway-cache") for answer in translated] == ["miss", "hit"]
        assert translated[0].json["id"] != translated[1].json["id"]
        assert translated[0].json["content"] == translated[1].json["content"]


def test_every_event_is_named(doors: MessagesBed) -> None:
    model = doors.model("claude")
    raw = claude_bytes(*claude_events(text_block("Hi"), model=model))
    nameless = b"".join(line + b"\n" for line in raw.split(b"\n") if not line.startswith(b"event:"))
    doors.a.on(model, sse(nameless, done=False))

    answer = doors.message(model, stream=True)

    assert [event.name for event in EventReader().feed(answer.body)] == [
        event["type"] for event in claude_events(text_block("Hi")) if event["type"] != "ping"
    ]
