"""Budgets bind at every door: of 200 requests for 50 units 50 are let in, and each has a row with its cost."""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine

from one_api.accounts.database import open_engine
from tests.accounts.at_once import at_once
from tests.accounts.conftest import postgres_schema
from tests.accounts.patient import PatientBed
from tests.accounts.test_budgets import UNIT, Account, check_books, row_of, until
from tests.api.bed import Answer, Bed, adapter, user, yaml
from tests.api.doors import form
from tests.support import (
    Gateway,
    Reset,
    ScriptedUpstream,
    build_request,
    completion,
    error,
    json_reply,
    reply,
    sse,
    text_chunks,
    tokens,
)

#: A token of the prompt costs a unit, whatever comes of it.
PRICES: Any = {
    "models": {
        "a/fee-*": {"input": 0, "output": 1000, "units": {"requests": 0.003}},
        "a/unit-*": {"units": dict.fromkeys(("images", "seconds", "characters", "search_units"), 0.001)},
        "a/*": {"input": 1000, "output": 0},
    }
}
_numbers = itertools.count()


class Door(NamedTuple):
    """How a door is asked, and what an upstream answers that has counted so many tokens."""

    path: str
    body: dict[str, Any]
    answer: Callable[[int], Any]
    #: The body is a form with a file of this name.
    file: str | None = None


def whole(**fields: Any) -> Callable[[int], Any]:
    """An answer with usage in OpenAI's older words."""
    return lambda n: json_reply({**fields, "usage": tokens(n, 0)})


def newer(**fields: Any) -> Callable[[int], Any]:
    """An answer with usage in OpenAI's newer words."""
    return lambda n: json_reply({**fields, "usage": {"input_tokens": n, "output_tokens": 0, "total_tokens": n}})


