"""The store in memory: its bound, its order, and its time."""

import asyncio
import random

from one_api.cache.stores import MemoryAnswers


async def test_however_many_random_keys_come_they_stay_within_the_bound() -> None:
    rng = random.Random(7)
    store = MemoryAnswers(max_bytes=1_000_000)
    values = [bytes(size) for size in range(0, 4000, 37)]
    for number in range(100_000):  # there is room for some hundreds
        await store.put(rng.randbytes(32), values[number % len(values)], 60)
        if not number % 1000:
            assert store.held_bytes <= 1_000_000
    kept = store.entries
    assert store.held_bytes <= 1_000_000
    assert store.held_bytes == sum(len(value) + 400 for _, value in kept.items())
    assert len(kept) > 100


async def test_the_one_used_least_recently_goes_first() -> None:
    store = MemoryAnswers(max_bytes=3 * 500)
    for key in (b"a", b"b", b"c"):
        await store.put(key, bytes(100), 60)
    assert await store.get(b"a") is not None
    await store.put(b"d", bytes(100), 60)
    assert [await store.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


async def test_an_answer_ends_with_its_time() -> None:
    now = [100.0]
    store = MemoryAnswers(1000, clock=lambda: now[0])
    await store.put(b"k", b"v", ttl_s=5)
    now[0] = 104.9
    assert await store.get(b"k") == b"v"
    now[0] = 105.0
    assert await store.get(b"k") is None
    assert store.held_bytes == 0


async def test_what_is_put_again_replaces_what_was_there() -> None:
    store = MemoryAnswers(2000)
    await store.put(b"k", bytes(900), 60)
    await store.put(b"k", b"new", 60)
    assert (await store.get(b"k"), store.held_bytes) == (b"new", 403)
    await store.delete(b"k")
    await store.delete(b"k")
    assert (await store.get(b"k"), store.held_bytes) == (None, 0)


async def test_what_is_larger_than_the_whole_store_is_not_kept() -> None:
    store = MemoryAnswers(1000)
    await store.put(b"small", b"v", 60)
    await store.put(b"large", bytes(1000), 60)
    assert await store.get(b"large") is None
    assert await store.get(b"small") == b"v"


async def test_an_expired_answer_is_removed_though_nobody_asks() -> None:
    store = MemoryAnswers(10_000)
    await store.put(b"short", bytes(100), ttl_s=0.01)
    await store.put(b"long", b"v", ttl_s=60)
    async with asyncio.timeout(10):
        while store.held_bytes > 401:
            await asyncio.sleep(0.02)
    assert await store.get(b"long") == b"v"
    await store.aclose()


async def test_an_answer_that_was_put_again_stays_for_its_new_time() -> None:
    now = [100.0]
    store = MemoryAnswers(10_000, clock=lambda: now[0])
    await store.put(b"k", b"old", ttl_s=5)
    await store.put(b"k", b"new", ttl_s=50)
    now[0] = 110.0
    store.sweep()
    assert await store.get(b"k") == b"new"
    now[0] = 150.0
    store.sweep()
    assert store.held_bytes == 0
    await store.aclose()


async def test_many_expired_answers_are_removed_in_turns() -> None:
    now = [100.0]
    store = MemoryAnswers(10_000_000, clock=lambda: now[0])
    for number in range(1200):
        await store.put(number.to_bytes(4, "big"), b"v", ttl_s=5)
    now[0] = 105.0
    left = []
    while store.held_bytes:
        store.sweep()
        left.append(store.held_bytes // 401)
    assert left == [700, 200, 0]
    await store.aclose()


async def test_what_was_dropped_is_not_remembered_for_long() -> None:
    store = MemoryAnswers(5 * 500)
    for number in range(1000):
        await store.put(number.to_bytes(4, "big"), bytes(100), ttl_s=300)
    assert len(store.entries) == 5
    assert len(store.entries.expiring) <= 11
    await store.aclose()
