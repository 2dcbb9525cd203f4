"""Bodies that a client compressed."""

import asyncio
import zlib

from one_api.errors import RequestTooLarge, UnsupportedMediaType

_GZIP = 16 + zlib.MAX_WBITS


def encodings_of(header: str) -> list[str]:
    """Return what ``Content-Encoding`` names, in lower case and in its order, but for "identity"."""
    return [name for each in header.split(",") if (name := each.strip().lower()) not in ("", "identity")]


async def decompress(data: bytes, encodings: list[str], max_bytes: int) -> bytes:
    """Return a body without its encodings, of which gzip is known, once; the work is done in a thread.

    Raises:
        UnsupportedMediaType: for any other encoding, and for a body that is not encoded so.
        RequestTooLarge: when more than ``max_bytes`` come out.
    """
    if encodings not in (["gzip"], ["x-gzip"]):
        raise UnsupportedMediaType(
            f"Send the body as it is, or with gzip: Content-Encoding `{', '.join(encodings)}` is not known."
        )
    reader = zlib.decompressobj(_GZIP)
    try:
        body = await asyncio.to_thread(reader.decompress, data, max_bytes + 1)
    except zlib.error:
        raise _not_gzip() from None
    if len(body) > max_bytes:
        raise RequestTooLarge(f"The request's body has more than {max_bytes} bytes when it is decompressed: send less.")
    if not reader.eof or reader.unused_data:
        raise _not_gzip()
    return body


def _not_gzip() -> UnsupportedMediaType:
    return UnsupportedMediaType("The body is not the one gzip stream that its Content-Encoding names.")
