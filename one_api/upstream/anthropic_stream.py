"""One answer of the Messages API as a chunk stream, however many messages it takes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from one_api.contract import ChunkStream, Usage
from one_api.dialects.anthropic.response import ResponseOptions
from one_api.dialects.anthropic.stream import ClaudeStream
from one_api.dialects.frames import Encode
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import Identity
from one_api.errors import UpstreamRejected
from one_api.serving.tasks import abandon

T = TypeVar("T")

#: How often a message that is paused is continued.
_RESUMES = 5

Post: TypeAlias = Callable[[JSONObject, ClaudeStream], Awaitable[ChunkStream]]


async def open_message(
    post: Post, body: JSONObject, identity: Identity, options: ResponseOptions, *, include_usage: bool
) -> "MessageStream":
    """POST ``body`` and return the answer's stream, once its first event has arrived; raises UpstreamError.

    If the model misses the thinking of earlier turns, which is lost, it is asked again without thinking.
    """
    translator = ClaudeStream(identity, options, include_usage=include_usage, resumes=_RESUMES)
    try:
        return MessageStream(post, body, translator, await post(body, translator))
    except UpstreamRejected as error:
        if not _misses_thinking(error, body):
            raise
    body = {key: value for key, value in body.items() if key != "thinking"}
    stream = MessageStream(post, body, translator, await post(body, translator))
    stream.warnings = ("reasoning_effort",)
    return stream


def _misses_thinking(error: UpstreamRejected, body: JSONObject) -> bool:
    """Return whether the upstream refused a tool loop for want of the thinking blocks in it."""
    thinking = body.get("thinking")
    enabled = isinstance(thinking, dict) and thinking.get("type") == "enabled"
    return enabled and "xpected `thinking`" in error.said


class MessageStream(ChunkStream):
    """The chunks of one answer; a paused message is continued by another request."""

    def __init__(self, post: Post, body: JSONObject, translator: ClaudeStream, first: ChunkStream) -> None:
        #: Called once, when the answer is complete.
        self.on_end: Callable[[ClaudeStream], None] = lambda _: None
        #: Parameters that were dropped because the upstream refused them.
        self.warnings: tuple[str, ...] = ()
        self._post = post
        self._body = body
        self._translator = translator
        self._current = first
        #: All of the current message has been read, and it is not the last.
        self._paused = False
        self._next: asyncio.Task[ChunkStream] | None = None

    @property
    def usage(self) -> Usage | None:  # type: ignore[override]
        """What the messages so far took."""
        return self._current.usage

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        return await self._read(lambda stream: stream.read()) or []

    async def read_encoded(self, encode: Encode) -> bytes:
        """See ``ChunkStream``."""
        return await self._read(lambda stream: stream.read_encoded(encode)) or b""

    async def _read(self, read: Callable[[ChunkStream], Awaitable[T]]) -> T | None:
        """Read from the message under way, or the one that continues it; None when the end comes first."""
        found: T | None = None
        while not found and not self.ended:
            if self._paused:
                await self._go_on()
            self._current.idle_s = self.idle_s
            found = await read(self._current)
            self._note_end()
        return found

    def _note_end(self) -> None:
        if self._current.ended and self._translator.paused:
            self._paused = True
        elif self._current.ended:
            self.ended = True
            self.on_end(self._translator)

    async def _go_on(self) -> None:
        """Wait for the next message; a reader that stops waiting leaves the request under way."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._continue())
        self._current = await asyncio.shield(self._next)
        self._next, self._paused = None, False

    async def _continue(self) -> ChunkStream:
        await self._current.aclose()
        self._translator.resume()
        so_far = {"role": "assistant", "content": self._translator.blocks}
        return await self._post(self._body | {"messages": [*self._body["messages"], so_far]}, self._translator)

    async def aclose(self) -> None:
        """Let go of the upstream."""
        self.ended = True
        opening, self._next = self._next, None
        if opening is not None:
            await abandon(opening)
        await self._current.aclose()
