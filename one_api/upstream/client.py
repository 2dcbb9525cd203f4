"""The one door to upstreams: an HTTP session, deadlines by phase, caps, and a name for all that goes wrong."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import aiohttp

from one_api.contract import ChunkStream
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.errors import (
    UpstreamBroken,
)
from one_api.observability.records import current_call
from one_api.settings.adapters import Timeouts
from one_api.settings.kinds import Proxy, Secret
from one_api.settings.proxies import proxy_for
from one_api.upstream.connections import connector_for, on_kept_connection
from one_api.upstream.errors import OPENAI_REPORTS, Reports
from one_api.upstream.exceptions import named_errors
from one_api.upstream.stream import Translator, UpstreamStream

#: The largest answer that is not streamed, in bytes.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: The largest error body that is read, in bytes.
_MAX_ERROR_BYTES = 64 * 1024
#: First event of a stream when nobody set a limit, in seconds.
_FIRST_EVENT_S = 120.0
#: How often a request is sent, when each time the upstream has closed the kept connection that it went out on.
_KEPT_TRIES = 3
#: Statuses of success that never come with an answer.
_WITHOUT_BODY = frozenset({204, 205})


class Upstream:
    """One server behind one base URL, with one session for the life of the process."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, Secret],
        timeouts: Timeouts,
        *,
        unix_socket: str | None = None,
        reports: Reports = OPENAI_REPORTS,
        proxy: Proxy | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = headers
        self._timeouts = timeouts
        self._unix_socket = unix_socket
        self._proxy = proxy_for(base_url, proxy)
        self._reports = reports
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session; made on first use, so that it belongs to the loop that uses it."""
        if self._session is None:
            connector = (
                # A new connection costs nothing here, and the engine closes those that are kept.
                aiohttp.UnixConnector(self._unix_socket, limit=0, force_close=True)
                if self._unix_socket
                else connector_for(self._proxy)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"accept-encoding": "gzip, deflate", "user-agent": "one_api"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s),
                trust_env=False,
                proxy=self._proxy if self._proxy and self._proxy.startswith("http:") else None,
                read_bufsize=2**13,
            )
        return self._session

    async def get_json(self, path: str, timeout_s: float) -> Any:
        """Return the JSON value that a GET answers with; raises UpstreamError."""
        with named_errors("the answer", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("GET", path, None)
                async with response:
                    return _value(await self._whole(response))

    async def post(self, path: str, body: JSONObject) -> bytes:
        """Return the whole body that a POST of ``body`` answers with, whatever its label; raises UpstreamError."""
        timeout_s = self._timeouts.total_s
        with named_errors("the answer", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("POST", path, body)
                async with response:
                    return await self._whole(response)

    async def post_stream(self, path: str, body: JSONObject, translator: Translator) -> ChunkStream:
        """POST ``body`` and return its stream, once its first event has arrived; raises UpstreamError.

        What the answer is, is read from its bytes: labels are wrong too often.
        """
        timeout_s = self._timeouts.first_event_s or _FIRST_EVENT_S
        deadline = asyncio.get_running_loop().time() + self._timeouts.stream_total_s
        with named_errors("the first event", timeout_s):
            async with asyncio.timeout(timeout_s):
                response = await self._request("POST", path, body)
                stream = UpstreamStream(response, translator, self._timeouts.idle_s, deadline, self._reports)
                try:
                    await stream.wait_for_first()
                except BaseException:
                    await stream.aclose()
                    raise
        return stream

    async def _request(self, method: str, path: str, body: JSONObject | None) -> aiohttp.ClientResponse:
        """Send a request and return its response, open, if its status is one of success."""
        headers = {name: value.reveal() for name, value in self._headers.items()}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.encode(body)
        response = await self._send(method, self._base_url + path, data, headers)
        record = current_call.get() if body is not None else None
        if record is not None:
            record.upstream_headers = self._reports.seen_headers(response.headers)
        if 200 <= response.status < 300 and response.status not in _WITHOUT_BODY:
            return response
        async with response:
            text = b""
            with suppress(aiohttp.ClientError, UpstreamBroken):
                text = await self._whole(response, _MAX_ERROR_BYTES)
            raise self._reports.error_of(response.status, text, response.headers)

    async def _send(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Send a request and return its response, once that has begun.

        A kept connection that the upstream has closed meanwhile is no failure: the request is sent again on another.
        """
        session = self._open_session()
        for left in reversed(range(_KEPT_TRIES)):
            try:
                return await session.request(method, url, data=data, headers=headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not left or isinstance(error, aiohttp.ClientConnectorError) or not on_kept_connection():
                    raise
        raise AssertionError("unreachable")

    async def _whole(self, response: aiohttp.ClientResponse, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Return the whole body, which may hold ``limit`` bytes after decompression."""
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamBroken(f"The upstream's answer is larger than {limit} bytes.")
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _value(data: bytes) -> Any:
    """Return the JSON value in an answer."""
    try:
        return json.decode(data)
    except json.InvalidJSON as error:
        raise UpstreamBroken(f"The upstream's answer is not JSON: {error}.") from None


def _object(data: bytes) -> JSONObject:
    """Return the object in an answer that is not streamed."""
    try:
        return json.decode_object(data)
    except json.InvalidJSON as error:
        raise UpstreamBroken(f"The upstream's answer is not a JSON object: {error}.") from None
