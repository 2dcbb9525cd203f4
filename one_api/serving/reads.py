"""Reads of a bounded size: what a paused connection has read before the pause is all that it can hold."""

import asyncio


class BoundedReads(asyncio.BufferedProtocol):
    """Hands an ``asyncio.Protocol`` at most ``len(buffer)`` bytes at once; the loops' own reads are of 250 KB.

    Reading is paused after the read that was too much. So the size of one read, times the connections, is what a crowd
    costs that sends faster than it is served, or that reads nothing of answers that come fast.
    """

    def __init__(self, protocol: asyncio.Protocol, buffer: bytearray) -> None:
        """``buffer`` may be shared by all connections of one loop: it is copied before the next read."""
        self._protocol = protocol
        self._buffer = memoryview(buffer)
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the loop is to put what it reads next."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        self._protocol.data_received(bytes(self._buffer[:nbytes]))
