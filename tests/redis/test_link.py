"""The way to Redis, when what comes back makes no sense."""

import asyncio
import logging

import pytest

from one_api.redis.link import RedisLink, RedisUnavailable
from tests.limits.conftest import odd_redis

NONSENSE = [
    b":abc\r\n", b"$x\r\n", b"*y\r\n", b"HTTP/1.1 400 Bad\r\n\r\n", b"\x15\x03\x01\r\n", b"%x\r\n",
    b"-\xff\xfe\r\n",
]  # fmt: skip


@pytest.mark.parametrize("says", NONSENSE)
async def test_nonsense_is_an_illness_and_nobody_waits_for_ever(says: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with odd_redis() as server, asyncio.timeout(10):
        link = RedisLink(server.url, logging.getLogger("test"), 1.0, without="without", forgiving=False)
        assert await link.ask("GET", "x") == b"OK"
        server.says = says
        asked = [asyncio.create_task(link.ask("GET", "x")) for _ in range(3)]
        for each in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(each, RedisUnavailable)
        for _ in range(2):
            with pytest.raises(RedisUnavailable):
                await link.ask("GET", "x")
        assert link.is_down
        assert "Redis does not answer" in caplog.text

        server.says = None
        link._breaker._open_until = 0.0  # it is probed now, not in five seconds
        assert await link.ask("GET", "x") == b"OK"
        assert not link.is_down
        await link.aclose()
