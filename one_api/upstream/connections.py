"""Connections that are kept between two requests, and what can become of them meanwhile.

aiohttp hands out any kept connection that is open. Two things may have happened to it: the upstream has just closed
it, so that the next request goes nowhere; or it has sent more than the answer it owed, which would be taken for the
answer to the next request, and that may be another client's.
"""

import asyncio
import socket
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from one_api.settings.kinds import Proxy
from one_api.upstream.resolver import BoundedResolver, Unresolved

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

#: How many answers "go on" (100 to 199) may come before the one that counts.
_MAX_INTERIM = 10
#: How much is parsed at once while no answer has begun, in bytes: the parser makes whole messages of all that it gets.
_HEAD_BYTES = 4 * 1024
#: How many connections one request may be given, should each have bytes on it that nobody asked for.
_MAX_SPOILT = 10

_kept: ContextVar[bool] = ContextVar("kept", default=False)


def on_kept_connection() -> bool:
    """Say whether the last request of this context went out on a connection that had served another before."""
    return _kept.get()


class TooManyInterim(aiohttp.ClientError):
    """The upstream says "go on" without end."""


class BoundedHandler(ResponseHandler):
    """aiohttp's side of one connection, which ends it when interim answers (``100 Continue``) come without end."""

    _interim = 0

    def data_received(self, data: bytes) -> None:
        """Parse what has come: in small pieces as long as it may be nothing but heads."""
        start = 0
        while len(data) - start > _HEAD_BYTES and (self._payload is None or self._payload.is_eof()):
            super().data_received(data[start : start + _HEAD_BYTES])
            start += _HEAD_BYTES
            if self._exception is not None or self.transport is None:
                return
        super().data_received(data[start:] if start else data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of an answer, unless it is one interim answer too many."""
        if isinstance(self._exception, TooManyInterim):
            return
        code = data[0].code
        self._interim = self._interim + 1 if 100 <= code < 200 and code != 101 else 0
        if self._interim <= _MAX_INTERIM:
            super().feed_data(data, size)
        else:
            self.set_exception(TooManyInterim(f"more than {_MAX_INTERIM} interim answers"))
            if self.transport is not None:
                self.transport.abort()


class KeepingConnector(aiohttp.TCPConnector):
    """aiohttp's connector, which closes a kept connection on which bytes have come that no request asked for."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        # How many requests may be in flight is decided where deployments are chosen, not here (limit=0).
        super().__init__(limit=0, keepalive_timeout=30, ttl_dns_cache=30, resolver=resolver or BoundedResolver())
        self._factory = cast("partial[ResponseHandler]", partial(BoundedHandler, loop=self._loop))
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(self, req: "ClientRequest", traces: "list[Trace]", timeout: aiohttp.ClientTimeout) -> Connection:
        """Return a connection, kept or new, with nothing left over on it."""
        for _ in range(_MAX_SPOILT):
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                _kept.set(protocol in self._known)
                self._known.add(protocol)
                return connection
            connection.close()
        raise aiohttp.ServerDisconnectedError("the upstream speaks before it is asked")


class SocksConnector(KeepingConnector):
    """One whose connections go through a SOCKS5 proxy, which looks the upstreams' names up as well."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(Unresolved())
        parts = urlsplit(proxy)
        self._address = (parts.hostname or "", parts.port or 1080)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: "ClientRequest",
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        try:
            host, port = addr_infos[0][4][:2]
            tunnel = await self._tunnel(host, port, timeout.sock_connect)
        except ProxyTimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("the proxy did not connect in time") from error
        except (ProxyConnectionError, ProxyError) as error:
            refused = OSError(f"the proxy refused: {error}")
            raise aiohttp.ClientProxyConnectionError(req.connection_key, refused) from error
        return await self._wrap_existing_connection(*args, req=req, timeout=timeout, sock=tunnel, **kwargs)

    async def _tunnel(self, host: str, port: int, timeout_s: float | None) -> socket.socket:
        proxy = SocksProxy(ProxyType.SOCKS5, *self._address, self._user, self._password, rdns=True)
        return await proxy.connect(host, port, timeout=timeout_s)


def connector_for(proxy: Proxy | None) -> KeepingConnector:
    """Return a connector; aiohttp itself speaks to an HTTP proxy."""
    return SocksConnector(proxy) if proxy is not None and proxy.startswith("socks5") else KeepingConnector()
