"""The gunicorn worker: uvicorn's server (uvloop, httptools) with Flask on its loop."""

import asyncio
import ctypes
import gc
import logging
import math
import os
import resource
import signal
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from one_api.errors import OutOfDescriptors
from one_api.observability.log import route_all_logs
from one_api.serving.acceptor import Acceptor
from one_api.serving.asgi import FlaskASGI
from one_api.serving.fairness import scheduler
from one_api.serving.protocol import GatewayProtocol
from one_api.serving.transport import set_options, whole_answer
from one_api.settings.sections import ServerConfig

logger = logging.getLogger(__name__)

#: How long requests that are cut may take to say so, in seconds.
_CUT_S = 5.0
#: Kept back from the drain time, so that cut streams can still say so, in seconds.
_KEPT_FOR_CUT_S = 2.0
#: Allocations between two collections of the young, and how many of each make one of the next older.
_GC_THRESHOLDS = (2_000, 5, 5)
#: How often cycles are looked for among what was frozen with large bodies, in seconds: it takes 20 ms.
_THAW_S = 600.0
#: glibc's name for where memory of its own begins (mallopt(3)), and from what size a body gets it, in bytes.
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 1024 * 1024
#: How often uvicorn wants to know the time, for the header with the date, in seconds.
_TICK_S = 1.0
#: How long open requests may go on after Ctrl-C, in seconds.
_INTERRUPT_S = 0.5
#: How long kept connections may still ask something when nothing else is under way, in seconds.
_LAST_ASKED_S = 0.5
#: The answer to clients for which there is no file descriptor.
_NO_DESCRIPTOR = OutOfDescriptors.default()


class GatewayServer(Server):
    """uvicorn's server, with an end of our own: drained and logged, never by a signal's default action."""

    def __init__(self, config: Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._deadline = math.inf
        self._acceptors: list[Acceptor] = []
        self._loop = asyncio.get_running_loop()
        self._has_to_end = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and accept connections ourselves."""
        await super().startup(sockets=[])

        def protocol() -> GatewayProtocol:
            return GatewayProtocol(self.config, self.server_state, self.lifespan.state)

        refusal = whole_answer(_NO_DESCRIPTOR, {})
        self._acceptors = [Acceptor(each, protocol, refusal, self.config.ssl, _prepare) for each in sockets or ()]

    async def main_loop(self) -> None:
        """Do what uvicorn does each second, until the end is asked for: uvicorn looks for that ten times a second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_to_end.wait(), _TICK_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain; after Ctrl-C, briefly. Called by uvicorn for SIGTERM and SIGINT, and by us for SIGQUIT."""
        self._drain(_INTERRUPT_S if sig in (signal.SIGINT, signal.SIGQUIT) else self._drain_s)
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._has_to_end.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, finish what is under way, and answer what kept connections still ask meanwhile."""
        self._drain(self._drain_s)
        for acceptor in self._acceptors:
            acceptor.close()
        for listener in sockets or ():
            listener.close()
        for acceptor in self._acceptors:
            await acceptor.opened()
        linger_until = time.monotonic() + _LAST_ASKED_S
        while self._has_to_wait(linger_until):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.05)
        await self._cut()
        await self.lifespan.shutdown()

    async def _cut(self) -> None:
        """End what is still open, with an error where a request waits, so that nothing is left for uvicorn to cut."""
        state = self.server_state
        if state.tasks:
            logger.warning("the gateway ends: %d open request(s) were cut, each with an error", len(state.tasks))
            for task in state.tasks:
                task.cancel()
            await asyncio.wait(state.tasks, timeout=_CUT_S)
        for connection in list(state.connections):
            connection.shutdown()
        deadline = time.monotonic() + _LAST_ASKED_S
        while state.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            connection.transport.abort()

    def _drain(self, left_s: float) -> None:
        """Notify the application, and set the time by which the last request has ended."""
        app = self.config.loaded_app
        if isinstance(app, FlaskASGI):
            app.drain()
        self._deadline = min(self._deadline, time.monotonic() + left_s)

    def _has_to_wait(self, linger_until: float) -> bool:
        """Return whether something is under way, or may still be asked, and there is time for it."""
        state = self.server_state
        if state.tasks or any(each.transport.get_write_buffer_size() for each in state.connections):
            return time.monotonic() < self._deadline
        return bool(state.connections) and time.monotonic() < min(linger_until, self._deadline)


