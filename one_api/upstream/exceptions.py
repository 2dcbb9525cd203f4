"""What aiohttp and the clock raise, as our errors."""

import logging
from types import TracebackType
from typing import NamedTuple

import aiohttp

from one_api.bounded import once_a_minute
from one_api.errors import (
    OutOfDescriptors,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)

logger = logging.getLogger(__name__)

_TRUNCATED = "The upstream's stream stopped before the answer was complete."
_EXHAUSTED = "no file descriptor is left for connections to upstreams: raise the limit (ulimit -n)"
#: What one of ours is made of.
_FOREIGN = (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError)


class _Row(NamedTuple):
    """Foreign classes, and what they mean; ``message`` may name what was ``awaited``, and how long."""

    raised: tuple[type[Exception], ...]
    error: type[UpstreamError]
    message: str
    code: str | None = None


#: The first row that fits counts.
_TABLE = (
    _Row((aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError), UpstreamUnreachable,
         "The upstream could not be reached in time."),
    _Row((TimeoutError,), UpstreamTimeout,
         "The upstream did not send {awaited} within {timeout_s:g} s."),
    _Row((aiohttp.ClientSSLError,), UpstreamUnreachable,
         "The upstream's certificate is not valid, or it does not speak TLS.", "upstream_tls"),
    _Row((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), UpstreamUnreachable,
         "The upstream could not be reached through the proxy."),
    _Row((aiohttp.ClientConnectorError,), UpstreamUnreachable,
         "The upstream could not be reached."),
    _Row((aiohttp.ServerDisconnectedError, ConnectionError, aiohttp.ClientOSError), UpstreamFailed,
         "The upstream closed the connection without an answer."),
    _Row((aiohttp.ClientPayloadError,), UpstreamTruncated, _TRUNCATED),
    _Row((aiohttp.ClientError, ValueError), UpstreamBroken,
         "The upstream's answer cannot be read."),
)  # fmt: skip


def truncated() -> UpstreamBroken:
    """Return the error for a stream whose bytes stopped before its end."""
    return UpstreamTruncated(_TRUNCATED)


def error_for(error: Exception, awaited: str, timeout_s: float) -> UpstreamError:
    """Return what an exception of aiohttp or of the clock means, where ``awaited`` was waited for so long."""
    exhausted = OutOfDescriptors.is_cause(error)
    through_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
    if exhausted and isinstance(error, aiohttp.ClientConnectorError) and not through_proxy:
        once_a_minute(logger.error, _EXHAUSTED)
        return OutOfDescriptors.default()
    row = next(row for row in _TABLE if isinstance(error, row.raised))
    return row.error(row.message.format(awaited=awaited, timeout_s=timeout_s), code=row.code)


class NamedErrors:
    """Turns what aiohttp and the clock raise inside ``with`` into our classes, see ``error_for``."""

    __slots__ = ("_awaited", "_timeout_s")

    def __init__(self, awaited: str, timeout_s: float) -> None:
        self._awaited, self._timeout_s = awaited, timeout_s

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, _FOREIGN):
            # aiohttp keeps it with the connection: without its frames, which hold all that was sent and read.
            raise error_for(error, self._awaited, self._timeout_s) from error.with_traceback(None)