TEXT = {"text": "x", "index": 0, "logprobs": None, "finish_reason": "stop"}
SOUND = reply(b"ID3" + bytes(100), headers={"Content-Type": "audio/mpeg"})
CHAT: Callable[[int], Any] = lambda n: json_reply(completion("x", usage=tokens(n, 0)))  # noqa: E731
DOORS = {
    "chat": Door("/v1/chat/completions", {"messages": user(), "max_tokens": 1}, CHAT),
    "responses": Door("/v1/responses", {"input": "Hi", "max_output_tokens": 16, "store": False}, CHAT),
    "messages": Door("/v1/messages", {"messages": user(), "max_tokens": 1}, CHAT),
    "completions": Door(
        "/v1/completions",
        {"prompt": "Hi", "max_tokens": 1},
        whole(id="c", object="text_completion", created=1, model="m", choices=[TEXT]),
    ),
    "embeddings": Door(
        "/v1/embeddings",
        {"input": "Hi"},
        whole(object="list", model="m", data=[{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]),
    ),
    "moderations": Door("/v1/moderations", {"input": "Hi"}, whole(id="m", model="m", results=[{"flagged": False}])),
    "images": Door("/v1/images/generations", {"prompt": "Hi"}, newer(created=1, data=[{"b64_json": "aGk="}])),
    "edits": Door("/v1/images/edits", {"prompt": "Hi"}, newer(created=1, data=[{"b64_json": "aGk="}]), "image"),
    "speech": Door("/v1/audio/speech", {"input": "Hi", "voice": "alloy"}, lambda _: SOUND),
    "transcriptions": Door("/v1/audio/transcriptions", {}, newer(text="hi"), "file"),
    "rerank": Door(
        "/v1/rerank",
        {"query": "q", "documents": ["a", "b"]},
        lambda n: json_reply({"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": n}}),
    ),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A gateway of two processes over one upstream."""
    database = (
        f"sqlite:///{tmp_path_factory.mktemp('doors')}/one_api.db"
        if request.param == "sqlite"
        else postgres_schema(request.getfixturevalue("server"))
    )
    with ScriptedUpstream() as a, contextlib.ExitStack() as held:
        models = [f"{kind}-{number}" for kind in ("door", "unit", "fee") for number in range(60)]
        adapters = {"a": adapter(a, ["door-warm", *models])}
        gateway = Gateway(
            env={"DATABASE_URL": database, "RATE_LIMIT_ENABLED": "false"},
            config_yaml=yaml(adapters=adapters, prices=PRICES, server={"workers": 2}, retry={"min_concurrent": 1000}),
            start_timeout_s=60.0,
        )
        held.enter_context(gateway)
        gateway.worker_pids(2)
        running = PatientBed(gateway, {"a": a})
        running.engine = open_engine(database, Path())  # type: ignore[attr-defined]
        warm_up(running)
        yield running


def warm_up(bed: Bed) -> None:
    """Have every process open its connections."""
    account = Account(bed.engine, 1_000_000)  # type: ignore[attr-defined]
    bed.a.on("door-warm", CHAT(1))
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(lambda _: ask(bed, DOORS["chat"], "door-warm", account.key), range(40)))


@pytest.fixture
def engine(bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return bed.engine  # type: ignore[attr-defined,no-any-return]


def ask(bed: Bed, door: Door, model: str, key: str, **fields: Any) -> Answer:
    """The answer of a door."""
    body = {"model": model, **door.body, **fields}
    if door.file is None:
        kind, data = "application/json", json.dumps(body).encode()
    else:
        kind = "multipart/form-data; boundary=xYz"
        texts = [(name, str(value).encode()) for name, value in body.items()]
        data = form(*texts, (door.file, b"picture or sound", "a.png"))
    headers = [("Authorization", f"Bearer {key}"), ("Content-Type", kind)]
    return bed.send(build_request("POST", door.path, bed.gateway.host, bed.gateway.port, headers=headers, body=data))


def prepared(bed: Bed, engine: Engine, door: Door) -> tuple[str, int]:
    """A model whose answers cost as much as is reserved for them, and how many units that is."""
    model = f"door-{next(_numbers) % 60}"
    bed.a.on(model, door.answer(1))
    account = Account(engine, 1_000_000)
    answer = ask(bed, door, model, account.key)
    assert answer.status == 200, answer.body
    reserve = int(row_of(account)["reserve"])
    assert reserve % UNIT == 0 < reserve
    bed.a.on(model, door.answer(reserve // UNIT))
    return model, reserve // UNIT


@at_once(DOORS)
def test_at_every_door_as_many_are_let_in_as_there_are_units(bed: Bed, engine: Engine, name: str) -> None:
    door = DOORS[name]
    model, units = prepared(bed, engine, door)
    account = Account(engine, 50 * units)

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: ask(bed, door, model, account.key), range(200)))

    assert Counter(answer.status for answer in answers) == {200: 50, 429: 150}
    refused = next(answer for answer in answers if answer.status == 429)
    assert b"has 0 USD left" in refused.body or b"may cost up to" in refused.body
    until(lambda: account.spent() == 50 * units)
    assert Counter(row["cost"] for row in account.rows()) == {units * UNIT: 50}
    until(lambda: account.leased() == 0)


@at_once(DOORS)
def test_at_every_door_a_failure_costs_nothing_and_holds_nothing(bed: Bed, engine: Engine, name: str) -> None:
    door = DOORS[name]
    model, units = prepared(bed, engine, door)
    account = Account(engine, 4 * units)
    bed.a.on(model, error(400))

    assert [ask(bed, door, model, account.key).status for _ in range(3)] == [400] * 3

    bed.a.on(model, door.answer(units))
    until(lambda: ask(bed, door, model, account.key).status == 200)
    until(lambda: account.spent() == units)
    check_books(engine, account)


STREAMED = ("chat", "responses", "messages", "completions")


@at_once(STREAMED)
def test_at_every_door_a_broken_stream_is_charged(bed: Bed, engine: Engine, name: str) -> None:
    door = DOORS[name]
    model, _ = prepared(bed, engine, door)
    account = Account(engine, 1_000_000)
    pieces: Any = text_chunks(*["abc"] * 10, finish=None)
    if name == "completions":
        text = {**TEXT, "finish_reason": None}
        pieces = [{"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [text]}] * 10
    bed.a.on(model, sse(*pieces, Reset(), done=False))

    ask(bed, door, model, account.key, stream=True)

    row = row_of(account)
    assert (row["status"], row["estimated"]) == ("interrupted", True)
    assert row["cost"] == row["prompt"] * UNIT == row["reserve"]
    assert row["completion"] >= 3
    check_books(engine, account)


class Counted(NamedTuple):
    """What a request reserves and costs that is paid for by other units than tokens; a unit costs one, too."""

    door: str
    fields: dict[str, Any]
    answer: Any
    reserved: float
    cost: float
    estimated: bool | None = None


TWO = json_reply({"created": 1, "data": [{"b64_json": "aGk="}] * 2})
HEARD = {"text": "hi", "usage": {"type": "duration", "seconds": 2.5}}
SEARCHED = {"results": [{"index": 0, "relevance_score": 0.5}]}
COUNTED = {
    "images": Counted("images", {"n": 3}, TWO, 3, 2),
    "edited images": Counted("edits", {"n": 3}, TWO, 3, 2),
    "characters": Counted("speech", {"input": "Grüß dich!"}, SOUND, 10, 10),
    "seconds": Counted("transcriptions", {}, json_reply(HEARD), 1, 2.5),
    "seconds that nobody counts": Counted("transcriptions", {}, json_reply({"text": "hi"}), 1, 1, True),
    "tokens in place of seconds": Counted(
        "transcriptions", {}, json_reply({"text": "hi", "usage": tokens(9, 9)}), 1, 1, True
    ),
    "searches": Counted("rerank", {}, json_reply(SEARCHED | {"meta": {"billed_units": {"search_units": 4}}}), 1, 4),
    "documents": Counted("rerank", {"documents": ["a"] * 101}, json_reply(SEARCHED), 2, 2),
}


@at_once(COUNTED)
def test_what_is_paid_for_otherwise_than_by_tokens_counts_for_budgets(bed: Bed, engine: Engine, name: str) -> None:
    counted, model = COUNTED[name], f"unit-{next(_numbers) % 60}"
    door = DOORS[counted.door]
    bed.a.on(model, counted.answer)
    poor, rich = Account(engine, counted.reserved - 0.5), Account(engine, 1000)

    refused = ask(bed, door, model, poor.key, **counted.fields)
    answer = ask(bed, door, model, rich.key, **counted.fields)

    row = row_of(rich)
    assert (refused.status, answer.status) == (429, 200), (refused.body, answer.body)
    assert (row["reserve"], row["cost"]) == (counted.reserved * UNIT, counted.cost * UNIT)
    assert row["estimated"] is counted.estimated
    if not counted.estimated:
        assert row["upstream_cost"] == row["cost"]
    if not counted.estimated and counted.door != "speech":  # sound is a stream
        assert answer.header("x-gateway-cost") == f"{counted.cost / 1000:g}"
    until(lambda: rich.spent() == counted.cost)


@at_once(["whole", "stream"])
def test_a_fee_for_each_request_comes_on_top(bed: Bed, engine: Engine, name: str) -> None:
    model, door = f"fee-{next(_numbers) % 60}", DOORS["chat"]
    took = tokens(5, 2)
    bed.a.on(model, json_reply(completion("x", usage=took)) if name == "whole" else sse(*text_chunks("hi", usage=took)))
    poor, rich = Account(engine, 4.5), Account(engine, 1000)

    refused, answer = (ask(bed, door, model, each.key, max_tokens=2, stream=name == "stream") for each in (poor, rich))

    assert (refused.status, answer.status) == (429, 200), (refused.body, answer.body)
    row = row_of(rich)
    assert (row["reserve"], row["cost"], row["upstream_cost"]) == (5 * UNIT, 5 * UNIT, 5 * UNIT)
    assert json.loads(row["rates"])["units"] == {"requests": "0.003"}


def test_a_unit_without_a_price_is_refused_where_a_budget_binds(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 1000), f"unit-{next(_numbers) % 60}"

    answer = ask(bed, DOORS["moderations"], model, account.key)

    assert (answer.status, answer.json["error"]["code"]) == (503, "unpriced")


def test_a_failure_costs_no_units(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 1000), f"unit-{next(_numbers) % 60}"
    bed.a.on(model, error(400))

    assert ask(bed, DOORS["images"], model, account.key).status == 400

    row = row_of(account)
    assert (row["cost"], row["units"]) == (0, None)
