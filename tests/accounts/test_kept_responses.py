"""Conversations over several processes and one database, as users of the official client have them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import Engine, select, update

from one_api.accounts.database import open_engine, transact
from one_api.accounts.tables import RESPONSES
from tests.api.bed import KEY, Bed, adapter, yaml
from tests.support import Gateway, ScriptedUpstream

OTHER_KEY = "other-key"


@pytest.fixture(scope="module")
def pair(database: str) -> Iterator[tuple[Bed, Bed]]:
    """Two gateways of two processes each, over one upstream and one database."""
    keys = [{"key": KEY, "name": "mine"}, {"key": OTHER_KEY, "name": "theirs"}]
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(ScriptedUpstream(["m"]))
        settings = yaml(adapters={"a": adapter(upstream, ["m"])}, server={"workers": 2}, api_keys=keys)
        env = {"DATABASE_URL": database}
        gateways = [held.enter_context(Gateway(env=env, config_yaml=settings)) for _ in range(2)]
        one, two = (Bed(gateway, {"a": upstream}) for gateway in gateways)
        yield one, two


@pytest.fixture
def clients(pair: tuple[Bed, Bed]) -> Iterator[tuple[OpenAI, OpenAI]]:
    """A client of each gateway."""
    with pair[0].sdk() as one, pair[1].sdk() as two:
        yield one, two


@pytest.fixture(scope="module")
def engine(database: str, pair: tuple[Bed, Bed]) -> Engine:
    """The gateways' database, from outside."""
    return open_engine(database, Path())


def said(bed: Bed) -> list[tuple[str, str]]:
    """What the upstream was asked last."""
    return [(message["role"], message["content"]) for message in bed.last("m").json["messages"]]


def respond(client: OpenAI, given: str, *, stream: bool, previous: str | None = None) -> Any:
    """A response, whole or as the last event of a stream has it."""
    extra: Any = {"previous_response_id": previous} if previous else {}
    if not stream:
        return client.responses.create(model="m", input=given, **extra)
    with client.responses.create(model="m", input=given, stream=True, **extra) as events:
        (last,) = [event.response for event in events if event.type == "response.completed"]
        return last


@pytest.mark.parametrize("stream", [False, True])
def test_each_turn_is_served_elsewhere(pair: tuple[Bed, Bed], clients: tuple[OpenAI, OpenAI], stream: bool) -> None:
    previous, expected = None, list[tuple[str, str]]()
    for turn in range(6):
        answer = respond(clients[turn % 2], str(turn), stream=stream, previous=previous)
        assert answer.store is True
        previous, expected = answer.id, [*expected, ("user", str(turn)), ("assistant", "Hello")]

        assert [*said(pair[0]), ("assistant", "Hello")] == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_read_and_deleted_elsewhere(clients: tuple[OpenAI, OpenAI], stream: bool) -> None:
    here, there = clients
    first = respond(here, "one", stream=stream)

    assert there.responses.retrieve(first.id) == first
    (item,) = there.responses.input_items.list(first.id).data
    assert item.to_dict()["content"] in ("one", [{"type": "input_text", "text": "one"}])
    referred = there.responses.create(
        model="m", input=[{"type": "item_reference", "id": str(item.id)}, {"role": "user", "content": "two"}]
    )
    assert referred.output_text == "Hello"
    there.responses.delete(first.id)

    with pytest.raises(openai.NotFoundError):
        here.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        here.responses.create(model="m", input="two", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_belongs_to_its_key(pair: tuple[Bed, Bed], clients: tuple[OpenAI, OpenAI]) -> None:
    mine = respond(clients[0], "one", stream=False).id
    thief = clients[1].with_options(api_key=OTHER_KEY)

    for ask in (thief.responses.retrieve, thief.responses.delete, thief.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            ask(mine)
    with pytest.raises(openai.BadRequestError) as caught:
        thief.responses.create(model="m", input="two", previous_response_id=mine)
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError):
        item = f"msg_{mine.removeprefix('resp_')}in00"
        thief.responses.create(model="m", input=[{"type": "item_reference", "id": item}])
    assert clients[1].responses.retrieve(mine).id == mine


def test_what_shall_not_be_stored_is_not(clients: tuple[OpenAI, OpenAI], engine: Engine) -> None:
    answer = clients[0].responses.create(model="m", input="one", store=False)

    assert answer.to_dict()["store"] is False
    assert transact(engine, lambda c: c.scalar(select(RESPONSES.c.id).where(RESPONSES.c.id == answer.id))) is None


def test_a_response_is_gone_when_its_time_is_over(clients: tuple[OpenAI, OpenAI], engine: Engine) -> None:
    first = respond(clients[0], "one", stream=False)
    second = respond(clients[1], "two", stream=False, previous=first.id)
    transact(engine, lambda c: c.execute(update(RESPONSES).where(RESPONSES.c.id == first.id).values(expires_at=1)))

    with pytest.raises(openai.NotFoundError):
        clients[1].responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        respond(clients[0], "three", stream=False, previous=second.id)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_kept_says_so(clients: tuple[OpenAI, OpenAI], engine: Engine, stream: bool) -> None:
    with engine.begin() as holding:
        if engine.dialect.name == "postgresql":
            holding.exec_driver_sql("LOCK TABLE responses IN ACCESS EXCLUSIVE MODE")
        answer = respond(clients[0], "one", stream=stream)

    assert answer.store is False
    assert answer.output_text == "Hello"


def test_without_its_table_answers_go_out_and_questions_are_unavailable(
    clients: tuple[OpenAI, OpenAI], engine: Engine
) -> None:
    transact(engine, lambda c: c.exec_driver_sql("ALTER TABLE responses RENAME TO away"))
    try:
        assert respond(clients[0], "one", stream=True).store is False
        with pytest.raises(openai.InternalServerError) as caught:
            clients[0].responses.retrieve(f"resp_{1:032x}")
        assert (caught.value.status_code, caught.value.code) == (503, "accounts_unavailable")
    finally:
        transact(engine, lambda c: c.exec_driver_sql("ALTER TABLE away RENAME TO responses"))
    assert respond(clients[0], "one", stream=True).store is True
