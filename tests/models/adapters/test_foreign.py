"""Adapters that others write: only ``generate_completion``, with a dict or an iterator."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from one_api.config import Config
from one_api.contract import ModelInfo
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import (
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from one_api.models.adapters.base import BaseModelAdapter
from one_api.models.registry import ModelRegistry
from one_api.records import AttemptContext

MESSAGES = [{"role": "user", "content": "Hi"}]
ANSWER: JSONObject = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}  # fmt: skip


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> JSONObject:
    """A chunk as people write it by hand."""
    return {"choices": [{"delta": {} if text is None else {"content": text}, "finish_reason": finish}], **more}


class Foreign(BaseModelAdapter):
    """Answers with ``pieces`` one after the other, or raises them."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.calls: list[JSONObject] = []
        self.closed = False

    def list_models(self) -> list[ModelInfo]:
        """See ``BaseModelAdapter``."""
        return [ModelInfo("m", "me")]

    async def generate_completion(self, model, messages, temperature=0.7, stream=False, debug=False, **kwargs):  # type: ignore[no-untyped-def, override]
        """See ``BaseModelAdapter``."""
        self.calls.append({"model": model, "temperature": temperature, "debug": debug, **kwargs})
        if not stream:
            return self.pieces[0]
        return self.chunks()

    async def chunks(self) -> AsyncIterator[JSONObject]:
        """The chunks of one answer."""
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    yield piece
        finally:
            self.closed = True


