"""An adapter that answers as a test has scripted it: a real subclass, no mock."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from one_api.contract import ChunkStream, ModelInfo, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import UpstreamTimeout
from one_api.models.adapters.base import BaseModelAdapter
from one_api.records import AttemptContext
from one_api.upstream.foreign import failures_named, whole

#: What a scripted stream gives, one after the other: a chunk, an error, or an event to wait for.
Piece: TypeAlias = JSONObject | Exception | asyncio.Event
#: What one request is answered with: an error, a whole answer, the pieces of a stream, or an event to wait for first.
Scripted: TypeAlias = Exception | JSONObject | list[Piece] | asyncio.Event


def say(text: str, **delta: Any) -> JSONObject:
    """A chunk with some text."""
    return {"choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": None}]}


ROLE: JSONObject = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
END: JSONObject = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class FakeStream(ChunkStream):
    """A stream of scripted pieces; ``unread`` are those to come, ``closed`` counts the calls of ``aclose``."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.unread = list(pieces)
        self.closed = 0

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        if not self.unread:
            self.ended = True
            return []
        piece = self.unread.pop(0)
        if isinstance(piece, Exception):
            raise piece
        if isinstance(piece, asyncio.Event):
            try:
                async with asyncio.timeout(self.idle_s):
                    await piece.wait()
            except TimeoutError:
                raise UpstreamTimeout("The upstream did not send the next event.") from None
            return await self.read()
        self.ended, self.usage = not self.unread, Usage(1, 2)
        return [piece]

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self.closed += 1


class FakeAdapter(BaseModelAdapter):
    """Answers consecutive requests with ``answers``, the last one for ever; ``calls`` has their parameters."""

    def __init__(
        self, *answers: Scripted, models: Sequence[str] = ("m",), pending: str | None = None, owner: str = "fake"
    ) -> None:
        self._answers = list(answers) or [{"model": "m", "text": "well"}]
        self.models = [ModelInfo(name, owner) for name in models]
        self.reason = pending
        #: What ``prefill_start`` makes of a text.
        self.start_of: Callable[[str], str | None] = lambda text: None
        self.calls: list[dict[str, Any]] = []
        self.streams: list[FakeStream] = []
        self.make_stream: type[FakeStream] = FakeStream
        self.asked = asyncio.Event()
        self.started = self.closed = 0

    def list_models(self) -> list[ModelInfo]:
        """See ``BaseModelAdapter``."""
        return list(self.models)

    def prefill_start(self, model: str, text: str) -> str | None:
        """See ``BaseModelAdapter``."""
        return self.start_of(text)

    @property
    def pending(self) -> str | None:
        """See ``BaseModelAdapter``."""
        return self.reason

    async def start(self) -> None:
        """See ``BaseModelAdapter``."""
        self.started += 1

    async def aclose(self) -> None:
        """See ``BaseModelAdapter``."""
        self.closed += 1

    async def complete(self, request: ChatRequest, context: AttemptContext) -> JSONObject:
        """See ``BaseModelAdapter``; what was scripted comes as it is."""
        with failures_named():
            answer = await self.generate_completion(**request.body)
        return answer if isinstance(answer, dict) else await whole(answer)

    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: bool | None = False,
        **kwargs: Any,
    ) -> JSONObject | ChunkStream:
        """See ``BaseModelAdapter``."""
        named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stream": stream}
        self.calls.append({"model": model, "messages": messages, **named, **kwargs})
        self.asked.set()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            self.streams.append(self.make_stream(answer))
            return self.streams[-1]
        assert isinstance(answer, dict)
        return dict(answer)
