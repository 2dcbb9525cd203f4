"""What waits for one reader: how much of it may, and when the reader is too slow."""

import pytest

from one_api.cache.backlog import Backlog
from one_api.cache.inbox import Inbox
from one_api.errors import ClientTooSlow

from .bed import chunk

MEGABYTE = 1024 * 1024


async def test_what_comes_at_once_is_taken_whatever_its_size() -> None:
    inbox = Inbox()
    inbox.push([(chunk("a"), 2 * MEGABYTE), (chunk("b"), 10)])
    await inbox.wait()
    assert len(inbox.take()) == 2
    inbox.push([(chunk("c"), 10)])
    assert (len(inbox.take()), inbox.over) == (1, False)


async def test_a_reader_is_too_slow_when_a_megabyte_waits_and_more_comes() -> None:
    inbox = Inbox()
    inbox.push([(chunk("a"), MEGABYTE + 1)])
    inbox.push([(chunk("b"), 10)])
    inbox.push([(chunk("c"), 10)])
    await inbox.wait()
    assert inbox.take() == [chunk("a")]
    with pytest.raises(ClientTooSlow):
        await inbox.wait()


async def test_what_had_come_before_counts_until_it_is_read_and_no_longer() -> None:
    history, inbox = Backlog(), Inbox()
    history.add(chunk("a"), 5 * MEGABYTE)
    inbox.catch_up(history)
    inbox.push([(chunk("b"), MEGABYTE)])
    inbox.push([(chunk("c"), 10)])
    assert len(inbox.take()) == 3
    inbox.push([(chunk("d"), MEGABYTE + 1)])
    inbox.push([(chunk("e"), 10)])
    assert inbox.over
