"""One background event loop per process, for plain WSGI servers (``flask run``, gthread)."""

import asyncio
import atexit
import concurrent.futures
import contextlib
import errno
import functools
import os
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from one_api.settings.sections import ServerConfig

T = TypeVar("T")

#: How often a waiting thread looks whether its client is still there, in seconds.
_LOOK_S = 0.25
#: How long what is cancelled, or closed, may take to end, in seconds.
_END_S = 5.0


class Service(Protocol):
    """What an application may put into ``app.extensions["one_api"]`` to live with the process."""

    draining: bool
    #: Returns how many clients are connected; set by a server that knows.
    connections: Callable[[], int | None]

    @property
    def server(self) -> ServerConfig:
        """Return the settings of the listening side."""

    def begin_reload(self, by: str) -> None:
        """Reload the configuration; called on the loop. ``by`` names what asked for it."""

    async def start(self) -> None:
        """Start background work; called on the loop."""

    async def aclose(self) -> None:
        """Stop it, and close what is open."""


class _InPlace(concurrent.futures.ThreadPoolExecutor):
    """Runs work where it is submitted: at the end of a process no pool of threads takes any more."""

    def submit(self, work: Callable[..., T], /, *args: Any, **more: Any) -> concurrent.futures.Future[T]:
        """Run ``work``, and return its result."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            future.set_result(work(*args, **more))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)
        return future


class BackgroundLoop:
    """An event loop in a daemon thread; made on first use, so that every process after a fork has its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._services: list[Service] = []
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
        task: asyncio.Task[Any] | None = None

        async def call() -> T:
            nonlocal task
            task = asyncio.current_task()
            return await coroutine

        def cancel() -> None:
            if task is not None:
                task.cancel()

        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            while client is not None:
                with contextlib.suppress(TimeoutError):
                    return future.result(_LOOK_S)
                if future.done():
                    break
                if peer_left(client):
                    self._loop.call_soon_threadsafe(cancel)
                    with contextlib.suppress(TimeoutError):
                        # What is cancelled lets go of its upstream and completes its record first.
                        return future.result(_END_S)
                    raise asyncio.CancelledError("the client left")
            return future.result()
        except BaseException as error:
            future.cancel()
            if isinstance(error, concurrent.futures.CancelledError):
                raise asyncio.CancelledError("the client left") from None
            raise

    def adopt(self, service: Service) -> None:
        """Start what an application needs, once, and close it when the process ends."""
        if any(service is known for known in self._services):
            return
        self._services.append(service)
        self.run(service.start())

    def close(self) -> None:
        """Close the services and stop the thread."""
        self._loop.call_soon_threadsafe(self._loop.set_default_executor, _InPlace())
        for service in self._services:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(service.aclose(), self._loop).result(_END_S)
        self._services.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        if not self._loop.is_running():
            self._loop.close()


@contextlib.contextmanager
def leaving_as_reset() -> Iterator[None]:
    """Turn the cancellation that a client's leaving causes into what a WSGI server takes for it: a lost connection.

    A server's thread would not survive the other.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        raise ConnectionResetError(errno.ECONNRESET, "the client left") from error


def client_of(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the connection that a request came by, where the WSGI server has it (gunicorn, Flask's own)."""
    connection: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return connection


def peer_left(connection: socket.socket) -> bool:
    """Return whether the other end has closed, without taking anything off the connection."""
    try:
        with selectors.DefaultSelector() as selector:  # select.select ends at descriptor 1023
            selector.register(connection, selectors.EVENT_READ)
            return bool(selector.select(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


#: Held while the loop is looked up: threads that come at once must not make one each.
_making = threading.Lock()


def background() -> BackgroundLoop:
    """Return this process's background loop."""
    with _making:
        return _loop_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _loop_of(pid: int) -> BackgroundLoop:
    """Make the loop once per process: a fork has another pid, and so gets its own."""
    return BackgroundLoop()
