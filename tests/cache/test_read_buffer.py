"""What waits for one reader: how much of it may, and when the reader is too slow."""

import pytest

from one_api.cache.chunk_buffer import ChunkBuffer
from one_api.cache.read_buffer import ReadBuffer
from one_api.errors import ClientTooSlow

from .bed import chunk

MEGABYTE = 1024 * 1024


async def test_what_comes_at_once_is_taken_whatever_its_size() -> None:
    buffer = ReadBuffer()
    buffer.push([(chunk("a"), 2 * MEGABYTE), (chunk("b"), 10)])
    await buffer.wait()
    assert len(buffer.take()) == 2
    buffer.push([(chunk("c"), 10)])
    assert (len(buffer.take()), buffer.ended) == (1, False)


async def test_a_reader_is_too_slow_when_a_megabyte_waits_and_more_comes() -> None:
    buffer = ReadBuffer()
    buffer.push([(chunk("a"), MEGABYTE + 1)])
    buffer.push([(chunk("b"), 10)])
    buffer.push([(chunk("c"), 10)])
    await buffer.wait()
    assert buffer.take() == [chunk("a")]
    with pytest.raises(ClientTooSlow):
        await buffer.wait()


async def test_what_had_come_before_counts_until_it_is_read_and_no_longer() -> None:
    history, buffer = ChunkBuffer(), ReadBuffer()
    history.add(chunk("a"), 5 * MEGABYTE)
    buffer.catch_up(history)
    buffer.push([(chunk("b"), MEGABYTE)])
    buffer.push([(chunk("c"), 10)])
    assert len(buffer.take()) == 3
    buffer.push([(chunk("d"), MEGABYTE + 1)])
    buffer.push([(chunk("e"), 10)])
    assert buffer.ended
