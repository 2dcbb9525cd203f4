"""Accepting connections: as many as come, and with an answer for those that there is no file descriptor for.

libuv accepts one connection in each pass of the loop, so a crowd that connects at once would wait behind everything
that is under way, once for each of its members: here streams under way give way to it. And without a free descriptor
libuv resets new connections.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from one_api.bounded import once_a_minute
from one_api.serving.fairness import scheduler

logger = logging.getLogger(__name__)

#: How many connections are accepted in one pass of the loop: the first of a crowd are served before the last.
_MAX_PER_PASS = 4
#: How many connections are accepted at the end, of those that wait in the kernel.
_MAX_WAITING = 4096
#: How long the end waits until they are open, in seconds; a handshake of TLS takes the client's time.
_OPENING_S = 1.0
#: How long new connections wait in the kernel when not even one descriptor can be had, in seconds.
_PAUSE_S = 0.1
#: How much of what a refused client has sent is taken, so that closing does not destroy the answer, in bytes.
_MAX_TAKEN_BYTES = 64 * 1024
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_DESCRIPTOR = "no file descriptor is left for new clients, which get the answer 503: raise the limit (ulimit -n)"


class Acceptor:
    """Accepts what connects to one listening socket, on the running loop."""

    def __init__(
        self,
        listener: socket.socket,
        protocol_factory: Callable[[], asyncio.Protocol],
        refusal: bytes,
        tls: ssl.SSLContext | None = None,
        prepare: Callable[[socket.socket], None] = lambda _: None,
    ) -> None:
        """``refusal`` is the whole answer for a client that there is no descriptor for; under TLS it only is closed.

        ``prepare`` sets the options of a connection: through its transport each would take a new object of a socket.
        """
        self._listener = listener
        self._protocol_factory = protocol_factory
        self._refusal = b"" if tls else refusal
        self._tls = tls
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler()
        #: A descriptor that is kept back, to answer with when no other is left.
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        if self._accept_some():
            self._scheduler.clients_wait()

    def _accept_some(self) -> bool:
        """Accept a few; return whether more may wait."""
        for _ in range(_MAX_PER_PASS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return False  # another process was faster, or none is left
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # the client has gone meanwhile
                if not self._refuse():
                    return False
            else:
                self._open(connection)
        return True

    def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):
            self._prepare(connection)
        task = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol_factory, connection, ssl=self._tls)
        )
        self._opening.add(task)
        task.add_done_callback(self._on_open)

    def _on_open(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("a connection could not be opened: %s", error)

    def _refuse(self) -> bool:
        """Answer one client with the descriptor that is kept back; False, and a pause, when there is none."""
        once_a_minute(logger.error, _NO_DESCRIPTOR)
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
            with suppress(OSError):
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.setblocking(False)
                    connection.send(self._refusal)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(_MAX_TAKEN_BYTES)
        with suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)
            return True
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)
        return False

    def close(self) -> None:
        """Accept the connections that are there already, and no more; the owner of the listener then closes it at once.

        With it the kernel resets all that were not accepted, and a proxy does not send their requests elsewhere.
        """
        for _ in range(_MAX_WAITING // _MAX_PER_PASS):
            if not self._accept_some():
                break
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    async def opened(self) -> None:
        """Wait until all that were accepted have a connection object of ours."""
        if self._opening:
            await asyncio.wait(self._opening, timeout=_OPENING_S)
