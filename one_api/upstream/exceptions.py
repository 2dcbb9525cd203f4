"""What aiohttp and the clock raise, as our errors."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import aiohttp

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


def truncated() -> UpstreamBroken:
    """Return the error for a stream whose bytes stopped before its end."""
    return UpstreamTruncated("The upstream's stream stopped before the answer was complete.")


# What went wrong: foreign exceptions and statuses, each named once


@lru_cache(maxsize=1)
def _log_exhausted(minute: int) -> None:
    """Log it once in each minute."""
    logger.error("no file descriptor is left for connections to upstreams: raise the limit (ulimit -n)")


@contextmanager
def named_errors(awaited: str, timeout_s: float) -> Iterator[None]:
    """Turn what aiohttp and the clock raise into our classes."""
    try:
        yield
    except UpstreamError:
        raise
    except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError) as error:
        raise UpstreamUnreachable("The upstream could not be reached in time.") from error
    except TimeoutError as error:
        raise UpstreamTimeout(f"The upstream did not send {awaited} within {timeout_s:g} s.") from error
    except aiohttp.ClientSSLError as error:
        raise UpstreamUnreachable(
            "The upstream's certificate is not valid, or it does not speak TLS.", code="upstream_tls"
        ) from error
    except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
        raise UpstreamUnreachable("The upstream could not be reached through the proxy.") from error
    except aiohttp.ClientConnectorError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _log_exhausted(int(time.monotonic() // 60))
            raise OutOfDescriptors("The gateway has too many open connections: try again.", retry_after_s=1) from error
        raise UpstreamUnreachable("The upstream could not be reached.") from error
    except (aiohttp.ServerDisconnectedError, ConnectionError, aiohttp.ClientOSError) as error:
        raise UpstreamFailed("The upstream closed the connection without an answer.") from error
    except aiohttp.ClientPayloadError as error:
        raise truncated() from error
    except (aiohttp.ClientError, ValueError) as error:
        raise UpstreamBroken("The upstream's answer cannot be read.") from error
