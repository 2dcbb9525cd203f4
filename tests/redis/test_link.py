"""The way to Redis, when what comes back makes no sense."""

import asyncio
import contextlib
import logging
import signal
import subprocess
from collections.abc import AsyncIterator

import pytest

from one_api.breaker import OPEN_S, Breaker
from one_api.redis.link import RedisLink, RedisUnavailable
from tests.limits.conftest import OwnRedis, odd_redis, own_redis
from tests.support import freeze
from tests.support.clock import Clock
from tests.support.loop_time import LoopTime

__all__ = ["own_redis"]

NONSENSE = [
    b":abc\r\n", b"$x\r\n", b"*y\r\n", b"HTTP/1.1 400 Bad\r\n\r\n", b"\x15\x03\x01\r\n", b"%x\r\n",
    b"-\xff\xfe\r\n",
]  # fmt: skip


@pytest.mark.parametrize("says", NONSENSE)
async def test_nonsense_is_an_illness_and_nobody_waits_for_ever(says: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with odd_redis() as server, asyncio.timeout(10):
        clock = Clock()
        link = RedisLink(
            server.url, logging.getLogger("test"), 1.0, without="without", forgiving=False, breaker=Breaker(clock)
        )
        assert await link.ask("GET", "x") == b"OK"
        server.says = says
        asked = [asyncio.create_task(link.ask("GET", "x")) for _ in range(3)]
        for each in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(each, RedisUnavailable)
        for _ in range(2):
            with pytest.raises(RedisUnavailable):
                await link.ask("GET", "x")
        assert link.is_down
        assert f"Redis {'refuses to' if says.startswith(b'-') else 'does not'} answer" in caplog.text

        server.says = None
        clock.now += OPEN_S
        assert await link.ask("GET", "x") == b"OK"
        assert not link.is_down
        await link.aclose()


CALL_S = 1.0


@pytest.fixture
def clock() -> Clock:
    """The clock of the link's breaker."""
    return Clock()


@pytest.fixture
async def frozen(own_redis: OwnRedis, clock: Clock) -> AsyncIterator[tuple[RedisLink, "subprocess.Popen[bytes]"]]:
    """Return a link to a Redis that answered once, and is frozen since."""
    url, process = own_redis
    link = RedisLink(url, logging.getLogger("test"), CALL_S, without="without", forgiving=False, breaker=Breaker(clock))
    assert await link.ask("INCR", "x") == 1
    freeze(process.pid)
    yield link, process
    process.send_signal(signal.SIGCONT)
    await link.aclose()


async def unanswered(link: RedisLink) -> RedisUnavailable:
    with pytest.raises(RedisUnavailable) as caught:
        await link.ask("INCR", "x")
    return caught.value


async def test_after_a_failure_nobody_waits_for_long(frozen: tuple[RedisLink, "subprocess.Popen[bytes]"]) -> None:
    link, _ = frozen
    await unanswered(link)
    async with LoopTime() as clock:
        for _ in range(20):
            await unanswered(link)
        assert link.is_down
        assert clock.now_s < 1.5 * CALL_S


async def test_whoever_is_behind_a_trip_that_fails_waits_little_longer(
    frozen: tuple[RedisLink, "subprocess.Popen[bytes]"], clock: Clock
) -> None:
    link, process = frozen
    async with LoopTime() as took:
        found = await asyncio.gather(*(unanswered(link) for _ in range(200)))
        assert took.now_s < 2.5 * CALL_S
    process.send_signal(signal.SIGCONT)
    late = [each.late for each in found if each.late is not None]
    async with asyncio.timeout(10):
        assert sorted(await asyncio.gather(*late)) == list(range(2, 2 + len(late)))
        while link.is_down:
            await asyncio.sleep(0.01)
            clock.now += OPEN_S
            with contextlib.suppress(RedisUnavailable):
                await link.ask("PING")
    assert await link.ask("GET", "x") == str(1 + len(late)).encode()


async def test_what_comes_late_is_handed_on(frozen: tuple[RedisLink, "subprocess.Popen[bytes]"]) -> None:
    link, process = frozen
    first = await unanswered(link)
    second = await unanswered(link)
    process.send_signal(signal.SIGCONT)
    assert first.late is not None
    assert second.late is not None
    async with asyncio.timeout(10):
        assert {await first.late, await second.late} == {2, 3}
