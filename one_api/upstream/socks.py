"""The way to upstreams through a SOCKS5 proxy."""

import asyncio
import socket
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from one_api.settings.kinds import Proxy
from one_api.upstream.connections import KeepingConnector
from one_api.upstream.resolver import Unresolved


class SocksConnector(KeepingConnector):
    """aiohttp's connector, whose connections go through a SOCKS5 proxy, which looks the upstreams' names up as well."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(Unresolved())
        parts = urlsplit(proxy)
        self._address = (parts.hostname or "", parts.port or 1080)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: ClientRequest,
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
