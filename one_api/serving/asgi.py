"""Flask as an ASGI application: each request runs in a greenlet on the event loop."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from flask import Flask

from one_api.errors import ShuttingDown
from one_api.serving.bridge import Bridge, await_, begin
from one_api.serving.disconnect import EXTENSION, DisconnectSignal
from one_api.serving.environ import environ_of
from one_api.serving.events import AnswerCut, BridgedEvents, EventBody
from one_api.serving.fairness import FairScheduler, scheduler
from one_api.serving.loop import Service
from one_api.serving.request_body import Receive, RequestBody
from one_api.serving.transport import ANSWER, AnswerWriter
from one_api.settings.sections import ServerConfig

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

#: How long requests that are cut may take to end when the process ends, in seconds.
_END_S = 5.0
#: How long the last piece of a cut stream may wait for a slow reader, in seconds.
_LAST_EVENT_S = 1.0
#: How long a body that is not wanted is taken before the connection is closed, in seconds.
_DISCARD_S = 2.0
#: A body that is not wanted is waited for before its answer, so that the connection stays, if it has no more bytes than
#: this; and so long, in seconds.
_SMALL_BODY_BYTES, _SMALL_BODY_S = 64 * 1024, 0.5
#: What one stream may send without waiting for its upstream before others go on, in bytes.
_BURST_BYTES = 8 * 1024


class FlaskASGI:
    """Serves a Flask application on the running event loop."""

    def __init__(self, app: Flask, root_path: str = "") -> None:
        """``root_path`` is where the server says that it is mounted; requests may come with or without it."""
        self._app = app
        self._root_path = root_path
        self._service: Service = app.extensions["one_api"]
        self._bridge = Bridge()
        self._exchanges: set[asyncio.Task[Any] | None] = set()

    @property
    def settings(self) -> ServerConfig:
        """Return the settings of the listening side, as they are now."""
        return self._service.server

    def count_connections(self, count: Callable[[], int]) -> None:
        """Have ``count`` say how many clients are connected."""
        self._service.connections = count

    def reload(self) -> None:
        """Reload the configuration; for a handler of a signal, on the loop."""
        self._service.begin_reload("signal")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the process."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._root_path:
            scope["root_path"] = self._root_path
        task = asyncio.current_task()
        self._exchanges.add(task)
        try:
            await _Exchange(self._app, self._service, self._bridge, scope, receive, send, task).run()
        finally:
            self._exchanges.discard(task)

    def drain(self) -> None:
        """Answer ``/ready``, from now on, with the reason that this process is about to end."""
        self._service.draining = True

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._service.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if pending := {task for task in self._exchanges if task is not None}:
            await asyncio.wait(pending, timeout=_END_S)
        await self._service.aclose()
        await send({"type": "lifespan.shutdown.complete"})


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        app: Flask,
        service: Service,
        bridge: Bridge,
        scope: Scope,
        receive: Receive,
        send: Send,
        task: asyncio.Task[Any] | None,
    ) -> None:
        self._app = app
        self._service = service
        self._bridge = bridge
        self._send = send
        self._scope = scope
        self._input = RequestBody(receive, service.server.body_timeout_s, self._watch)
        self._receive = receive
        self._task = task
        extensions: dict[str, Any] = scope.get("extensions", {})
        self._disconnect: DisconnectSignal | None = extensions.get(EXTENSION)
        #: Of our own server; others are sent the messages of ASGI.
        self._answer: AnswerWriter | None = extensions.pop(ANSWER, None)  # it leads back to the scope
        self._watcher: asyncio.Task[None] | None = None
        self._client_left = False
        self._started = False
        self._head: tuple[int, list[tuple[str, str]]] = (500, [])
        self._body: EventBody | None = None

    async def run(self) -> None:
        """Serve it. When the client leaves, whatever is awaited is cancelled; so too when the process ends."""
        try:
            self._body = await self._bridge.run(self._call_flask, self._why_cancelled)
            if self._body is not None:
                await self._send_events(self._body, scheduler())
        except AnswerCut:
            self._cut()
        except ShuttingDown:
            pass  # its body has begun, and stays without its end: the connection is closed, and the client can see it
        except asyncio.CancelledError:
            if not self._client_left and self._body is not None:
                await self._interrupt(self._body)
        finally:
            self._stop_watching()
            self._input.forget()
            if self._body is not None:
                await self._body.aclose()

    def _call_flask(self) -> EventBody | None:
        """Run the application (in the greenlet) and send its response, unless that is made of events."""
        environ = environ_of(self._scope, self._input)
        if environ.get("CONTENT_LENGTH", "0") == "0" and "HTTP_TRANSFER_ENCODING" not in environ:
            self._input.complete = True  # there is none to wait for
            self._watch()
        try:
            iterable = self._app.wsgi_app(environ, self._start_response)
            if not self._input.complete and _is_small(environ):
                await_(self._input.discard(_SMALL_BODY_S))
        except BaseException as error:
            _release_frames(error)
            raise
        if self._service.draining or not self._input.complete:
            self._head[1].append(("connection", "close"))
        if isinstance(iterable, BridgedEvents):
            return iterable.body
        try:
            self._send_pieces(iterable)
        finally:
            if (close := getattr(iterable, "close", None)) is not None:
                close()
        return None

    def _send_pieces(self, iterable: Iterable[bytes]) -> None:
        """Send a body piece by piece; a piece is held until the next shows whether it was the last."""
        held: bytes | None = None
        for piece in iterable:
            if held is not None:
                self._emit_sync(held, more=True)
                await_(asyncio.sleep(0))  # sending may not wait at all: let the others run
            held = piece
        if not self._input.complete:
            # The answer is whole for the client; closing while it still sends could destroy it on its way.
            self._emit_sync(held or b"", more=True)
            await_(self._input.discard(_DISCARD_S))
            held = None
        self._stop_watching()
        self._emit_sync(held or b"", more=False)

    async def _send_events(self, body: EventBody, scheduler: FairScheduler) -> None:
        """Send pieces as they come. Of those that came in one burst a share is sent, then others go on."""
        burst = 0
        while True:
            rest, piece = begin(body.read())
            if rest is not None:
                burst, piece = 0, await rest
            if not piece or body.is_complete:
                break
            if self._answer is not None and not self._answer.is_held_up:
                self._write(self._answer, piece, more=True)  # as nearly always
            else:
                await self._emit(piece, more=True)
            if rest is None:
                burst += len(piece)
                if burst > _BURST_BYTES or scheduler.is_late():
                    await scheduler.wait_turn()
                    burst = 0
        self._stop_watching()
        await self._emit(piece or b"", more=False)

    def _why_cancelled(self) -> BaseException:
        """Return what the application is to see of a cancellation; the end of the process is an error to answer."""
        if self._client_left:
            return asyncio.CancelledError()
        return ShuttingDown("The gateway is shutting down: send the request again.", retry_after_s=1)

    async def _interrupt(self, body: EventBody) -> None:
        """Send the last event of a stream that the end of the process cuts: it must not look complete."""
        self._stop_watching()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_EVENT_S):
                    await self._emit(body.interrupted(), more=False)
        except AnswerCut:
            self._cut()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        if exc_info is not None and self._started:
            raise exc_info[1].with_traceback(exc_info[2])
        self._head = int(status[:3]), list(headers)
        return _refuse_write

    def _emit_sync(self, piece: bytes, *, more: bool) -> None:
        """Send a piece, in the greenlet; what need not wait costs no coroutine."""
        if self._answer is not None and not self._answer.is_held_up:
            self._write(self._answer, piece, more=more)
        else:
            await_(self._emit(piece, more=more))

    async def _emit(self, piece: bytes, *, more: bool) -> None:
        if self._answer is not None:
            if self._answer.is_held_up:
                await self._answer.drain()
            self._write(self._answer, piece, more=more)
            return
        if not self._started:
            self._started = True
            status, headers = self._head
            encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            await self._send({"type": "http.response.start", "status": status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    def _write(self, answer: AnswerWriter, piece: bytes, *, more: bool) -> None:
        """Write to the connection of our own server, without the messages of ASGI."""
        if not self._started:
            self._started = True
            answer.begin(*self._head)
            self._head = 0, []  # a stream would hold them to its end
        answer.write(piece, more=more)

    def _watch(self) -> None:
        """From now on, notice when the client disconnects. Servers without a ``DisconnectSignal`` are polled."""
        if self._disconnect is not None:
            self._disconnect.watch(self._leave)
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._wait_for_leave())

    def _stop_watching(self) -> None:
        if self._disconnect is not None:
            self._disconnect.forget()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _wait_for_leave(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _cut(self) -> None:
        """Close the connection: what was sent must not pass for the whole answer."""
        if self._answer is not None:
            self._answer.cut()

    def _leave(self) -> None:
        self._client_left = True
        if self._task is not None:
            self._task.cancel()


def _release_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold, a body for one.

    Flask keeps the error in a frame that the error leads to: only the collector would find them, much later.
    """
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def _is_small(environ: Mapping[str, Any]) -> bool:
    """Return whether a request's body is small, and is sent without being asked for."""
    length: str = environ.get("CONTENT_LENGTH", "")
    return length.isdecimal() and int(length) <= _SMALL_BODY_BYTES and "HTTP_EXPECT" not in environ


def _refuse_write(_: bytes) -> object:
    raise NotImplementedError("WSGI's write() is not supported: return an iterable")
