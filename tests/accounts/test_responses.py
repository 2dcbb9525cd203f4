"""Responses in a database: who finds them, for how long, and what happens when the database is away."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, update

from one_api.accounts.database import Database, transact
from one_api.accounts.responses import DatabaseResponses
from one_api.accounts.tables import RESPONSES
from one_api.dialects.responses.kept import ChainTooLong
from one_api.errors import AccountsUnavailable
from tests.support.clock import Clock
from tests.support.running_time import RunningTime

LIMITS: Any = {"ttl_s": 100.0, "max_bytes": 100_000}


def name(number: int) -> str:
    """The id of a response."""
    return f"resp_{number:032x}"


def response(number: int, previous: int | None = None, status: str = "completed", text: str = "yes") -> dict[str, Any]:
    """A response object, as far as it matters here."""
    parent = None if previous is None else name(previous)
    return {"id": name(number), "previous_response_id": parent, "status": status, "output": [{"content": text}]}


@pytest.fixture
def clock() -> Clock:
    """The clock of the responses."""
    return Clock(1_000_000.0)


@pytest.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    """The thread of the responses."""
    opened = Database(engine, "responses")
    yield opened
    await opened.aclose()


@pytest.fixture
def kept(database: Database, clock: Clock) -> DatabaseResponses:
    """What the database keeps."""
    return DatabaseResponses(database, clock)


async def keep(kept: DatabaseResponses, number: int, previous: int | None = None, **fields: Any) -> None:
    """Keep a response."""
    assert await kept.keep("me", response(number, previous, **fields), [{"content": str(number)}], **LIMITS)


def count(engine: Engine) -> int:
    """How many rows there are."""
    return transact(engine, lambda connection: connection.scalar(select(func.count()).select_from(RESPONSES)) or 0)


async def test_a_conversation_is_told_from_its_beginning(kept: DatabaseResponses) -> None:
    for number in range(3):
        await keep(kept, number, number - 1 if number else None)

    links = await kept.chain("me", name(2), 100.0)

    assert links is not None
    told = [item["content"] for link in links for item in link.all_items()]
    assert told == ["0", "yes", "1", "yes", "2", "yes"]


async def test_nobody_else_finds_anything(kept: DatabaseResponses) -> None:
    await keep(kept, 1)

    assert await kept.find("you", name(1)) is None
    assert await kept.chain("you", name(1), 100.0) is None
    assert not await kept.delete("you", name(1))
    assert await kept.find("me", name(1)) is not None


async def test_a_conversation_with_a_foreign_part_is_not_found(kept: DatabaseResponses) -> None:
    await keep(kept, 1)
    assert await kept.keep("you", response(2, 1), [], **LIMITS)

    assert await kept.chain("you", name(2), 100.0) is None


@pytest.mark.parametrize("text", ["", "resp_1", "resp_\0", "resp_\ud800", "x" * 5000, "resp_" + "A" * 32])
async def test_what_is_no_id_of_ours_is_not_found(kept: DatabaseResponses, text: str) -> None:
    assert await kept.find("me", text) is None
    assert await kept.chain("me", text, 100.0) is None
    assert not await kept.delete("me", text)


async def test_what_is_gone_on_from_stays_and_the_rest_goes(
    kept: DatabaseResponses, clock: Clock, engine: Engine
) -> None:
    await keep(kept, 0)
    await keep(kept, 1, 0)
    await keep(kept, 9)

    clock.now += 99.0
    assert await kept.chain("me", name(1), 100.0) is not None
    clock.now += 51.0

    assert await kept.chain("me", name(1), 100.0) is not None
    assert await kept.find("me", name(9)) is None
    assert not await kept.delete("me", name(9))
    await kept.sweep()
    assert count(engine) == 2


async def test_more_than_one_batch_is_swept(kept: DatabaseResponses, clock: Clock, engine: Engine) -> None:
    for number in range(120):
        await keep(kept, number)
    clock.now += 101.0

    await kept.sweep()

    assert count(engine) == 0


async def test_a_conversation_with_a_part_missing_is_not_found(kept: DatabaseResponses) -> None:
    for number in range(3):
        await keep(kept, number, number - 1 if number else None)

    assert await kept.delete("me", name(0))

    assert await kept.chain("me", name(2), 100.0) is None
    assert await kept.find("me", name(2)) is not None


async def test_what_failed_is_not_gone_on_from(kept: DatabaseResponses) -> None:
    await keep(kept, 1, status="failed")
    await keep(kept, 2, status="incomplete")

    assert await kept.chain("me", name(1), 100.0) is None
    assert await kept.chain("me", name(2), 100.0) is not None
    assert await kept.find("me", name(1)) is not None


def rows(connection: Connection, length: int) -> None:
    """Write a conversation of so many responses."""
    one = {"owner": "me", "status": "completed", "created_at": 0, "expires_at": 2**52, "size": 2}
    body = {"items": b"[]", "response": b'{"output":[]}'}
    parents = [None, *(name(number) for number in range(length - 1))]
    connection.execute(RESPONSES.insert(), [{"id": name(i), "parent": p, **one, **body} for i, p in enumerate(parents)])


async def test_a_conversation_has_a_greatest_length(kept: DatabaseResponses, engine: Engine) -> None:
    transact(engine, lambda connection: rows(connection, 1001))

    links = await kept.chain("me", name(999), 100.0)

    assert links is not None
    assert len(links) == 1000
    with pytest.raises(ChainTooLong):
        await kept.chain("me", name(1000), 100.0)


async def test_a_conversation_has_a_greatest_size(kept: DatabaseResponses, engine: Engine) -> None:
    transact(engine, lambda connection: rows(connection, 3))
    transact(engine, lambda connection: connection.execute(update(RESPONSES).values(size=16 * 1024 * 1024)))

    assert await kept.chain("me", name(1), 100.0) is not None
    with pytest.raises(ChainTooLong):
        await kept.chain("me", name(2), 100.0)


async def test_what_is_larger_than_one_may_be_is_not_kept(kept: DatabaseResponses, engine: Engine) -> None:
    assert not await kept.keep("me", response(1, text="x" * 100_001), [], **LIMITS)
    assert count(engine) == 0


async def test_many_go_on_from_one_conversation_at_once(kept: DatabaseResponses, clock: Clock, engine: Engine) -> None:
    for number in range(20):
        await keep(kept, number, number - 1 if number else None)
    clock.now += 50.0
    others = [Database(engine, f"other-{number}") for number in range(3)]
    stores = [kept, *(DatabaseResponses(database, clock) for database in others)]

    found = await asyncio.gather(*(store.chain("me", name(19), 100.0) for store in stores for _ in range(3)))

    assert [len(links or []) for links in found] == [20] * 12
    for database in others:
        await database.aclose()


async def test_without_its_table_nothing_is_kept_and_asking_says_so(
    kept: DatabaseResponses, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    transact(engine, RESPONSES.drop)

    assert not await kept.keep("me", response(1), [], **LIMITS)
    assert "could not be kept" in caplog.text
    with pytest.raises(AccountsUnavailable):
        await kept.find("me", name(1))


async def test_an_answer_does_not_wait_long_for_a_database_that_is_held_up(
    kept: DatabaseResponses, database: Database
) -> None:
    started, release = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        started.set()
        release.wait()

    held = asyncio.ensure_future(database.read(hold))
    await asyncio.to_thread(started.wait)
    began = time.monotonic()

    try:
        with RunningTime() as took:
            assert not await kept.keep("me", response(1), [], **LIMITS)
        assert time.monotonic() - began > 0.9
        assert took.seconds < 2.0
    finally:
        release.set()
        await asyncio.wait([held])
