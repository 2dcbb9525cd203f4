"""The adapter for OpenAI-compatible servers, by itself: what it sends, returns and raises, and what it leaves open."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from one_api.contract import ChunkStream
from one_api.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from one_api.models.adapters.openai import OpenAIAdapter
from one_api.settings.adapters import OpenAIConfig, Timeouts
from one_api.settings.kinds import Secret
from one_api.upstream.errors import Reports
from tests.support import (
    Close,
    Hang,
    ScriptedUpstream,
    Send,
    Wait,
    WaitFor,
    blackhole,
    completion,
    error,
    error_body,
    free_port,
    json_reply,
    reply,
    sse,
    text_chunks,
    tokens,
)

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]

Make = Callable[..., OpenAIAdapter]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["first", "second"]) as running:
        yield running


@pytest.fixture
async def make(upstream: ScriptedUpstream) -> AsyncIterator[Make]:
    """Makes adapters; all are closed at the end, and then no connection or task of theirs is left."""
    made: list[OpenAIAdapter] = []

    def make_adapter(**settings: Any) -> OpenAIAdapter:
        defaults: dict[str, Any] = {"base_url": upstream.base_url, "models": ("m",), "timeouts": Timeouts(total_s=20)}
        made.append(OpenAIAdapter("a", OpenAIConfig(**defaults | settings)))
        return made[-1]

    yield make_adapter
    for adapter in made:
        await adapter.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    while upstream.open_connections:
        await asyncio.sleep(0.01)


async def chunks(stream: Any) -> list[Any]:
    """All chunks of a stream, which is closed."""
    assert isinstance(stream, ChunkStream)
    async with stream:
        return [chunk async for chunk in stream]


async def test_a_completion(make: Make, upstream: ScriptedUpstream) -> None:
    adapter = make(api_key=Secret("sk-up"))

    answer = await adapter.generate_completion("m", MESSAGES, 0.5, None, 7, odd={"deep": 1})

    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"] == "Hello"
    seen = upstream.requests[-1]
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers.first("authorization") == "Bearer sk-up"
    assert seen.json == {
        "model": "m", "messages": MESSAGES, "temperature": 0.5, "max_tokens": 7, "odd": {"deep": 1}
    }  # fmt: skip


async def test_a_server_without_a_key_gets_none(make: Make, upstream: ScriptedUpstream) -> None:
    await make().generate_completion("m", MESSAGES)

    assert upstream.requests[-1].headers.first("authorization") is None


@pytest.mark.parametrize("slashes", ["", "/", "//"])
async def test_the_base_url_may_end_with_a_slash(make: Make, upstream: ScriptedUpstream, slashes: str) -> None:
    await make(base_url=upstream.base_url + slashes).generate_completion("m", MESSAGES)

    assert upstream.requests[-1].path == "/v1/chat/completions"


async def test_a_stream(make: Make) -> None:
    stream = await make().generate_completion("m", MESSAGES, stream=True)

    assert isinstance(stream, ChunkStream)
    found = await chunks(stream)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in found) == "Hello"
    assert all("usage" not in chunk for chunk in found)
    assert stream.ended
    assert stream.usage is not None
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (9, 2)


async def test_a_stream_with_usage(make: Make) -> None:
    stream = await make().generate_completion("m", MESSAGES, stream=True, stream_options={"include_usage": True})

    *_, last = await chunks(stream)
    assert (last["choices"], last["usage"]) == ([], tokens(9, 2))


async def test_usage_is_not_asked_for_where_that_is_refused(make: Make, upstream: ScriptedUpstream) -> None:
    adapter = make(stream_usage=False)

    await chunks(await adapter.generate_completion("m", MESSAGES, stream=True))
    assert "stream_options" not in upstream.requests[-1].json
    await chunks(await adapter.generate_completion("m", MESSAGES, stream=True, stream_options={"include_usage": True}))
    assert upstream.requests[-1].json["stream_options"] == {"include_usage": True}


async def test_a_stream_has_begun_when_it_is_returned(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on("late", sse(error_body("busy", "overloaded_error"), done=False))

    with pytest.raises(UpstreamOverloaded):
        await make().generate_completion("late", MESSAGES, stream=True)


async def test_waiting_for_a_chunk_may_be_given_up_and_taken_up_again(make: Make, upstream: ScriptedUpstream) -> None:
    gate = threading.Event()
    first, *rest = text_chunks("one", "two")
    upstream.on("slow", sse(first, WaitFor(gate), *rest))
    stream = await make().generate_completion("slow", MESSAGES, stream=True)
    assert isinstance(stream, ChunkStream)
    async with stream:
        found = await stream.read()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await stream.read()
        gate.set()
        found += [chunk async for chunk in stream]

    assert [chunk["choices"][0]["delta"].get("content") for chunk in found] == ["", "one", "two", None]


async def test_a_stream_that_is_closed_lets_its_upstream_go(make: Make, upstream: ScriptedUpstream) -> None:
    upstream.on("endless", sse(text_chunks("x")[0], Hang(), done=False))
    stream = await make().generate_completion("endless", MESSAGES, stream=True)
    assert isinstance(stream, ChunkStream)

    for _ in range(2):
        await stream.aclose()

    assert await asyncio.to_thread(upstream.requests[-1].closed.wait, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_cancelled_lets_its_upstream_go(
    make: Make, upstream: ScriptedUpstream, stream: bool
) -> None:
    upstream.on("silent", [Hang()])
    before = len(upstream.requests)
    task = asyncio.create_task(make().generate_completion("silent", MESSAGES, stream=stream))
    seen = await asyncio.to_thread(upstream.wait_for, before + 1)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(seen.closed.wait, 2)


async def test_requests_share_one_session_and_its_connections(make: Make, upstream: ScriptedUpstream) -> None:
    adapter, before = make(), len(upstream.requests)

    for number in range(6):
        answer = await adapter.generate_completion("m", MESSAGES, stream=bool(number % 2))
        if isinstance(answer, ChunkStream):
            await chunks(answer)

    assert len({seen.connection for seen in upstream.requests[before:]}) == 1


@pytest.mark.parametrize(
    ("last", "raised"),
    [
        (reply(b"", 408, {"Connection": "close"}), None),  # it waited for a request, and no request came
        (reply(b"", 503, {"Connection": "close"}), UpstreamOverloaded),
        ([Send(b"HTTP/1.1 20")], UpstreamFailed),
    ],
    ids=["408", "503", "half an answer"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_u30_a_request_is_sent_again_where_its_kept_connection_was_closed_and_it_was_not_read(
    make: Make, upstream: ScriptedUpstream, last: list[Any], raised: type[UpstreamError] | None, stream: bool
) -> None:
    adapter = make()
    hello = sse(*text_chunks("Hello")) if stream else json_reply(completion("Hello"))
    upstream.on("closing", hello, [*last, Close()], hello)
    before = len(upstream.requests)

    outcomes: list[type[UpstreamError] | None] = []
    for _ in range(2):
        try:
            answer = await adapter.generate_completion("closing", MESSAGES, stream=stream)
            if isinstance(answer, ChunkStream):
                await chunks(answer)
            outcomes.append(None)
        except UpstreamError as error:
            outcomes.append(type(error))

    assert outcomes == [None, raised]
    assert len(upstream.requests) - before == (2 if raised else 3)


async def test_cookies_are_not_kept(make: Make, upstream: ScriptedUpstream) -> None:
    adapter = make()
    upstream.on("baker", json_reply(completion("Hi"), headers={"Set-Cookie": "a=b; Path=/"}))

    for _ in range(2):
        await adapter.generate_completion("baker", MESSAGES)

    assert upstream.requests[-1].headers.first("cookie") is None


# The name of reasoning

HISTORY = [*MESSAGES, {"role": "assistant", "content": "x", "reasoning_content": "hm"}, *MESSAGES]


def reasoned(name: str, stream: bool) -> Any:
    """An answer whose reasoning has this name."""
    if stream:
        first, *rest = text_chunks("x")
        first["choices"][0]["delta"][name] = "hm"
        return sse(first, *rest)
    answer = completion("x")
    answer["choices"][0]["message"][name] = "hm"
    return json_reply(answer)


async def ask(adapter: OpenAIAdapter, model: str, stream: bool = False) -> None:
    """One request with a turn that has reasoning, read to its end."""
    answer = await adapter.generate_completion(model, HISTORY, stream=stream)
    if isinstance(answer, ChunkStream):
        await chunks(answer)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_text", "thinking", "reasoning_content"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_reasoning_goes_back_as_the_upstream_called_it(
    make: Make, upstream: ScriptedUpstream, name: str, stream: bool
) -> None:
    adapter = make()
    upstream.on("thinker", reasoned(name, stream))

    await ask(adapter, "thinker", stream)
    assert upstream.requests[-1].json["messages"] == HISTORY, "nothing is known yet"

    await ask(adapter, "thinker", stream)
    assert upstream.requests[-1].json["messages"][1] == {"role": "assistant", "content": "x", name: "hm"}
    await ask(adapter, "m")
    assert upstream.requests[-1].json["messages"] == HISTORY, "each model has its own"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refused_name_is_replaced_before_the_upstream_has_said_its_own(
    make: Make, upstream: ScriptedUpstream, stream: bool
) -> None:
    adapter, before = make(), len(upstream.requests)
    refusal = json_reply(error_body("property 'reasoning_content' is unsupported"), 400)
    upstream.on("strict", refusal, reasoned("reasoning", stream))

    await ask(adapter, "strict", stream)
    await ask(adapter, "strict", stream)

    sent = [seen.json["messages"][1].keys() - {"role", "content"} for seen in upstream.requests[before:]]
    assert sent == [{"reasoning_content"}, {"reasoning"}, {"reasoning"}]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refused_name_is_replaced_also_where_clients_may_not_read_the_refusal(
    upstream: ScriptedUpstream, stream: bool
) -> None:
    config = OpenAIConfig(base_url=upstream.base_url, models=("secretive",))
    adapter, before = OpenAIAdapter("hiding", config, Reports(show_text=False)), len(upstream.requests)
    refusal = json_reply({"detail": [{"loc": ["messages", 1, "reasoning_content"], "msg": "Extra inputs"}]}, 422)
    upstream.on("secretive", refusal, reasoned("reasoning", stream))

    await ask(adapter, "secretive", stream)
    await adapter.aclose()

    sent = [seen.json["messages"][1].keys() - {"role", "content"} for seen in upstream.requests[before:]]
    assert sent == [{"reasoning_content"}, {"reasoning"}]


async def test_another_refusal_is_not_asked_about_again(make: Make, upstream: ScriptedUpstream) -> None:
    adapter, before = make(), len(upstream.requests)
    upstream.on("picky", json_reply(error_body("temperature is too high"), 400))

    with pytest.raises(UpstreamRejected):
        await ask(adapter, "picky")

    assert len(upstream.requests) == before + 1


# Errors, by class

CLASSES: list[tuple[Any, type[UpstreamError], int, str | None]] = [
    (error(400), UpstreamRejected, 400, None),
    (error(401), UpstreamMisconfigured, 502, "upstream_authentication_error"),
    (error(402), UpstreamExhausted, 503, "upstream_quota_exhausted"),
    (error(403), UpstreamMisconfigured, 502, "upstream_authentication_error"),
    (error(404), UpstreamMisconfigured, 502, "upstream_error"),
    (error(408), UpstreamTimeout, 504, "upstream_timeout"),
    (error(413), UpstreamRejected, 413, "request_too_large"),
    (error(422), UpstreamRejected, 422, None),
    (error(429), UpstreamRateLimited, 429, "rate_limit_exceeded"),
    (error(500), UpstreamFailed, 502, "upstream_error"),
    (error(503), UpstreamOverloaded, 503, "overloaded"),
    (error(504), UpstreamTimeout, 504, "upstream_timeout"),
    (error(529), UpstreamOverloaded, 503, "overloaded"),
    (error(307, headers={"Location": "http://127.0.0.1:9/"}), UpstreamRedirected, 502, "upstream_redirect"),
    (error(418), UpstreamFailed, 502, "upstream_error"),
    ([Close()], UpstreamFailed, 502, "upstream_error"),
    (reply(b"<html>", headers={"Content-Type": "text/html"}), UpstreamBroken, 502, "upstream_invalid_response"),
    (json_reply({}), UpstreamBroken, 502, "upstream_invalid_response"),
    ([Send(b"this is not HTTP\r\n\r\n"), Close()], UpstreamBroken, 502, "upstream_invalid_response"),
    ([Send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), Close()], UpstreamBroken, 502,
     "upstream_invalid_response"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "kind", "status", "code"), CLASSES, ids=[f"{i}" for i in range(len(CLASSES))])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_each_failure_has_its_class(
    make: Make, upstream: ScriptedUpstream, script: Any, kind: type[UpstreamError], status: int, code: str, stream: bool
) -> None:
    upstream.on("failing", script)

    with pytest.raises(UpstreamError) as caught:
        await make().generate_completion("failing", MESSAGES, stream=stream)

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_silence_is_a_time_out(make: Make, upstream: ScriptedUpstream, stream: bool) -> None:
    upstream.on("silent", [Hang()])
    adapter = make(timeouts=Timeouts(total_s=1.0, first_event_s=1.0))

    with pytest.raises(UpstreamTimeout, match=r"within 1 s"):
        await adapter.generate_completion("silent", MESSAGES, stream=stream)

    assert await asyncio.to_thread(upstream.requests[-1].closed.wait, 2)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_place_that_cannot_be_reached(make: Make, stream: bool) -> None:
    refused = make(base_url=f"http://127.0.0.1:{free_port()}/v1")
    unknown = make(base_url="http://no-such-host.invalid/v1", timeouts=Timeouts(total_s=5))
    with blackhole() as url:
        hole = make(base_url=url, timeouts=Timeouts(connect_s=0.2))
        for adapter in (refused, unknown, hole):
            with pytest.raises(UpstreamUnreachable):
                await adapter.generate_completion("m", MESSAGES, stream=stream)


async def test_a_stream_has_an_end_in_time(make: Make, upstream: ScriptedUpstream) -> None:
    pieces = [each for chunk in text_chunks(*"abcdefghij") for each in (chunk, Wait(0.05))]
    upstream.on("long", sse(*pieces))
    adapter = make(timeouts=Timeouts(stream_total_s=0.2))

    with pytest.raises(UpstreamTimeout):
        await chunks(await adapter.generate_completion("long", MESSAGES, stream=True))


# Models


async def test_configured_models_are_not_asked_for(make: Make, upstream: ScriptedUpstream) -> None:
    adapter, before = make(models=("x", "y")), len(upstream.model_requests)

    await adapter.start()
    await adapter.wait_discovered(1)

    assert [model.id for model in adapter.list_models()] == ["x", "y"]
    assert adapter.pending is None
    assert adapter.get_model_info("x") is not None
    assert adapter.get_model_info("z") is None
    assert len(upstream.model_requests) == before


async def test_models_are_discovered(make: Make) -> None:
    adapter = make(models=None)
    assert (adapter.list_models(), adapter.pending) == ([], "its models are not known yet")

    await adapter.start()
    await adapter.start()
    await adapter.wait_discovered(2)

    assert [(model.id, model.owned_by) for model in adapter.list_models()] == [
        ("first", "scripted"), ("second", "scripted")
    ]  # fmt: skip
    assert adapter.pending is None


async def test_an_upstream_that_cannot_be_asked_is_pending(make: Make) -> None:
    adapter = make(models=None, base_url=f"http://127.0.0.1:{free_port()}/v1")

    await adapter.start()
    await adapter.wait_discovered(2)

    assert (adapter.list_models(), adapter.pending) == ([], "The upstream could not be reached.")


async def test_closing_twice_does_no_harm(make: Make) -> None:
    adapter = make(models=None)
    await adapter.start()
    await adapter.wait_discovered(2)

    for _ in range(2):
        await adapter.aclose()


def test_a_key_shows_itself_nowhere(upstream: ScriptedUpstream) -> None:
    config = OpenAIConfig(base_url=upstream.base_url, api_key=Secret("sk-secret"))

    assert "sk-secret" not in repr(config) + repr(vars(OpenAIAdapter("a", config)))
