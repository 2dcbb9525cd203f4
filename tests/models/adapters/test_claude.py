"""The Claude adapter by itself: what it sends, returns, raises and remembers, and what it leaves open."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from one_api.contract import ChunkStream
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest, UpstreamError, UpstreamMisconfigured, UpstreamTimeout
from one_api.models.adapters.claude import ClaudeAdapter
from one_api.records import AttemptContext
from one_api.settings.adapters import ClaudeConfig, Timeouts
from one_api.settings.kinds import Secret
from tests.support import (
    Hang,
    ScriptedUpstream,
    Seen,
    Wait,
    WaitFor,
    claude_error,
    claude_events,
    claude_model,
    claude_sse,
    claude_upstream,
    error,
    json_reply,
    model_page,
    text_block,
    thinking_block,
    tool_block,
)

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
OPUS, HAIKU = "claude-opus-5", "claude-haiku-4-5"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]

Make = Callable[..., ClaudeAdapter]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with claude_upstream(OPUS, HAIKU) as running:
        yield running


@pytest.fixture
async def make(upstream: ScriptedUpstream) -> AsyncIterator[Make]:
    """Makes adapters; all are closed at the end, and then no connection or task of theirs is left."""
    made: list[ClaudeAdapter] = []

    def make_adapter(**settings: Any) -> ClaudeAdapter:
        made.append(
            ClaudeAdapter("claude", ClaudeConfig(**{"base_url": upstream.root_url, "models": (OPUS,)} | settings))
        )
        return made[-1]

    yield make_adapter
    for adapter in made:
        await adapter.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    while upstream.open_connections:
        await asyncio.sleep(0.01)


async def ask(
    adapter: ClaudeAdapter, messages: Any = MESSAGES, model: str = OPUS,
    context: AttemptContext | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A whole answer."""
    request = ChatRequest.of({"model": model, "messages": messages, **more})
    return await adapter.complete(request, context or AttemptContext())


async def stream(adapter: ClaudeAdapter, model: str = OPUS, **more: Any) -> list[dict[str, Any]]:
    """All chunks of a streamed answer, which is closed."""
    answer = await adapter.generate_completion(model, MESSAGES, stream=True, **more)
    assert isinstance(answer, ChunkStream)
    async with answer:
        return [chunk async for chunk in answer]


def told(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The text of one choice of a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


# Requests


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
async def test_where_and_how_it_asks(make: Make, upstream: ScriptedUpstream, end: str) -> None:
    adapter = make(base_url=upstream.root_url + end, api_key=Secret("sk-ant-api-1"), beta=("one-2026", "two-2026"))

    answer = await ask(adapter)

    seen = upstream.requests[-1]
    assert (seen.method, seen.path) == ("POST", "/v1/messages")
    names = ("x-api-key", "authorization", "anthropic-version", "anthropic-beta", "content-type")
    assert [seen.headers.first(name) for name in names] == [
        "sk-ant-api-1", None, "2023-06-01", "one-2026,two-2026", "application/json"
    ]  # fmt: skip
    assert seen.json["stream"] is True
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": "Hello", "refusal": None, "annotations": []
    }  # fmt: skip


@pytest.mark.parametrize(("header", "key"), [("bearer", "sk-ant-api-1"), ("x-api-key", "sk-ant-oat-1")])
async def test_a_key_as_a_bearer_token(make: Make, upstream: ScriptedUpstream, header: Any, key: str) -> None:
    await ask(make(key_header=header, api_key=Secret(key), version="2026-10-21"))

    headers = upstream.requests[-1].headers
    assert (headers.first("authorization"), headers.first("x-api-key")) == (f"Bearer {key}", None)
    assert headers.first("anthropic-version") == "2026-10-21"


