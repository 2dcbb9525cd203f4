"""The signal that a client has disconnected: a callback, so that no task has to wait for it."""

from collections.abc import Callable

#: The server puts a request's ``DisconnectSignal`` under this name, among the ``extensions`` of its ASGI scope.
EXTENSION = "one_api.disconnect"


class DisconnectSignal:
    """Fires once, when the client of one request disconnects."""

    __slots__ = ("_callback", "left")

    def __init__(self) -> None:
        #: The client has disconnected.
        self.left = False
        self._callback: Callable[[], None] | None = None

    def watch(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the client disconnects; at once if it has disconnected already."""
        self._callback = callback
        if self.left:
            callback()

    def forget(self) -> None:
        """Remove the callback."""
        self._callback = None

    def fire(self) -> None:
        """Note that the client has disconnected, and run the callback. Called by the server."""
        self.left = True
        if self._callback is not None:
            self._callback()
