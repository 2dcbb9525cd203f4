"""Compressed answers: decoded as they are read, those that stop before their end noticed, and unknown codings named.

aiohttp decodes by itself, too, but then a head with a coding that it does not know is lost, and its status with it.
"""

import zlib
from collections.abc import Mapping
from typing import Protocol

import aiohttp

from one_api.serving.fairness import scheduler

#: What upstreams are asked for: what is always decoded here.
ACCEPTED = "gzip, deflate"
#: Codings in the header of an answer; what else stands there (a charset, say) is no coding, and says nothing.
_CODINGS = frozenset(
    ("br", "zstd", "gzip", "x-gzip", "deflate", "compress", "x-compress", "dcb", "dcz", "lz4", "snappy", "xz", "bzip2")
)
#: How zlib is told of those that are decoded.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
#: How much of a body is taken at once, before it is decoded, in bytes.
_PIECE_BYTES = 8 * 1024
#: The method of all zlib headers, in the lower half of the first byte; without it deflate has none.
_DEFLATE_METHOD = 8
#: What gzip, and a further member of it, begins with; no JSON and no event does.
_GZIP_MAGIC = b"\x1f"


class Body(Protocol):
    """The body of an answer, as it is read: decoded."""

    async def read(self, n: int, /) -> bytes:
        """Return what comes next, at most ``n`` bytes; none at the end."""

    def at_eof(self) -> bool:
        """Return whether all has come and was read."""


def undecoded(headers: Mapping[str, str]) -> str | None:
    """Return the codings of an answer's body, where they are such as nobody here decodes."""
    codings = _codings_in(headers)
    return ", ".join(codings) if len(codings) > 1 or not set(codings) <= _WINDOW_BITS.keys() else None


def body_of(response: aiohttp.ClientResponse, *, is_text: bool = False) -> Body:
    """Return the body of an answer whose codings are decoded here, see ``undecoded``.

    One that ``is_text`` is gzip where it begins so, also without a label, which proxies drop.
    """
    codings = _codings_in(response.headers)
    if is_text and not codings:
        return _MaybeInflated(response.content)
    return _Inflated(response.content, codings[0]) if codings else response.content


def begun(body: Body) -> Body:
    """Return what goes on with a body whose first bytes have been read: itself, or what they have shown it to be."""
    return body.inner or body if isinstance(body, _MaybeInflated) else body


def _codings_in(headers: Mapping[str, str]) -> list[str]:
    if not (given := headers.get("content-encoding")):
        return []
    named = (each.strip().lower() for each in given.split(","))
    return [each for each in named if each in _CODINGS]


class _MaybeInflated:
    """A body in gzip or in none, which its first byte shows."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        #: The body, once it has begun; from then on it is read directly.
        self.inner: Body | None = None

    async def read(self, n: int, /) -> bytes:
        """See ``Body``."""
        if self.inner is not None:
            return await self.inner.read(n)
        start = await self._content.read(n)
        if not start.startswith(_GZIP_MAGIC):
            self.inner = self._content
            return start
        self.inner = _Inflated(self._content, "gzip", start)
        return await self.inner.read(n)

    def at_eof(self) -> bool:
        """See ``Body``."""
        return (self.inner or self._content).at_eof()


class _Inflated:
    """A body in gzip or deflate; it raises at the end of what came, if that is not the end of the data."""

    def __init__(self, content: aiohttp.StreamReader, coding: str, start: bytes = b"") -> None:
        """``start`` has been read of ``content`` already."""
        self._content = content
        self._bits = _WINDOW_BITS[coding]
        #: Made with the first byte.
        self._inner: zlib._Decompress | None = None
        #: What has come and was not decoded.
        self._rest = start

    async def read(self, n: int, /) -> bytes:
        """See ``Body``."""
        while True:
            if scheduler().is_late():  # a few bytes may be many, and none of them need be waited for
                await scheduler().wait_turn()
            ended = not self._rest and not await self._receive()
            try:
                piece = self._decode(n)
            except zlib.error as error:
                raise aiohttp.ClientPayloadError("the compressed data cannot be read") from error
            if piece:
                return piece
            if ended:
                if self._inner is not None and not self._inner.eof:
                    raise aiohttp.ClientPayloadError("the compressed data stops before its end")
                return b""

    async def _receive(self) -> bytes:
        self._rest = await self._content.read(_PIECE_BYTES)
        return self._rest

    def _decode(self, n: int) -> bytes:
        """Decode at most ``n`` bytes; what is behind the data is passed over, unless it is more of it."""
        if self._inner is None:
            if not self._rest:
                return b""
            has_header = self._bits != zlib.MAX_WBITS or self._rest[0] & 0xF == _DEFLATE_METHOD
            self._inner = zlib.decompressobj(self._bits if has_header else -zlib.MAX_WBITS)
        elif self._inner.eof:
            if self._bits == zlib.MAX_WBITS or not self._rest.startswith(_GZIP_MAGIC):
                self._rest = b""
                return b""
            self._inner = zlib.decompressobj(self._bits)
        piece = self._inner.decompress(self._rest, n)
        self._rest = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
        return piece

    def at_eof(self) -> bool:
        """See ``Body``."""
        return not self._rest and self._content.at_eof()