def _prepare(connection: socket.socket) -> None:
    """Set the options of a client's connection."""
    if connection.family != socket.AF_UNIX:
        set_options(connection, GatewayProtocol.settings.write_timeout_s)


def _raise_file_limit(server: ServerConfig) -> None:
    """Allow this process as many open files as the system lets it have; log when that is too few for all clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    needed = server.files_needed
    if soft != resource.RLIM_INFINITY and soft < needed:
        logger.warning(
            "%d open files are allowed (ulimit -n), and server.max_connections of %d may need %d:"
            " raise the one or lower the other",
            soft,
            server.max_connections,
            needed,
        )


def _freeze_loaded() -> None:
    """Keep what is there from the collector, without its garbage: it stays, and need not be gone through again."""
    gc.collect()
    gc.freeze()


def _map_large_bodies() -> None:
    """Have large bodies given memory of their own, which goes back to the system with them.

    glibc raises the size from which it does that up to 32 MiB, by what is let go. Then bodies that grow side by side
    leave holes in the heap, which are never given back. Other C libraries have no such threshold.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


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

    def init_signals(self) -> None:
        """Leave SIGHUP to the master, which asks for a reload: ``pkill -HUP gunicorn`` sends it to all processes."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: None)

    async def _serve(self) -> None:
        route_all_logs()
        app = FlaskASGI(self.wsgi, self.cfg.settings["root_path"].get() if "root_path" in self.cfg.settings else "")
        _raise_file_limit(app.settings)
        _map_large_bodies()
        self.config.app = app
        GatewayProtocol.settings, GatewayProtocol.scheduler = app.settings, scheduler()
        graceful_s = self.cfg.graceful_timeout
        server = GatewayServer(self.config, max(graceful_s - _KEPT_FOR_CUT_S, graceful_s / 2))
        app.count_connections(lambda: len(server.server_state.connections))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        loop.add_signal_handler(signal.SIGUSR1, self._on_usr1, app)
        # Requests leave few cycles, so the collector runs less often.
        gc.set_threshold(*_GC_THRESHOLDS)
        _freeze_loaded()
        alive = asyncio.create_task(self._keep_notifying(server, app))
        try:
            await server.serve(sockets=[each.sock for each in self.sockets])
        finally:
            alive.cancel()

    def _on_usr1(self, app: FlaskASGI) -> None:
        """Open the log files anew, as workers of gunicorn do, and load the configuration if the master asks for it."""
        self.log.reopen_files()
        app.reload()

    async def _keep_notifying(self, server: GatewayServer, app: FlaskASGI) -> None:
        """Show gunicorn's master that this process lives, also while it drains; drain when the master has gone."""
        loop = asyncio.get_running_loop()
        frozen, thaw_at = gc.get_freeze_count(), loop.time() + _THAW_S
        while True:
            self.notify()
            GatewayProtocol.settings = app.settings  # a reload may have changed it
            if loop.time() > thaw_at:
                if gc.get_freeze_count() > frozen:  # with large bodies; a cycle among them would stay for ever
                    gc.unfreeze()
                    _freeze_loaded()
                frozen, thaw_at = gc.get_freeze_count(), loop.time() + _THAW_S
            if os.getppid() != self.ppid and not server.should_exit:
                logger.error("gunicorn's master has gone: this worker finishes its open requests and ends")
                server.handle_exit(signal.SIGTERM, None)
            await asyncio.sleep(1)
