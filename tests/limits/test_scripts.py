"""The scripts inside Redis keep the same window as ``window.Window``, and read little of it."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from one_api.limits import scripts
from one_api.limits.redis import RedisStore
from one_api.limits.window import Limits, Window
from one_api.redis.script import Script

from .conftest import OwnRedis


class ScriptClock:
    """Runs the scripts at a time of the test's choice."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.now = 1_700_000_000.25

    def run(self, script: Script, *arguments: Any) -> Any:
        """Run one on the window ``w`` and the leases ``l``."""
        at = f"{{'{int(self.now)}', '{int(self.now % 1 * 1_000_000)}'}}"
        return self.client.eval(script.text.replace("redis.call('TIME')", at), 2, "w", "l", 1, *arguments)

    def take(self, limits: Limits, tokens: int) -> tuple[str | None, int, int, int]:
        """Return the refusal, the wait, and what is used, as whole numbers."""
        refused, wait, used, _, used_tokens, *_ = self.run(
            scripts.TAKE, limits.requests_per_minute, limits.tokens_per_minute, -1, 1, tokens, 1, 0
        )
        return refused.decode() or None, round(float(wait)), used, used_tokens


@pytest.fixture
def clock(own_redis: OwnRedis) -> Iterator[ScriptClock]:
    with redis.Redis.from_url(own_redis[0]) as client:
        yield ScriptClock(client)


@pytest.mark.parametrize("longest_gap_s", [0.1, 2, 30, 100])
def test_a_long_history_in_redis_is_that_of_the_window(clock: ScriptClock, longest_gap_s: float) -> None:
    chance, window, limits, settled = random.Random(longest_gap_s), Window(), Limits(12, tokens_per_minute=300), 0
    for _ in range(400):
        clock.now += chance.random() * longest_gap_s
        tokens = chance.randrange(60)
        expected = window.take(limits, clock.now, tokens, 1)
        got = clock.take(limits, tokens)
        assert got[:2] == (expected.refused_by, round(expected.retry_after_s))
        assert (12 - got[2], max(0, 300 - got[3])) == (expected.remaining_requests, expected.remaining_tokens)
        if expected.refused_by is None and chance.random() < 0.7:
            counted, actual = clock.now, chance.randrange(80)
            clock.now += chance.random() * longest_gap_s
            window.settle(clock.now, counted, tokens, actual)
            clock.run(scripts.SETTLE, 1, int(counted), actual - tokens)
            settled += 1
    assert settled > 5


def test_a_clock_that_is_set_back_neither_fails_nor_locks_a_key_for_long(clock: ScriptClock) -> None:
    limits = Limits(2, tokens_per_minute=100)
    assert [clock.take(limits, 1)[0] for _ in range(3)] == [None, None, "requests"]
    clock.now -= 5
    assert clock.take(limits, 1)[0] == "requests"
    clock.now -= 3600
    assert [clock.take(limits, 1)[0] for _ in range(3)] == [None, None, "requests"]


def test_what_is_merged_counts_in_its_own_second(clock: ScriptClock) -> None:
    limits = Limits(5, tokens_per_minute=100)
    clock.run(scripts.MERGE, 0, 1, 10, 20, 2, 30, 60, 1, 1, 61, 9, 900)
    assert clock.take(limits, 0)[2:] == (5, 41)
    clock.now += 1
    assert clock.take(limits, 0)[2:] == (5, 40)
    clock.now += 41
    assert clock.take(limits, 0)[2:] == (4, 10)


async def test_a_busy_key_costs_redis_one_field_per_request_however_full_its_minute_is(own_redis: OwnRedis) -> None:
    store, limits = RedisStore(own_redis[0], 1, 5), Limits(10_000, tokens_per_minute=100_000)
    with redis.Redis.from_url(own_redis[0]) as client:
        for lease in range(300):
            await store.settle((await store.take("k", limits, 10, lease))[1], 5)
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    await store.aclose()

    # Only the passing of a second reads and removes others; a busy machine may take some of them.
    assert "cmdstat_hgetall" not in calls
    assert calls.get("cmdstat_hmget", 0) <= 30
    assert calls["cmdstat_hget"] == 600


def test_a_key_that_goes_on_after_a_burst_costs_redis_no_look_at_its_minute(clock: ScriptClock) -> None:
    limits = Limits(5, tokens_per_minute=100)
    assert [clock.take(limits, 10)[0] for _ in range(5)] == [None] * 5
    clock.now += 2
    clock.client.config_resetstat()
    assert {clock.take(limits, 10)[:2] for _ in range(50)} == {("requests", 59)}
    calls = {name: stats["calls"] for name, stats in clock.client.info("commandstats").items()}
    assert calls.get("cmdstat_hmget", 0) <= 1