async def test_whole_and_streamed_answers_say_the_same(make: Make, upstream: ScriptedUpstream) -> None:
    blocks = thinking_block("Hm"), text_block("So"), tool_block("t", "weather", "{}")
    upstream.on(OPUS, claude_sse(*claude_events(*blocks, stop="tool_use")))
    adapter = make()

    whole = await ask(adapter, tools=TOOLS)
    chunks = await stream(adapter, tools=TOOLS, stream_options={"include_usage": True})

    assert told(chunks) == whole["choices"][0]["message"]["content"] == "So"
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_long_conversation_is_told_the_same_way(make: Make, upstream: ScriptedUpstream) -> None:
    """It is translated in a thread, where thinking is found and faults are raised as well."""
    upstream.on(OPUS, CALLING, claude_sse(*claude_events(text_block("Sunny."))))
    adapter = make()
    turns = [*history(await ask(adapter, tools=TOOLS)), *MESSAGES * 200]

    context = AttemptContext()
    await ask(adapter, turns, context=context, tools=TOOLS, seed=7)

    sent = upstream.requests[-1].json["messages"]
    assert sent[1]["content"] == THOUGHT
    assert len(sent[2]["content"]) == 201
    assert context.warnings == ["seed"]
    with pytest.raises(InvalidRequest):
        await ask(adapter, turns, logprobs=True)


async def test_a_file_that_the_operator_has_stored(make: Make, upstream: ScriptedUpstream) -> None:
    part = {"type": "file", "file": {"file_id": "file-1"}}

    await ask(make(file_ids={"file-1": "file_011C"}), [{"role": "user", "content": [part]}])

    (block,) = upstream.requests[-1].json["messages"][0]["content"]
    assert block == {"type": "document", "source": {"type": "file", "file_id": "file_011C"}}


async def test_a_search_where_the_operator_allows_it(make: Make, upstream: ScriptedUpstream) -> None:
    await ask(make(web_search="web_search_20250305"), web_search_options={})

    assert upstream.requests[-1].json["tools"] == [{"type": "web_search_20250305", "name": "web_search"}]


async def test_what_was_altered_is_noted(make: Make) -> None:
    context = AttemptContext()

    await ask(make(), context=context, seed=7)

    assert context.warnings == ["seed"]


async def test_strictness_refuses_it_instead(make: Make, upstream: ScriptedUpstream) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(make(strict=True), seed=7)
    assert caught.value.param == "seed"
    assert not upstream.requests


async def test_a_whole_answer_has_a_deadline(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, claude_sse(*claude_events(text_block("Hi"))[:4], Hang()))

    with pytest.raises(UpstreamTimeout):
        await ask(make(timeouts=Timeouts(total_s=0.2)))


async def test_a_model_that_thinks_in_silence_is_not_idle(make: Make, upstream: ScriptedUpstream) -> None:
    """Pings are events: they show that the upstream works."""
    events = claude_events(text_block("Hi"))
    waiting = [step for _ in range(5) for step in (Wait(0.4), {"type": "ping"})]
    upstream.on(OPUS, claude_sse(*events[:3], *waiting, *events[3:]))

    assert told(await stream(make(timeouts=Timeouts(idle_s=1.6)))) == "Hi"


@pytest.mark.parametrize("choices", [1, 2])
async def test_the_patience_of_a_group_counts_pings_too(make: Make, upstream: ScriptedUpstream, choices: int) -> None:
    events = claude_events(text_block("Hi"))
    waiting = [step for _ in range(5) for step in (Wait(0.4), {"type": "ping"})]
    upstream.on(OPUS, claude_sse(*events[:3], *waiting, *events[3:4], Hang()))
    answer = await make(emulate_n=True).generate_completion(OPUS, MESSAGES, stream=True, n=choices)
    assert isinstance(answer, ChunkStream)
    answer.idle_s = 1.6

    said = ""
    async with answer:
        with pytest.raises(UpstreamTimeout, match=r"next event within 1\.6 s"):
            async for chunk in answer:
                said += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])

    assert said.startswith("Hi")


