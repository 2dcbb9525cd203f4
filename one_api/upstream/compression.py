"""Compressed answers that stop before their end: aiohttp notes it of deflate only, and takes such gzip for whole."""

import zlib
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from aiohttp.compression_utils import ZLibBackendProtocol
from aiohttp.http_exceptions import ContentEncodingError


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
