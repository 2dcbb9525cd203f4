"""A streamed answer of an upstream: its events, translated, with deadlines and a true end."""

import asyncio
import math
import socket
from contextlib import suppress

import aiohttp

from one_api.contract import ChunkStream, Usage
from one_api.dialects import sse
from one_api.dialects.frames import Encode, FramedReader, Item, TextRun, Translator, chunks_of, encoded
from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer, UnfitAnswer
from one_api.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamUnfit,
)
from one_api.serving.fairness import scheduler
from one_api.serving.tasks import stop
from one_api.serving.timeouts import ReusableTimeout
from one_api.upstream.compression import begun, body_of
from one_api.upstream.errors import OPENAI_REPORTS, Reports
from one_api.upstream.exceptions import NamedErrors, truncated
from one_api.upstream.whole import FRAMING_END_S, LARGE_EVENT_BYTES, MAX_TAIL_S

#: How much of a stream the kernel may hold for us (it allows twice that, with its own bookkeeping), in bytes.
_RECEIVE_BYTES = 64 * 1024
#: How much of a stream is taken at once, in bytes.
_PIECE_BYTES = 8 * 1024
#: A piece with more line ends than this is taken in parts of so many bytes, with turns for others between: each line
#: may be an event, which takes long for its few bytes.
_MANY_LINES, _PART_BYTES = 512, 512