async def test_a_client_that_leaves_frees_the_upstream(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, claude_sse(*claude_events(text_block("Hi"))[:4], Hang()))
    answer = await make().generate_completion(OPUS, MESSAGES, stream=True)
    assert isinstance(answer, ChunkStream)
    await answer.read()

    await answer.aclose()

    assert await asyncio.to_thread(upstream.requests[-1].closed.wait, 5)


@pytest.mark.parametrize(
    ("model", "able", "start"),
    [(HAIKU, True, "One"), ("claude-3-5-haiku", True, "One"), (HAIKU, False, None), (OPUS, True, None),
     ("claude-sonnet-4-6", True, None), ("claude-nope", True, None), ("llama", True, None)],
)  # fmt: skip
def test_who_goes_on_from_a_begun_answer(model: str, able: bool, start: str | None) -> None:
    adapter = ClaudeAdapter("claude", ClaudeConfig(prefill=able))

    assert adapter.prefill_start(model, "One \n") == start
    assert adapter.prefill_start(model, " ") is None


# Several choices


async def test_choices_are_refused_unless_emulated(make: Make) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(make(), n=2)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_value")


async def test_emulated_choices(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, *(claude_sse(*claude_events(text_block(text), message_id=f"msg_{text}")) for text in "abc"))

    answer = await ask(make(emulate_n=True), n=3)

    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert sorted(choice["message"]["content"] for choice in choices) == ["a", "b", "c"]
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 6, 15)
    assert usage["total_tokens_paid"] == 33


async def test_emulated_choices_of_a_stream(make: Make, upstream: ScriptedUpstream) -> None:
    gate, events = threading.Event(), claude_events(text_block("slow"))
    upstream.on(
        OPUS, claude_sse(*events[:3], WaitFor(gate), *events[3:]), claude_sse(*claude_events(text_block("fast")))
    )
    answer = await make(emulate_n=True).generate_completion(OPUS, MESSAGES, stream=True, n=2)
    assert isinstance(answer, ChunkStream)

    async with answer:
        chunks: list[Any] = []
        while "fast" not in (told(chunks, 0), told(chunks, 1)):
            chunks += await answer.read()
        gate.set()
        chunks += [chunk async for chunk in answer]

    assert {told(chunks, 0), told(chunks, 1)} == {"fast", "slow"}
    seen = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert seen.index(0) < seen.index(1)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 18


async def test_one_choice_that_fails_fails_all(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, claude_error(500, "api_error"), claude_sse(*claude_events(text_block("a"))[:4], Hang()))

    with pytest.raises(UpstreamError):
        await ask(make(emulate_n=True), n=3)


# Messages that pause


PAUSED = claude_sse(*claude_events(text_block("One "), stop="pause_turn"))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_paused_answer_is_continued(make: Make, upstream: ScriptedUpstream, streamed: bool) -> None:
    upstream.on(OPUS, PAUSED, claude_sse(*claude_events(text_block("two."))))

    if streamed:
        chunks = await stream(make(), stream_options={"include_usage": True})
        text, usage = told(chunks), chunks[-1]["usage"]
    else:
        answer = await ask(make())
        text, usage = answer["choices"][0]["message"]["content"], answer["usage"]

    assert text == "One two."
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (18, 4)
    first, second = (seen.json for seen in upstream.requests)
    assert second["messages"] == [
        *first["messages"], {"role": "assistant", "content": [{"type": "text", "text": "One "}]}
    ]  # fmt: skip


async def test_an_answer_that_always_pauses_ends(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, PAUSED)

    answer = await ask(make())

    assert len(upstream.requests) == 6
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == "One " * 6


