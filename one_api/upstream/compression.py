"""Compressed answers: those that cannot be decoded are named, and those that stop before their end are noticed.

aiohttp notes that of deflate only, and takes such gzip for whole.
"""

import re
import zlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from aiohttp.compression_utils import ZLibBackendProtocol
from aiohttp.http_exceptions import ContentEncodingError

#: What upstreams are asked for: what is always decoded here.
ACCEPTED = "gzip, deflate"
#: Codings in the header of an answer; what else stands there (a charset, say) is no coding, and says nothing.
_CODINGS = frozenset(
    ("br", "zstd", "gzip", "x-gzip", "deflate", "compress", "x-compress", "dcb", "dcz", "lz4", "snappy", "xz", "bzip2")
)
#: Those that aiohttp decodes, with a library or without.
_OF_AIOHTTP = frozenset(("gzip", "deflate", "br", "zstd"))
#: What aiohttp says of those that it has no library for.
_LACKS_LIBRARY = re.compile(r"Can not decode content-encoding: .*\((\w+)\)")


def undecoded(headers: Mapping[str, str]) -> str | None:
    """Return the codings of an answer's body, where they are such as nobody here decodes."""
    if (given := headers.get("content-encoding")) is None:
        return None
    named = [each.strip().lower() for each in given.split(",")]
    codings = [each for each in named if each in _CODINGS]
    return ", ".join(codings) if len(codings) > 1 or not _OF_AIOHTTP.issuperset(codings) else None


def undecodable(error: BaseException | None) -> str | None:
    """Return the coding for want of which aiohttp could not read an answer; None when that was not the reason."""
    while error is not None:
        if isinstance(error, ContentEncodingError) and (found := _LACKS_LIBRARY.search(str(error))):
            return found[1]
        error = error.__cause__
    return None


class _Inflater:
    """A decompressor that raises at the end of what it was given, if that is not the end of the data."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self._begun = False

    def decompress(self, data: Any, max_length: int = 0) -> bytes:
        """See ``zlib``."""
        self._begun = self._begun or bool(data)
        return self._inner.decompress(data, max_length)

    def flush(self, length: int = zlib.DEF_BUF_SIZE) -> bytes:
        """See ``zlib``; aiohttp calls it once, when all has come."""
        if self._begun and not self._inner.eof:
            raise ContentEncodingError("the compressed data stops before its end")
        return self._inner.flush(length)

    @property
    def eof(self) -> bool:
        """See ``zlib``."""
        return self._inner.eof

    @property
    def unconsumed_tail(self) -> bytes:
        """See ``zlib``."""
        return self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """See ``zlib``."""
        return self._inner.unused_data


def refuse_cut_answers() -> None:
    """Have aiohttp decompress with what knows the end, in the whole process; it may be called again."""
    backend = SimpleNamespace(**{**vars(zlib), "decompressobj": _Inflater})
    aiohttp.set_zlib_backend(cast("ZLibBackendProtocol", backend))