class UpstreamStream(ChunkStream):
    """The events of one response, translated; ``idle_s`` is the longest silence between two of them."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        translator: Translator,
        idle_s: float,
        deadline: float,
        reports: Reports = OPENAI_REPORTS,
    ) -> None:
        self._response = response
        self._body = body_of(response, is_text=True)
        self._translator = translator
        self._own_idle_s = idle_s
        self._reports = reports
        #: Of the whole stream, in the loop's time.
        self._deadline = deadline
        self._timeout = ReusableTimeout()
        self._events = sse.EventReader()
        self._framed = FramedReader(self._events, translator)
        self._ready: list[Item] = []
        #: Takes bytes that have arrived, where that takes long; a read may be cancelled meanwhile, for a heartbeat.
        self._taking: asyncio.Task[bool] | None = None
        #: How the stream broke; raised once everything that came before has been read.
        self._failure: UpstreamError | None = None
        #: What it has taken, as it was last asked for.
        self._used: Usage | None = None
        #: Something of an answer has come.
        self._begun = False
        #: When a complete answer is not waited for any longer, in the loop's time.
        self._tail_ends = math.inf
        _limit_kernel(response)

    @property
    def usage(self) -> Usage | None:  # type: ignore[override]
        """What was reported so far; made when it is asked for, which is at the end."""
        if self._used is None or not self.ended:
            self._used = Usage.read(self._translator.usage)
        return self._used

    async def wait_for_first(self) -> None:
        """Wait for the first event, and keep it for ``read``."""
        while not self._ready and not self.ended:
            received = await self._body.read(_PIECE_BYTES)
            self._body = begun(self._body)
            await self._take_fairly(received)
        if self._failure is not None:  # nothing of it has been passed on: another deployment may do better
            raise self._failure

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        await self._fill()
        return chunks_of(self._taken())

    async def read_encoded(self, encode: Encode) -> bytes:
        """See ``ChunkStream``; events that differ in their text only are not decoded, see ``dialects.frames``."""
        await self._fill()
        return encoded(self._taken(), encode)

    def _taken(self) -> list[Item]:
        ready, self._ready = self._ready, []
        self._note(ready)
        return ready

    def _note(self, items: list[Item]) -> None:
        """Note what the chunks say of the answer; text alone says nothing."""
        for chunk in items if self.is_chat else ():
            if isinstance(chunk, TextRun):
                continue
            if self.response_id is None:
                self.response_id, self.response_model = chunk.get("id"), chunk.get("model")
            for choice in chunk.get("choices", ()):
                self.finish_reason = choice.get("finish_reason") or self.finish_reason

    async def _fill(self) -> None:
        """Wait until there is something to read, or the end."""
        if not self._ready and self._failure is not None:
            raise self._failure
        # What counts is the waiting since the last event, not since the last byte or call: a trickle is silence, too.
        # Not the time that the client takes in between. An event that is not for the client counts: a model that
        # thinks in silence sends pings.
        idle_s = self._own_idle_s if self.idle_s is None else min(self._own_idle_s, self.idle_s)
        while self._taking is not None or (not self._ready and not self.ended):
            until = self._deadline
            if self._translator.is_complete:
                until = min(until, self._end_of_tail())
            else:
                self._tail_ends = math.inf
            try:
                if self._taking is not None:
                    held_event = await self._taken_fairly(self._taking)
                else:
                    with self._timeout.limit(idle_s, until):
                        received = await self._body.read(_PIECE_BYTES)
                    held_event = self._take(received) if self._is_quick(received) else await self._take_fairly(received)
                if held_event:
                    self._timeout.reset()
            except Exception as error:
                if self._translator.is_complete and not isinstance(error, UpstreamError):
                    self._end()
                    continue
                with NamedErrors("the next event", idle_s):
                    raise

    def _end_of_tail(self) -> float:
        """Return until when to wait for what may follow a complete answer, counted from the first wait for it."""
        tail_s = FRAMING_END_S if self._translator.is_over else MAX_TAIL_S
        self._tail_ends = min(self._tail_ends, asyncio.get_running_loop().time() + tail_s)
        return self._tail_ends

    def _is_quick(self, received: bytes) -> bool:
        """Return whether it takes no time to translate what has arrived."""
        if self._events.held_bytes > LARGE_EVENT_BYTES and (not received or _line_ends(received)):
            return False
        return len(received) <= _MANY_LINES or _line_ends(received) <= _MANY_LINES

    async def _take_fairly(self, received: bytes) -> bool:
        """Translate as ``_take`` does; others have the loop meanwhile where that may take long."""
        if self._is_quick(received):
            return self._take(received)
        self._taking = asyncio.create_task(self._take_in_parts(received))
        return await self._taken_fairly(self._taking)

    async def _taken_fairly(self, taking: "asyncio.Task[bool]") -> bool:
        """Wait until all has been taken; who is cancelled meanwhile waits again, and nothing is lost."""
        try:
            return await asyncio.shield(taking)
        finally:
            if taking.done():
                self._taking = None

    async def _take_in_parts(self, received: bytes) -> bool:
        held_event = False
        part_bytes = _PART_BYTES if _line_ends(received) > _MANY_LINES else _PIECE_BYTES
        for begin in range(0, len(received) or 1, part_bytes):
            if scheduler().is_late():
                await scheduler().wait_turn()
            part = received[begin : begin + part_bytes]
            is_large = self._events.held_bytes > LARGE_EVENT_BYTES
            held_event |= await asyncio.to_thread(self._take, part) if is_large else self._take(part)
            if self.ended or self._failure is not None:
                break
        return held_event

    def _take(self, received: bytes) -> bool:
        """Translate what has arrived, and return whether it held an event; no bytes are the end of the response.

        A fault is kept for later while there is something to read.
        """
        blocks = self._events.blocks
        try:
            self._translate(received)
        except ErrorPayload as error:
            self._ready += error.chunks
            self._failure = self._reports.error_of_payload(error.payload)
        except UnfitAnswer as error:
            self._failure = UpstreamUnfit(f"The upstream's answer is not what was asked for: {error}.")
        except (InvalidAnswer, sse.EventTooLarge) as error:
            if self._translator.is_complete:
                self._end()
            else:
                self._failure = UpstreamBroken(f"The upstream's stream cannot be read: {error}.")
        if self._failure is not None and not self._ready:
            raise self._failure
        return self._events.blocks > blocks

    def _translate(self, received: bytes) -> None:
        """Add the chunks that ``received`` amounts to; no bytes are the end of the response."""
        if received:
            self._framed.feed(received, self._ready)
        else:
            self._framed.end(self._ready)
        self._begun = self._begun or bool(self._ready)
        if received:
            self.ended = self._translator.finished
        else:
            self._end()

    def _end(self) -> None:
        """Take the answer for ended: nothing more comes, or is waited for."""
        self._ready += self._translator.end()
        self._failure = None if self._translator.finished else self._not_complete()
        self.ended = self._translator.finished

    def _not_complete(self) -> UpstreamBroken:
        """Return the error for bytes that ended before the answer did."""
        label = self._response.content_type
        if self._begun or (label == "text/event-stream" and not self._events.blocks):
            return truncated()
        if self._events.blocks:
            return UpstreamBroken("The upstream's stream holds no answer.")
        return UpstreamBroken(f"The upstream answered with {label[:64]} instead of an event stream.")

    async def aclose(self) -> None:
        """Close the response; a connection whose stream was read to its very end is used again."""
        self.ended = True
        self._failure = None  # its traceback holds this stream
        self._timeout.close()
        await stop(self._taking)
        if self._response.closed:
            return
        if self._translator.finished and (self._body.at_eof() or await self._at_end()):
            self._response.release()
        else:
            self._response.close()

    async def _at_end(self) -> bool:
        """Return whether nothing follows the stream's end; what is left of the framing may be on its way."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(FRAMING_END_S):
                return not await self._body.read(_PIECE_BYTES)
        return False


def _line_ends(received: bytes) -> int:
    return received.count(b"\n") + received.count(b"\r")


def _limit_kernel(response: aiohttp.ClientResponse) -> None:
    """Keep the kernel from hoarding what an upstream sends faster than the client reads."""
    transport = response.connection and response.connection.transport
    connection = transport and transport.get_extra_info("socket")
    if connection:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