async def test_who_stops_waiting_for_the_next_message_may_come_again(make: Make, upstream: ScriptedUpstream) -> None:
    gate = threading.Event()
    upstream.on(OPUS, PAUSED, [WaitFor(gate), *claude_sse(*claude_events(text_block("two.")))])
    answer = await make().generate_completion(OPUS, MESSAGES, stream=True)
    assert isinstance(answer, ChunkStream)

    async with answer:
        chunks: list[Any] = []
        while len(upstream.requests) < 2:
            try:
                async with asyncio.timeout(0.1):
                    chunks += await answer.read()
            except TimeoutError:
                continue
        gate.set()
        chunks += [chunk async for chunk in answer]

    assert told(chunks) == "One two."
    assert len(upstream.requests) == 2


async def test_who_leaves_while_the_next_message_is_awaited(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, PAUSED, [Hang()])
    answer = await make().generate_completion(OPUS, MESSAGES, stream=True)
    assert isinstance(answer, ChunkStream)
    while len(upstream.requests) < 2:
        try:
            async with asyncio.timeout(0.1):
                await answer.read()
        except TimeoutError:
            continue

    await answer.aclose()

    assert await asyncio.to_thread(upstream.requests[-1].closed.wait, 5)


# Thinking


def history(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation after a tool was called, as a client that knows no extensions sends it back."""
    message = {key: answer["choices"][0]["message"][key] for key in ("role", "content", "tool_calls")}
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    return [*MESSAGES, message, result]


CALLING = claude_sse(
    *claude_events(thinking_block("Hm", signature="s1"), tool_block("t1", "weather", '{"a": 1}'), stop="tool_use")
)
THOUGHT = [
    {"type": "thinking", "thinking": "Hm", "signature": "s1"},
    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}},
]


async def test_thinking_that_the_client_dropped_is_sent_back(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, CALLING, claude_sse(*claude_events(text_block("Sunny."))))
    adapter = make()

    answer = await ask(adapter, tools=TOOLS)
    await ask(adapter, history(answer), tools=TOOLS)

    assert upstream.requests[-1].json["messages"][1] == {"role": "assistant", "content": THOUGHT}


async def test_thinking_is_never_sent_for_another_caller(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on(OPUS, CALLING, claude_sse(*claude_events(text_block("Sunny."))))
    adapter = make()

    answer = await ask(adapter, context=AttemptContext("alice"), tools=TOOLS)
    await ask(adapter, history(answer), context=AttemptContext("bob"), tools=TOOLS)

    assert [block["type"] for block in upstream.requests[-1].json["messages"][1]["content"]] == ["tool_use"]


async def test_thinking_is_not_sent_back_when_the_client_changed_the_turn(
    make: Make, upstream: ScriptedUpstream
) -> None:
    upstream.on(OPUS, CALLING, claude_sse(*claude_events(text_block("Sunny."))))
    adapter = make()

    changed = history(await ask(adapter, tools=TOOLS))
    changed[1]["tool_calls"][0]["function"]["arguments"] = '{"a":2}'
    await ask(adapter, changed, tools=TOOLS)

    assert upstream.requests[-1].json["messages"][1]["content"][0]["input"] == {"a": 2}


async def test_a_model_that_misses_its_thinking_goes_without(make: Make, upstream: ScriptedUpstream) -> None:
    refusal = "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`."

    def answer(seen: Seen) -> Any:
        if "thinking" in seen.json:
            return claude_error(400, "invalid_request_error", refusal)
        return claude_sse(*claude_events(text_block("Sunny.")))

    upstream.on(HAIKU, answer)
    call = {"id": "t9", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t9", "content": "x"},
    ]

    context = AttemptContext()
    found = await ask(make(), turns, HAIKU, context, tools=TOOLS, reasoning_effort="low")

    assert found["choices"][0]["message"]["content"] == "Sunny."
    assert [("thinking" in seen.json) for seen in upstream.requests] == [True, False]
    assert "reasoning_effort" in context.warnings


# Models


async def test_all_pages_of_the_list(make: Make, upstream: ScriptedUpstream) -> None:
    limits = {"max_input_tokens": 200_000, "max_tokens": 32_000, "retires_at": "2027-01-05T00:00:00Z"}
    upstream.on_models(
        model_page(claude_model("claude-a", **limits), claude_model("claude b", lifecycle="retired"), more=True),
        model_page(claude_model("claude-c", lifecycle="deprecated")),
    )
    adapter = make(models=None)
    await adapter.start()
    await adapter.wait_discovered(5)

    assert adapter.pending is None
    assert [info.id for info in adapter.list_models()] == ["claude-a", "claude-c"]
    assert [seen.path for seen in upstream.model_requests] == [
        "/v1/models?limit=1000", "/v1/models?limit=1000&after_id=claude%20b"
    ]  # fmt: skip
    info = adapter.get_model_info("claude-a")
    assert info is not None
    assert info.to_openai("claude-a") == {
        "id": "claude-a", "object": "model", "created": 1763942400, "owned_by": "anthropic",
        "context_window": 200_000, "context_length": 200_000, "max_model_len": 200_000, "max_output_tokens": 32_000,
        "shutdown_date": "2027-01-05", "display_name": "Claude-A",
    }  # fmt: skip


async def test_a_list_that_never_ends_is_left(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on_models(model_page(claude_model("claude-a"), more=True))
    adapter = make(models=None)
    await adapter.start()
    await adapter.wait_discovered(5)

    assert [info.id for info in adapter.list_models()] == ["claude-a"]
    assert len(upstream.model_requests) == 2


async def test_the_list_corrects_what_is_known_of_configured_models_and_adds_none(
    make: Make, upstream: ScriptedUpstream
) -> None:
    upstream.on_models(model_page(claude_model(f"{OPUS}-20260101", max_tokens=777), claude_model("claude-other")))
    adapter = make(models=(OPUS,))
    await adapter.start()
    async with asyncio.timeout(5):
        while await sent_limit(adapter, upstream) != 777:
            pass

    assert [info.id for info in adapter.list_models()] == [OPUS]


@pytest.mark.parametrize("listing", [error(404), error(200, "<html>"), json_reply({"object": "list"})])
async def test_an_upstream_without_a_list_changes_nothing_for_configured_models(
    make: Make, upstream: ScriptedUpstream, listing: Any
) -> None:
    upstream.on_models(listing)
    adapter = make(models=(OPUS,))
    await adapter.start()
    async with asyncio.timeout(5):
        while not upstream.model_requests or not upstream.model_requests[-1].ended.is_set():
            await asyncio.sleep(0.01)

    assert await sent_limit(adapter, upstream) == 128_000
    assert (adapter.pending, [info.id for info in adapter.list_models()]) == (None, [OPUS])


async def test_nobody_waits_for_a_list_that_only_corrects(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on_models([Hang()])
    adapter = make(models=(OPUS,))
    await adapter.start()

    async with asyncio.timeout(2):
        await adapter.wait_discovered(60)


async def sent_limit(adapter: ClaudeAdapter, upstream: ScriptedUpstream) -> int:
    """The limit of an answer, in tokens, that the upstream gets when the client gives none."""
    await ask(adapter)
    return int(upstream.requests[-1].json["max_tokens"])


async def test_what_the_list_says_of_a_model_counts(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on_models(model_page(claude_model(OPUS, max_tokens=777)))
    adapter = make(models=None)
    await adapter.start()
    await adapter.wait_discovered(5)

    await ask(adapter)

    assert upstream.requests[-1].json["max_tokens"] == 777


async def test_a_refused_credential(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on_models(claude_error(401, "authentication_error", "invalid x-api-key sk-ant-api03-secret"))
    adapter = make(models=None)
    await adapter.start()
    await adapter.wait_discovered(5)

    assert adapter.pending == "The upstream refused this gateway's credential. It said: invalid x-api-key [removed]"
    upstream.on(OPUS, claude_error(401, "authentication_error", "invalid x-api-key"))
    with pytest.raises(UpstreamMisconfigured):
        await ask(adapter)
