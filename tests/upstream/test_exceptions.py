"""What aiohttp raises is named, every class of it."""

import errno
import ssl
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from one_api.errors import (
    OutOfDescriptors,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from one_api.upstream.connections import TooManyInterim
from one_api.upstream.exceptions import NamedErrors, error_for

KEY = ConnectionKey("host", 443, True, True, None, None, None)


def family(of: type[Exception]) -> Iterator[type[Exception]]:
    """A class and all that derive from it."""
    yield of
    for each in of.__subclasses__():
        yield from family(each)


@pytest.mark.parametrize("kind", sorted({*family(aiohttp.ClientError), TooManyInterim}, key=str))
def test_every_class_of_aiohttp_has_a_name(kind: type[Exception]) -> None:
    error = kind.__new__(kind)

    assert isinstance(error_for(error, "the answer", 1), UpstreamError)


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (TimeoutError(), UpstreamTimeout),
        (aiohttp.ConnectionTimeoutError(), UpstreamUnreachable),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError()), UpstreamUnreachable),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "refused")), UpstreamUnreachable),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EMFILE, "too many")), OutOfDescriptors),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(errno.EMFILE, "too many")), UpstreamUnreachable),
        (aiohttp.ServerDisconnectedError(), UpstreamFailed),
        (ConnectionResetError(), UpstreamFailed),
        (aiohttp.ClientOSError(), UpstreamFailed),
        (aiohttp.ClientPayloadError(), UpstreamTruncated),
        (aiohttp.InvalidURL("x"), UpstreamBroken),
        (ValueError(), UpstreamBroken),
    ],
)
def test_what_each_means(raised: Exception, named: type[UpstreamError]) -> None:
    with pytest.raises(UpstreamError) as caught, NamedErrors("the answer", 2.5):
        raise raised

    assert type(caught.value) is named
    assert caught.value.__cause__ is raised


def test_a_timeout_says_what_did_not_come() -> None:
    assert error_for(TimeoutError(), "the next event", 2.5).message == (
        "The upstream did not send the next event within 2.5 s."
    )


def test_bugs_and_our_own_errors_pass() -> None:
    for error in (KeyError("x"), UpstreamBroken("x"), OSError(errno.EIO, "x")):
        with pytest.raises(type(error)) as caught, NamedErrors("the answer", 1):
            raise error
        assert caught.value is error
