"""The one door to upstreams: an HTTP session, deadlines by phase, caps, and a name for all that goes wrong."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import aiohttp

from one_api.bounded import once_a_minute
from one_api.contract import ByteStream, ChunkStream
from one_api.dialects import json
from one_api.dialects.characters import all_whole
from one_api.dialects.frames import Translator
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.passthrough import Body, JSONBody, PassthroughRequest
from one_api.errors import UpstreamBroken
from one_api.records import AttemptContext
from one_api.serving.fairness import in_turns, scheduler
from one_api.serving.timeouts import Deadline
from one_api.settings.adapters import Timeouts
from one_api.settings.kinds import Proxy, Secret
from one_api.settings.proxies import proxy_for
from one_api.upstream.compression import ACCEPTED, body_of, undecoded
from one_api.upstream.connections import KeepingConnector, has_been_answered, on_kept_connection
from one_api.upstream.errors import OPENAI_REPORTS, Reports
from one_api.upstream.exceptions import NamedErrors
from one_api.upstream.passthrough import UpstreamBytes
from one_api.upstream.stream import UpstreamStream
from one_api.upstream.whole import Watch, WholeBody

logger = logging.getLogger(__name__)

_ODD_CODING = "adapter %s: its upstream encodes answers with %s, which is not asked for"
#: The largest answer that is not streamed, in bytes.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: An answer that is larger takes long to decode; and one that is larger takes long to try, in bytes.
_LARGE_ANSWER_BYTES, _HUGE_ANSWER_BYTES = 64 * 1024, 1024 * 1024
#: What may stand before JSON.
_BLANK = b" \t\r\n\xef\xbb\xbf"
#: The largest error body that is read, in bytes.
_MAX_ERROR_BYTES = 64 * 1024
#: How long the first event of a stream may take where no limit is set, in seconds.
_FIRST_EVENT_S = 120.0
#: How often a request is sent, when each time the upstream has closed the kept connection that it went out on.
_KEPT_TRIES = 3
#: A body from this size on is sent in pieces of that size, and the loop goes on between them, in bytes.
_LARGE_BODY_BYTES, _PIECE_BYTES = 1024 * 1024, 256 * 1024
#: Statuses of success that never come with an answer.
_WITHOUT_BODY = frozenset({204, 205})


#: The body of a request: bytes, or what yields them each time that it is sent.
Data: TypeAlias = "bytes | Body | _Pieces | None"


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
        propagate_trace: bool = False,
    ) -> None:
        self._propagate_trace = propagate_trace
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
                else _connector_for(self._proxy)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"accept-encoding": ACCEPTED, "user-agent": "one_api"}
                | {name: value.reveal() for name, value in self._headers.items()},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s),
                trust_env=False,
                auto_decompress=False,
                proxy=self._proxy if self._proxy and self._proxy.startswith("http:") else None,
                read_bufsize=2**13,
            )
        return self._session

    async def get_json(self, path: str, timeout_s: float) -> Any:
        """Return the JSON value that a GET answers with; raises UpstreamError."""
        with NamedErrors("the answer", timeout_s):
            async with asyncio.timeout(timeout_s):
                return _value(await self._whole(await self._request("GET", path)))

    async def post(
        self,
        path: str,
        context: AttemptContext,
        body: JSONObject | bytes,
        headers: Mapping[str, str] | None = None,
        *,
        max_bytes: int = MAX_ANSWER_BYTES,
        watch: Watch | None = None,
    ) -> bytes:
        """Return the whole body that a POST of ``body`` answers with, whatever its label; raises UpstreamError.

        Bytes are sent as they are; ``headers`` go beside those of every request, or in their place. ``watch`` makes
        what reads the events of an answer that comes as such: its end is not waited for once it is complete.
        """
        timeout_s = self._timeouts.total_s
        with NamedErrors("the answer", timeout_s), Deadline(timeout_s):
            response = await self._request("POST", path, body, context, headers)
            return await self._whole(response, max_bytes, watch)

    async def forward(self, request: PassthroughRequest, context: AttemptContext) -> ByteStream:
        """POST a request in its own bytes and return the answer, once its first bytes are there; raises UpstreamError.

        The caller closes it.
        """
        door = request.door
        timeout_s = self._timeouts.first_event_s or door.first_byte_s
        deadline = asyncio.get_running_loop().time() + self._timeouts.stream_total_s
        if isinstance(request.body, JSONBody):
            await in_turns(request.body.encode())
        headers = {"content-type": request.body.content_type, "content-length": str(request.body.size)}
        with NamedErrors("the first bytes", timeout_s), Deadline(timeout_s):
            response = await self._exchange("POST", door.path, request.body, headers, context)
            stream = UpstreamBytes(response, request, self._timeouts.idle_s, deadline, self._reports)
            try:
                await stream.begin()
            except BaseException:
                await stream.aclose()
                raise
        return stream

    async def post_stream(
        self,
        path: str,
        context: AttemptContext,
        body: JSONObject | bytes,
        translator: Translator,
        headers: Mapping[str, str] | None = None,
        kind: type[UpstreamStream] = UpstreamStream,
    ) -> ChunkStream:
        """POST ``body`` and return its stream, once its first event has arrived; raises UpstreamError.

        What the answer is, is read from its bytes: labels are wrong too often.
        """
        timeout_s = self._timeouts.first_event_s or _FIRST_EVENT_S
        deadline = asyncio.get_running_loop().time() + self._timeouts.stream_total_s
        with NamedErrors("the first event", timeout_s), Deadline(timeout_s):
            response = await self._request("POST", path, body, context, headers)
            reports = self._reports.for_attempt(context)
            stream = kind(response, translator, self._timeouts.idle_s, deadline, reports)
            try:
                await stream.wait_for_first()
            except BaseException:
                await stream.aclose()
                raise
        return stream

    async def _request(
        self,
        method: str,
        path: str,
        body: JSONObject | bytes | None = None,
        context: AttemptContext | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send an object, or nothing; see ``_exchange``."""
        headers = dict(more_headers or {})
        if body is None:
            return await self._exchange(method, path, None, headers, context)
        headers["content-type"] = "application/json"
        if isinstance(body, bytes):
            pieces = [body]
        elif context is not None and context.is_short:
            pieces = [json.encode(body)]
        else:
            pieces = await in_turns(json.encode_large(body))
        if len(pieces) == 1 and len(pieces[0]) <= _LARGE_BODY_BYTES:
            return await self._exchange(method, path, pieces[0], headers, context)
        headers["content-length"] = str(sum(map(len, pieces)))
        return await self._exchange(method, path, _Pieces(pieces), headers, context)

    async def _exchange(
        self, method: str, path: str, data: Data, headers: dict[str, str], context: AttemptContext | None
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response, open, if its status is one of success."""
        if self._propagate_trace and context is not None and context.trace_headers is not None:
            headers |= context.trace_headers
        response = await self._send(method, self._base_url + path, data, headers)
        if context is not None:
            context.headers = self._reports.seen_headers(response.headers)
            context.status, context.upstream_request_id = response.status, self._reports.id_in(response.headers)
        unread = self._why_unread(response)
        if 200 <= response.status < 300 and response.status not in _WITHOUT_BODY:
            if unread:
                response.close()
                raise UpstreamBroken(unread)
            return response
        text = b""
        if unread:
            response.close()
        else:
            with suppress(aiohttp.ClientError, UpstreamBroken):
                text = await self._whole(response, _MAX_ERROR_BYTES)
        raise self._reports.for_attempt(context).error_of(response.status, text, response.headers, unread)

    async def _send(self, method: str, url: str, data: Data, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Send a request and return its response, once that has begun.

        A kept connection that the upstream has closed meanwhile is no failure: the request is sent again on another.
        Nor is one that it closes with 408, which says that it waited for a request (RFC 9110, 15.5.9).
        """
        session = self._open_session()
        for left in reversed(range(_KEPT_TRIES)):
            try:
                response = await session.request(method, url, data=data, headers=headers, allow_redirects=False)
                if not left or response.status != 408 or not on_kept_connection():
                    return response
                response.close()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                is_refused = isinstance(error, aiohttp.ClientConnectorError)
                if not left or is_refused or not on_kept_connection() or has_been_answered():
                    raise
            if isinstance(session.connector, KeepingConnector):
                session.connector.distrust_kept()
        raise AssertionError("unreachable")

    def _why_unread(self, response: aiohttp.ClientResponse) -> str:
        """Return why an answer cannot be read that is in a coding which was not asked for, and tell the operator."""
        if (coding := undecoded(response.headers)) is None:
            return ""
        once_a_minute(logger.warning, _ODD_CODING, self._reports.name, coding)
        return (
            f"The upstream's answer is encoded with `{coding}`, which it was not asked for and which cannot be read "
            f"here: have it, or the proxy before it, heed `Accept-Encoding: {ACCEPTED}`."
        )

    async def _whole(
        self, response: aiohttp.ClientResponse, limit: int = MAX_ANSWER_BYTES, watch: Watch | None = None
    ) -> bytes:
        """Return the whole body, which may hold ``limit`` bytes after decompression; else the response is closed.

        One that was read to its end has let go of its connection by itself.
        """
        whole, size, body = io.BytesIO(), 0, WholeBody(body_of(response, is_text=True), watch)
        try:
            while piece := await body.read():
                size += whole.write(piece)
                if size > limit:
                    raise UpstreamBroken(f"The upstream's answer is larger than {limit} bytes.")
        except BaseException:
            response.close()
            raise
        if body.is_left:
            response.close()
        if size > _LARGE_ANSWER_BYTES:
            await scheduler().wait_turn()  # what is done with it next takes long: not for several in one pass
        return whole.getvalue()

    async def aclose(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def decode_large(answer: bytes, *, as_written: bool = False) -> Any:
    """Return the value of a large answer in JSON, decoded in turns with others; None if it is small, or no JSON.

    What is not JSON by the letter is repaired. Raises UpstreamBroken when that cannot be done to one that it would take
    long to look at otherwise.
    """
    if len(answer) <= _LARGE_ANSWER_BYTES or answer[:_LARGE_ANSWER_BYTES].lstrip(_BLANK)[:1] not in (b"{", b"[", b""):
        return None
    try:
        return await in_turns(json.decode_large_value(answer, as_written=as_written))
    except json.InvalidJSON as error:
        refused = str(error)
    try:
        return await in_turns(json.decode_large_value(answer, generously=True))
    except json.InvalidJSON:
        if len(answer) <= _HUGE_ANSWER_BYTES:
            return None
        raise UpstreamBroken(f"The upstream's answer is not JSON: {refused}.") from None


def _connector_for(proxy: Proxy | None) -> KeepingConnector:
    """Return a connector; aiohttp itself speaks to an HTTP proxy."""
    if proxy is None or not proxy.startswith("socks5"):
        return KeepingConnector()
    # Only here, so that a gateway without a SOCKS proxy does not import its client, which takes a tenth of a start.
    from one_api.upstream.socks import SocksConnector

    return SocksConnector(proxy)


def _value(data: bytes) -> Any:
    """Return the JSON value in an answer; of one object a line their list."""
    try:
        return json.decode(data)
    except json.TooMuchJSON as error:
        raise UpstreamBroken(f"The upstream's answer cannot be read: {error}.") from None
    except json.InvalidJSON as error:
        refused = error
    with suppress(json.InvalidJSON):
        if len(several := json.split(data)) > 1:
            return [all_whole(json.decode_generously(each)) for each in several]
        return all_whole(json.decode_generously(data))
    raise UpstreamBroken(f"The upstream's answer is not JSON: {refused}.")


class _Pieces:
    """A large body, which is sent piece by piece, each time from its beginning."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        for piece in self._pieces:
            for start in range(0, len(piece), _PIECE_BYTES):
                yield memoryview(piece)[start : start + _PIECE_BYTES]
