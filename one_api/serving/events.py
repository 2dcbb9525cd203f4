"""A response body made of events: iterated by the loop where there is one, else by a thread."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from one_api.serving.loop import background, client_of, leaving_as_reset
from one_api.serving.responses import PlainResponse

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Set in the environ of a request that runs on the worker's own loop.
BRIDGED = "one_api.bridged"


class AnswerCut(ConnectionResetError):
    """An answer cannot be completed, and has no words to say so: its connection is closed before its end."""


class EventBody(ABC):
    """An answer that comes in pieces. It ends exactly once; its reader calls ``aclose()``."""

    @property
    def is_complete(self) -> bool:
        """Whether it is known that nothing follows what was read: then that goes out with the end, in one packet."""
        return False

    @abstractmethod
    async def read(self) -> bytes:
        """Wait for the next piece; b"" is the end. Raises AnswerCut."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the upstream and settle the record. May be called at any time, and again."""

    @abstractmethod
    def interrupted(self) -> bytes:
        """Return the last piece for a client whose answer the end of this process cuts short."""


class EventResponse(PlainResponse):
    """A Flask response whose body is an ``EventBody``."""

    def __init__(self, body: EventBody, **kwargs: Any) -> None:
        super().__init__(iter(()), **kwargs)
        self.body = body

    def get_app_iter(self, environ: "WSGIEnvironment") -> Iterable[bytes]:
        """Hand the body to the bridge as it is, or to a WSGI server as an iterator."""
        if environ.get(BRIDGED):
            return BridgedEvents(self.body)
        return _ThreadedEvents(self.body, client_of(environ))


class BridgedEvents:
    """Marks an iterable that the bridge reads asynchronously; nothing iterates it."""

    def __init__(self, body: EventBody) -> None:
        self.body = body

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("this body is read by the bridge")


class _ThreadedEvents:
    """Reads the body for a WSGI server, one piece at a time, on the background loop."""

    def __init__(self, body: EventBody, client: socket.socket | None) -> None:
        self._body = body
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with leaving_as_reset():
            piece = background().run(self._body.read(), self._client)
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Called by the server at the end, whatever happened."""
        background().run(self._body.aclose())
