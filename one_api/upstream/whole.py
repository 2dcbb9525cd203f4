"""Whole answers, and those that come as events although no stream was asked for, which may go on after their end."""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from one_api.dialects.frames import FramedReader, Translator
from one_api.dialects.payloads import InvalidAnswer
from one_api.dialects.sse import EventReader, EventTooLarge
from one_api.serving.fairness import aside, scheduler
from one_api.upstream.compression import Body

#: How long an answer that is complete may go on, for usage and the end mark; and after that mark; in seconds.
MAX_TAIL_S, FRAMING_END_S = 2.0, 0.1
#: How much of an answer is taken at once, after decompression, in bytes.
_TAKEN_BYTES = 64 * 1024
#: How much of it is looked at in one go, in bytes: each line may be an event, which takes long for its few bytes.
_PART_BYTES = 512
#: An event with more bytes than this takes long to read: that is done in a thread.
LARGE_EVENT_BYTES = 256 * 1024
#: What may stand before JSON, and what it begins with.
_BLANK, _JSON = b" \t\r\n\xef\xbb\xbf", (b"{", b"[", b'"')

#: Makes what reads the events of an answer.
Watch: TypeAlias = Callable[[], Translator]


class WholeBody:
    """Reads a body to its end; with ``watch``, one of events to where the answer is complete and nothing follows."""

    def __init__(self, body: Body, watch: Watch | None) -> None:
        self._body = body
        self._watch = watch
        self._translator: Translator | None = None
        self._events: EventReader | None = None
        self._framed: FramedReader | None = None
        self._tail_ends = math.inf
        #: It was left before its end.
        self.is_left = False

    async def read(self) -> bytes:
        """Return what comes next; none when there is nothing more to wait for."""
        if self._translator is None or not self._translator.is_complete:
            piece = await self._body.read(_TAKEN_BYTES)
        else:
            piece = await self._read_tail(self._translator)
        for begin in range(0, len(piece), _PART_BYTES):
            if self._watch is None:
                break
            if scheduler().is_late():
                await scheduler().wait_turn()
            note = partial(self._note, piece[begin : begin + _PART_BYTES])
            await aside(note, is_short=self._events is None or self._events.held_bytes <= LARGE_EVENT_BYTES)
        return piece

    async def _read_tail(self, translator: Translator) -> bytes:
        now = asyncio.get_running_loop().time()
        self._tail_ends = min(self._tail_ends, now + (FRAMING_END_S if translator.is_over else MAX_TAIL_S))
        try:
            async with asyncio.timeout_at(self._tail_ends):
                return await self._body.read(_TAKEN_BYTES)
        except TimeoutError:
            self.is_left = True
            return b""

    def _note(self, piece: bytes) -> None:
        """Read the events in ``piece``, if there are such: what cannot be read, its reader will find out."""
        if self._framed is None:
            if not (start := piece.lstrip(_BLANK)):
                return
            if self._watch is None or start.startswith(_JSON):
                self._watch = None
                return
            self._translator = self._watch()
            self._events = EventReader()
            self._framed = FramedReader(self._events, self._translator)
        try:
            self._framed.feed(piece, [])
        except (InvalidAnswer, EventTooLarge):
            self._watch = None
            if self._translator is not None and not self._translator.is_complete:
                self._translator = None
