"""A relay in front of a database, for outages."""

import contextlib
import socket
import threading

from tests.support import free_port


class Switch:
    """A TCP relay in front of PostgreSQL that can stop to pass anything on, without closing a connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()  # which stays free while it is closed
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Pass nothing on."""
        self._open.clear()

    def thaw(self) -> None:
        """Pass on again."""
        self._open.set()

    def break_off(self) -> None:
        """End all connections, and refuse others."""
        self.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._sockets.clear()

    def restore(self) -> None:
        """Accept connections again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more."""
        self.thaw()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else the port stays open until somebody has connected
        self._listener.close()

    def _accept(self) -> None:
        listener = self._listener
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    if listener.fileno() < 0:  # it was broken off meanwhile
                        client.close()
                        server.close()
                        return
                    self._sockets += (client, server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        source.close()