class Generator(Foreign):
    """One whose ``generate_completion`` is itself an asynchronous generator."""

    def generate_completion(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """See ``BaseModelAdapter``."""
        return self.chunks()


def request(**fields: Any) -> ChatRequest:
    """A request for model m."""
    return ChatRequest.of({"model": "m", "messages": MESSAGES, **fields})


def text_of(answer: JSONObject) -> str:
    """The text of a whole answer."""
    return str(answer["choices"][0]["message"]["content"])


async def said(adapter: BaseModelAdapter, **fields: Any) -> tuple[str, list[str]]:
    """The text and the finish reasons of a stream."""
    async with await adapter.stream(request(stream=True, **fields), AttemptContext()) as stream:
        choices = [choice async for chunk in stream for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


async def test_a_whole_answer_is_filled_up_like_that_of_any_upstream() -> None:
    bare: JSONObject = {"choices": [{"message": {"content": "Hello"}}]}

    answer = await Foreign(bare).complete(request(), AttemptContext())

    assert (answer["object"], answer["model"]) == ("chat.completion", "m")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert bare == {"choices": [{"message": {"content": "Hello"}}]}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [({}, UpstreamBroken), ({"choices": []}, UpstreamBroken), ({"choices": [{"message": object()}]}, UpstreamFailed)],
)
async def test_what_is_no_answer_is_the_adapters_failure(answer: JSONObject, kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        await Foreign(answer).complete(request(), AttemptContext())


@pytest.mark.parametrize("raises", [False, True])
async def test_models_may_be_listed_as_dicts(raises: bool) -> None:
    class Listing(Foreign):
        def list_models(self) -> Any:
            return [{"id": "m", "object": "model", "context_window": 8, "family": "x"}, {"id": None}, 7]

        def get_model_info(self, model_id: str) -> Any:
            if raises and model_id != "m":
                raise ValueError(model_id)
            return next((entry for entry in self.list_models()[:1] if entry["id"] == model_id), None)

    registry = ModelRegistry(Config())
    registry.register_adapter("mine", Listing(ANSWER))

    assert await registry.list_all_models() == [
        {"id": "m", "object": "model", "created": 0, "owned_by": "mine", "context_window": 8, "context_length": 8,
         "max_model_len": 8, "family": "x", "kinds": ["chat"]}
    ]  # fmt: skip
    with pytest.raises(UnknownModel):
        await registry.get_model("n")


@pytest.mark.parametrize("listed", [["a", "b"], {"object": "list", "data": [{"id": "a"}, "b"]}, ({"id": "a"}, "b")])
@pytest.mark.parametrize("told", [None, {}, {"context_window": 8}])
async def test_models_may_be_listed_in_any_usual_way(listed: Any, told: Any) -> None:
    class Listing(Foreign):
        def list_models(self) -> Any:
            return listed

        def get_model_info(self, model_id: str) -> Any:
            return told

    registry = ModelRegistry(Config())
    registry.register_adapter("mine", Listing(ANSWER))

    assert [entry["id"] for entry in await registry.list_all_models()] == ["a", "b"]
    assert (await registry.get_model("mine/b"))["id"] == "mine/b"
    assert text_of(await registry.generate_completion("b", MESSAGES)) == "Hello"


@pytest.mark.parametrize("name", ["list_models", "get_model_info"])
async def test_models_that_would_have_to_be_waited_for_are_refused_at_once(name: str) -> None:
    async def waits(*_: Any) -> Any:
        raise AssertionError("is never called")

    with pytest.raises(TypeError, match=rf"Waiting\.{name} is `async def`.*Write `def`"):
        type("Waiting", (Foreign,), {name: waits})


async def test_an_adapter_without_async_may_wait() -> None:
    """Calls and steps run in threads: here they wait for what only the event loop can give them."""
    loop, order = asyncio.get_running_loop(), list[str]()

    def ask_the_loop(word: str) -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
        order.append(word)

    class Plain(Foreign):
        def generate_completion(self, stream: bool = False, **_: Any) -> Any:  # type: ignore[override]
            ask_the_loop("called")
            return self.steps() if stream else ANSWER

        def steps(self) -> Any:
            for piece in self.pieces:
                ask_the_loop("step")
                yield piece

    adapter = Plain(delta("Hel"), delta("lo"), delta(finish="stop"))

    assert text_of(await adapter.complete(request(), AttemptContext())) == "Hello"
    assert await said(adapter) == ("Hello", ["stop"])
    assert order == ["called", "called", "step", "step", "step"]


async def test_a_plain_iterator_that_is_left_is_closed() -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Plain(Foreign):
        def generate_completion(self, **_: Any) -> Any:  # type: ignore[override]
            try:
                yield delta("Hel")
                yield delta("lo")
            finally:
                loop.call_soon_threadsafe(closed.set)

    async with await Plain().stream(request(stream=True), AttemptContext()) as stream:
        await stream.read()
    async with asyncio.timeout(10):
        await closed.wait()


async def test_the_objects_of_openais_sdk_are_answers_and_chunks() -> None:
    whole = ChatCompletion.model_validate(ANSWER)
    pieces = [
        ChatCompletionChunk.model_validate(
            {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **each}
        )
        for each in (
            {"choices": [{"index": 0, **choice} for choice in piece["choices"]]}
            for piece in (delta("Hello"), delta(finish="stop"))
        )
    ]

    assert text_of(await Foreign(whole).complete(request(), AttemptContext())) == "Hello"
    assert await said(Foreign(*pieces)) == ("Hello", ["stop"])


async def test_an_adapter_that_cannot_list_its_models_hides_no_others() -> None:
    class Broken(Foreign):
        def list_models(self) -> Any:
            raise RuntimeError("bug")

    registry = ModelRegistry(Config())
    registry.register_adapter("broken", Broken())
    registry.register_adapter("mine", Foreign(ANSWER))

    assert [entry["id"] for entry in await registry.list_all_models()] == ["m"]


@pytest.mark.parametrize("kind", [Foreign, Generator])
async def test_an_iterator_of_chunks_is_a_stream(kind: type[Foreign]) -> None:
    adapter = kind(delta("Hel"), delta("lo"), delta(finish="stop"))

    assert await said(adapter) == ("Hello", ["stop"])
    assert adapter.closed


async def test_a_whole_answer_for_a_stream_becomes_one() -> None:
    adapter = Generator()
    adapter.generate_completion = lambda **_: ANSWER  # type: ignore[method-assign]

    assert await said(adapter) == ("Hello", ["stop"])


async def test_an_iterator_for_a_whole_answer_is_put_together() -> None:
    answer = await Generator(delta("Hel"), delta("lo"), delta(finish="stop")).complete(request(), AttemptContext())

    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("pieces", [(), (delta("Hel"),), (delta("Hel"), delta("lo", None))])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_iterator_without_a_finish_reason_is_a_broken_stream(pieces: tuple[Any, ...], stream: bool) -> None:
    with pytest.raises(UpstreamBroken) as caught:
        await (said(Generator(*pieces)) if stream else Generator(*pieces).complete(request(), AttemptContext()))

    assert caught.value.code == "upstream_stream_truncated"


async def test_a_finished_stream_need_not_end_and_may_still_bring_usage() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}
    adapter = Foreign(delta("Hello", "stop"), usage, asyncio.Event())

    async with await adapter.stream(request(stream=True), AttemptContext()) as stream:
        assert [chunk async for chunk in stream]

    assert stream.usage is not None
    assert stream.usage.prompt_tokens == 3
    assert adapter.closed


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (UpstreamRateLimited("busy"), UpstreamRateLimited), (RuntimeError("bug"), UpstreamFailed),
        (TimeoutError(), UpstreamTimeout), ({"error": {"message": "oom"}}, UpstreamFailed), ("text", UpstreamBroken),
        (StopAsyncIteration(), UpstreamFailed),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_an_upstreams_error(raised: Any, kind: type[UpstreamError]) -> None:
    with pytest.raises(UpstreamError) as caught:
        await said(Foreign(delta("Hel"), raised))

    assert type(caught.value) is kind


async def test_silence_is_a_time_out() -> None:
    async with await Foreign(delta("Hel"), asyncio.Event()).stream(request(stream=True), AttemptContext()) as stream:
        stream.idle_s = 0.01
        await stream.read()
        with pytest.raises(UpstreamTimeout):
            await stream.read()


async def test_waiting_may_be_given_up_and_taken_up_again() -> None:
    gate = asyncio.Event()
    async with await Foreign(gate, delta("Hello", "stop")).stream(request(stream=True), AttemptContext()) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await stream.read()
        gate.set()
        assert (await stream.read())[0]["choices"][0]["delta"]["content"] == "Hello"


async def test_no_key_of_a_client_reaches_a_parameter_of_the_adapters_own() -> None:
    adapter = Foreign(ANSWER)

    await adapter.complete(
        request(debug=True, self=1, temperature=0.1, odd=[1.0], kwargs=2, model="m"), AttemptContext()
    )

    assert adapter.calls == [{"model": "m", "temperature": 0.1, "debug": False, "odd": [1.0], "kwargs": 2}]


@pytest.mark.parametrize("kind", [Foreign, Generator])
async def test_the_registry_serves_one_like_any_other(kind: type[Foreign]) -> None:
    adapter = kind(delta("Hel"), delta("lo", "stop"))
    registry = ModelRegistry(Config())
    registry.register_adapter("mine", adapter)

    stream = await registry.generate_completion("mine/m", MESSAGES, stream=True)
    async with stream:
        chunks = [chunk async for chunk in stream]

    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "Hello"
    assert {chunk["model"] for chunk in chunks} == {"mine/m"}
    assert adapter.closed
