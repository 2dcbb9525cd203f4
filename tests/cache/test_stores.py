"""The store in memory: its bound, its order, and its time."""

import random

from one_api.cache.stores import MemoryAnswers


async def test_a_million_random_keys_stay_within_the_bound() -> None:
    rng = random.Random(7)
    store = MemoryAnswers(max_bytes=1_000_000)
    values = [bytes(size) for size in range(0, 4000, 37)]
    for number in range(1_000_000):
        await store.put(rng.randbytes(32), values[number % len(values)], 60)
        if not number % 1000:
            assert store.size_bytes <= 1_000_000
    kept = store._entries
    assert store.size_bytes <= 1_000_000
    assert store.size_bytes == sum(len(value) + 400 for value, _ in kept.values())
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
    assert store.size_bytes == 0


async def test_what_is_put_again_replaces_what_was_there() -> None:
    store = MemoryAnswers(2000)
    await store.put(b"k", bytes(900), 60)
    await store.put(b"k", b"new", 60)
    assert (await store.get(b"k"), store.size_bytes) == (b"new", 403)
    await store.delete(b"k")
    await store.delete(b"k")
    assert (await store.get(b"k"), store.size_bytes) == (None, 0)


async def test_what_is_larger_than_the_whole_store_is_not_kept() -> None:
    store = MemoryAnswers(1000)
    await store.put(b"small", b"v", 60)
    await store.put(b"large", bytes(1000), 60)
    assert await store.get(b"large") is None
    assert await store.get(b"small") == b"v"
