"""The cache over an upstream that a test scripts, without a network."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from one_api.cache.answers import Answers
from one_api.cache.keys import CacheRoute
from one_api.cache.lease import LeaseKeeper
from one_api.cache.stores import AnswerStore, MemoryAnswers
from one_api.config import Config
from one_api.contract import Caller, ChunkStream
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.records import AttemptRecord, CallContext, CallRecord
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.sections import CacheConfig
from tests.utils.fake_adapter import FakeStream, Piece

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
#: What a call is answered with: an error, a whole answer, or the pieces of a stream.
Scripted: TypeAlias = Exception | JSONObject | list[Piece]


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> JSONObject:
    """One chunk of a stream."""
    said = delta if content is None else {"content": content, **delta}
    choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": [choice],
        "usage": None,
    }


def stream(*contents: str | Piece) -> list[Piece]:
    """The pieces of a whole stream with usage; what is no text is put in its place."""
    middle: list[Piece] = [chunk(each) if isinstance(each, str) else each for each in contents]
    usage: JSONObject = {**chunk(), "choices": [], "usage": USAGE}
    return [chunk("", role="assistant"), *middle, chunk(finish="stop"), usage]


def whole(text: str = "Hello") -> JSONObject:
    """A whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 7, "model": "m", "choices": [choice], "usage": USAGE}


class Upstreams:
    """Stands for the attempt loop: answers consecutive calls with ``scripts``, the last one for ever."""

    def __init__(self, *scripts: Scripted, gate: asyncio.Event | None = None) -> None:
        self._scripts = list(scripts)
        self.gate = gate
        self.calls: list[JSONObject] = []
        self.streams: list[FakeStream] = []
        self.asked = asyncio.Event()
        #: The deployment that answers.
        self.name = "a/m"

    async def __call__(self, request: ChatRequest, context: CallContext) -> JSONObject | ChunkStream:
        """Answer one call, once the gate is open."""
        self.calls.append(request.body)
        self.asked.set()
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        record = context.record
        record.attempts.append(AttemptRecord(self.name, "tried", 0.0))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(script, Exception):
            raise script
        record.deployment = self.name
        if isinstance(script, dict):
            return dict(script)
        self.streams.append(FakeStream(script))
        return self.streams[-1]


class Caching:
    """A cache with its upstreams; ``ask`` is one request."""

    def __init__(
        self,
        upstreams: Upstreams,
        store: AnswerStore | None = None,
        leases: LeaseKeeper | None = None,
        now: Callable[[], float] | None = None,
        **settings: Any,
    ) -> None:
        config = Config(
            adapters={"a": OpenAIConfig(models=("m",))}, cache=CacheConfig(**({"enabled": True} | settings))
        )
        clock = {"now": now} if now else {}
        self._ask = upstreams
        self.answers = Answers(config, store or MemoryAnswers(10_000_000), leases, **clock)
        self._route = CacheRoute("m", [("a/m", "https://api.openai.com/v1")], 1)
        self.records: list[CallRecord] = []

    def ask(
        self, *, caller: str = "alice", control: str | None = None, **fields: Any
    ) -> "asyncio.Task[JSONObject | ChunkStream]":
        """Begin one request; its record is the last of ``records``."""
        record = CallRecord("r", "POST", "/", caller=caller)
        self.records.append(record)

        async def run() -> JSONObject | ChunkStream:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
            context = CallContext(record, Caller(caller), control)
            answer: JSONObject | ChunkStream = await self.answers.run(
                self._route, ChatRequest.of(body), context, self._ask
            )
            return answer

        return asyncio.create_task(run())

    async def open(self, **fields: Any) -> ChunkStream:
        """One request for a stream, once it has begun."""
        answer = await self.ask(stream=True, **fields)
        assert isinstance(answer, ChunkStream)
        return answer

    def where_from(self) -> list[str | None]:
        """Where the answers came from, in the order of the requests."""
        return [record.cache for record in self.records]


async def read_all(answer: ChunkStream) -> list[JSONObject]:
    """All chunks of a stream, which is then closed."""
    chunks: list[JSONObject] = []
    async with answer:
        while not answer.ended:
            chunks += await answer.read()
    return chunks


def text(chunks: Sequence[JSONObject]) -> str:
    """The content of all chunks."""
    return "".join(choice["delta"].get("content") or "" for each in chunks for choice in each["choices"])


async def turns(count: int = 20) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)
