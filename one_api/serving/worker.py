"""The gunicorn worker: uvicorn's server (uvloop, httptools) with Flask on its loop."""

import asyncio
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from one_api.serving.asgi import FlaskASGI

#: What may wait unsent in the kernel for one client, in bytes; more waits at the upstream.
_UNSENT_BYTES = 64 * 1024
#: What may wait for the kernel before the application has to wait, in bytes.
_PENDING_BYTES = 32 * 1024
#: How many requests of one connection may wait for their turn before no more of them are read.
_MOST_PIPELINED = 16
#: Kept back from the drain time, so that cut streams can still say so, in seconds.
_FAREWELL_S = 2.0
#: How long open requests may go on after Ctrl-C, in seconds.
_INTERRUPT_S = 1.0


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with what it leaves to the socket's defaults, and with every request told of the end."""

    #: The requests of this connection whose answers are not complete, the oldest first.
    _waiting: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send small pieces at once, and do not let the kernel hoard what a slow reader has not taken."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(_PENDING_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    def on_headers_complete(self) -> None:
        """Go on reading while requests queue up, within limits: a connection that is not read does not tell its end."""
        super().on_headers_complete()
        self._waiting = (*(each for each in self._waiting if not each.response_complete), self.cycle)
        if len(self._waiting) <= _MOST_PIPELINED:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests, not only the one that came last."""
        super().connection_lost(exc)
        for cycle in self._waiting:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


class GatewayServer(Server):
    """uvicorn's server, which tells the application when it starts to drain."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain; after Ctrl-C, briefly."""
        app = self.config.loaded_app
        if isinstance(app, FlaskASGI):
            app.drain()
        if sig in (signal.SIGINT, signal.SIGQUIT):
            self.config.timeout_graceful_shutdown = int(_INTERRUPT_S)
        super().handle_exit(sig, frame)


class GatewayWorker(UvicornWorker):
    """Runs the loaded WSGI application, a Flask app, on an event loop of its own."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": GatewayProtocol,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    async def _serve(self) -> None:
        self.config.app = FlaskASGI(self.wsgi)
        self.config.timeout_graceful_shutdown = max(1, int(self.cfg.graceful_timeout - _FAREWELL_S))
        server = GatewayServer(config=self.config)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        alive = asyncio.create_task(self._keep_notifying())
        try:
            await server.serve(sockets=self.sockets)
        finally:
            alive.cancel()

    async def _keep_notifying(self) -> None:
        """Tell gunicorn's master that this process lives, also while it drains."""
        while True:
            self.notify()
            await asyncio.sleep(1)
