"""Connections that are kept between two requests, and what can become of them meanwhile.

aiohttp hands out any kept connection that is open. Two things may have happened to it: the upstream has just closed
it, so that the next request goes nowhere; or it has sent more than the answer it owed, which would be taken for the
answer to the next request, and that may be another client's.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from one_api.models.adapters.resolver import BoundedResolver

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

#: How many connections one request may be given, should each have bytes on it that nobody asked for.
_MOST_SPOILT = 10

_kept: ContextVar[bool] = ContextVar("kept", default=False)


def on_kept_connection() -> bool:
    """Say whether the last request of this context went out on a connection that had served another before."""
    return _kept.get()


class KeepingConnector(aiohttp.TCPConnector):
    """aiohttp's connector, which closes a kept connection on which bytes have come that no request asked for."""

    def __init__(self) -> None:
        # How many requests may be in flight is decided where deployments are chosen, not here (limit=0).
        super().__init__(limit=0, keepalive_timeout=30, ttl_dns_cache=30, resolver=BoundedResolver())
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(self, req: "ClientRequest", traces: "list[Trace]", timeout: aiohttp.ClientTimeout) -> Connection:
        """Return a connection, kept or new, with nothing left over on it."""
        for _ in range(_MOST_SPOILT):
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                _kept.set(protocol in self._known)
                self._known.add(protocol)
                return connection
            connection.close()
        raise aiohttp.ServerDisconnectedError("the upstream speaks before it is asked")
