"""One background event loop per process, for plain WSGI servers (``flask run``, gthread)."""

import asyncio
import atexit
import contextlib
import functools
import os
import select
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: How often a waiting thread looks whether its client is still there, in seconds.
_LOOK_S = 0.25


class BackgroundLoop:
    """An event loop in a daemon thread; made on first use, so that every process after a fork has its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="one_api-loop", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def run(self, coroutine: Coroutine[Any, Any, T], client: socket.socket | None = None) -> T:
        """Run ``coroutine`` on the loop, in a copy of the caller's context, and wait for its result.

        Args:
            coroutine: what to run.
            client: the connection that waits for it. When its peer leaves, the coroutine is cancelled.

        Raises:
            asyncio.CancelledError: when the client left.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while client is not None:
                with contextlib.suppress(TimeoutError):
                    return future.result(_LOOK_S)
                if future.done():
                    break
                if peer_left(client):
                    raise asyncio.CancelledError("the client left")
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def on_close(self, closer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have ``closer`` awaited when the process ends."""
        self._closers.append(closer)

    def close(self) -> None:
        """Await the closers and stop the thread."""
        for closer in self._closers:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(closer(), self._loop).result(5)
        self._closers.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._loop.is_running():
            self._loop.close()


def peer_left(connection: socket.socket) -> bool:
    """Say whether the other end has closed, without taking anything off the connection."""
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def background() -> BackgroundLoop:
    """Return this process's background loop."""
    return _loop_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _loop_of(pid: int) -> BackgroundLoop:
    """Make the loop once per process: a fork has another pid, and so gets its own."""
    return BackgroundLoop()
