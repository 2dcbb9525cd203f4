"""How the server tells whoever serves a request that its client has left: a call, not a task that waits for it."""

from collections.abc import Callable

#: Where the server puts a request's ``Departure``: among the ``extensions`` of its ASGI scope.
EXTENSION = "one_api.departure"


class Departure:
    """Says once that the client of one request has left."""

    __slots__ = ("_tell", "left")

    def __init__(self) -> None:
        self.left = False
        self._tell: Callable[[], None] | None = None

    def watch(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called when the client leaves; at once when it has left already."""
        self._tell = tell
        if self.left:
            tell()

    def forget(self) -> None:
        """Tell nobody any more."""
        self._tell = None

    def happened(self) -> None:
        """Note that the client has left; called by the server."""
        self.left = True
        if self._tell is not None:
            self._tell()
