"""An upstream's answer of any type, handed on in its own bytes: with deadlines, and with an end that is true."""

from contextlib import suppress

import aiohttp

from one_api.contract import ByteStream
from one_api.dialects import json
from one_api.dialects.openai.passthrough import (
    MAX_READ_BYTES,
    PassthroughRequest,
    Watcher,
    read_json,
    type_of,
    units_asked,
    units_told,
    usage_of,
)
from one_api.dialects.payloads import check_error
from one_api.dialects.sse import EventReader
from one_api.errors import UpstreamBroken
from one_api.serving.timeouts import ReusableTimeout
from one_api.upstream.compression import body_of
from one_api.upstream.errors import Reports
from one_api.upstream.exceptions import NamedErrors, truncated

#: How much of an answer is taken at once, in bytes.
_PIECE_BYTES = 64 * 1024
#: An error in place of another type of answer is read up to this size, in bytes.
_MAX_ERROR_BYTES = 64 * 1024


class UpstreamBytes(ByteStream):
    """The body of one response; ``idle_s`` is the longest silence between two reads of it."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: PassthroughRequest,
        idle_s: float,
        deadline: float,
        reports: Reports,
    ) -> None:
        self.status = response.status
        self.content_type = response.headers.get("content-type") or "application/octet-stream"
        self.disposition = response.headers.get("content-disposition")
        self._response = response
        self._body = body_of(response)
        self._door = request.door
        self.units = units_asked(request)
        self._own_idle_s = idle_s
        #: Of the whole answer, in the loop's time.
        self._deadline = deadline
        self._reports = reports
        self._timeout = ReusableTimeout()
        #: What has come and was not read.
        self._held = b""
        #: Nothing more comes from the upstream.
        self._at_end = False
        self._watcher = Watcher("binary")

    async def begin(self) -> None:
        """Wait for the first bytes, and see whether they are an answer; one in JSON that is not long is read whole.

        Raises:
            UpstreamError: when it is an error, of another type than the door has, or cut short.
        """
        start = self._held = await self._receive()
        answer_type = type_of(self.content_type, start, self._door)
        if answer_type not in self._door.answers:
            await self._refuse(answer_type)
        if not start and answer_type != "text":  # nothing was said in a recording of silence
            raise UpstreamBroken("The upstream's answer is empty.")
        if answer_type == "events":
            self._check_first_event()
        self._watcher = Watcher(answer_type, self._door)
        if answer_type == "json":
            await self._hold(MAX_READ_BYTES)
            if self._at_end:
                self._read_whole()
        self._watcher.feed(self._held)
        self._note_end()

    def _check_first_event(self) -> None:
        """Raise the error that the first event reports: nothing of the answer has come by then."""
        event = next(iter(EventReader().feed(self._held)), None)
        # What is not JSON is for the client to judge.
        with suppress(json.InvalidJSON), self._reports.faults_named():
            if event is not None and event.data.startswith(b"{"):
                check_error(json.decode_object(event.data), is_named=True)

    async def _refuse(self, answer_type: str) -> None:
        """Raise the error that an answer of a wrong type holds, or that it is one."""
        if answer_type == "json":
            await self._hold(_MAX_ERROR_BYTES)
            self._read_whole()
        expected = " or ".join(sorted(self._door.answers))
        raise UpstreamBroken(f"The upstream answered with {self.content_type[:64]}; expected was {expected}.")

    def _read_whole(self) -> None:
        """Read an answer in JSON that is there to its end."""
        with self._reports.faults_named():
            value = read_json(self._held, self._door)
        if isinstance(value, dict):
            self.usage = usage_of(value.get("usage"), self._door.modalities)
            self.units = units_told(value) or self.units

    async def _hold(self, limit: int) -> None:
        """Take what comes until the end, or until it is ``limit`` bytes."""
        pieces, size = [self._held], len(self._held)
        while size < limit and (piece := await self._receive()):
            pieces.append(piece)
            size += len(piece)
        self._held = b"".join(pieces)

    async def _receive(self) -> bytes:
        """Return what comes next from the upstream; nothing at the end."""
        piece = b"" if self._at_end else await self._body.read(_PIECE_BYTES)
        self._at_end = not piece
        return piece

    async def read(self) -> bytes:
        """See ``ByteStream``."""
        if self._held:
            piece, self._held = self._held, b""
        elif self.ended:
            return b""
        else:
            piece = await self._next()
            self._watcher.feed(piece)
        self._note_end()
        return piece

    async def _next(self) -> bytes:
        idle_s = self._own_idle_s if self.idle_s is None else min(self._own_idle_s, self.idle_s)
        with NamedErrors("the next bytes", idle_s), self._timeout.limit(idle_s, self._deadline):
            piece = await self._receive()
        self._timeout.reset()  # not before: a wait may be cancelled for a heartbeat, and begun again
        return piece

    def _note_end(self) -> None:
        """Note whether all has been read, and what it took."""
        if not self._at_end or self._held:
            return
        if not self._watcher.is_complete:
            raise truncated()
        self.usage = self.usage or self._watcher.usage
        self.units = self._watcher.units or self.units
        self.ended = True

    async def aclose(self) -> None:
        """Close the response; a connection whose answer was read to its end is used again."""
        self.ended = True
        self._timeout.close()
        if self._at_end:
            self._response.release()
        else:
            self._response.close()
