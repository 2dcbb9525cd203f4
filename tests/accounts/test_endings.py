"""However a request ends, at whichever door: its row owes what it has to, and all rows together are what is spent."""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from one_api.accounts import reports
from one_api.accounts.database import open_engine, transact
from one_api.accounts.tables import LEASES
from tests.accounts.at_once import at_once
from tests.accounts.patient import PatientBed
from tests.accounts.test_budgets import UNIT, Account, row_of, until
from tests.accounts.test_doors import DOORS, STREAMED, TEXT, Door, ask
from tests.api.bed import Answer, Bed, adapter, yaml
from tests.support import (
    Gateway,
    Hang,
    Reset,
    ScriptedUpstream,
    WaitFor,
    error,
    sse,
    text_chunks,
    tokens,
)
from tests.support.actions import Send

#: Units for a token of the prompt and of the completion, by adapter.
UNITS = {"a": (1, 2), "b": (3, 5)}
PRICES: Any = {
    "models": {f"{name}/*": {"input": 1000 * prompt, "output": 1000 * said} for name, (prompt, said) in UNITS.items()}
}
#: What the configuration says of the groups of each kind.
KINDS: dict[str, Any] = {
    "pair": {"targets": ["a/{}", "b/{}"]},
    "hedge": {"targets": ["a/{}", "b/{}"], "hedge": {"after": 0.2, "budget": 1.0}},
    "resume": {"targets": ["a/{}", "b/{}"], "on_stream_failure": "resume"},
    "kept": {"targets": ["a/{}"], "cache": {"enabled": True}},
}
_POOL = 100
_numbers = {kind: itertools.count() for kind in KINDS}


def groups() -> dict[str, Any]:
    """All groups: a test takes one that no other has."""
    found: dict[str, Any] = {}
    for kind, settings in KINDS.items():
        for name in (f"{kind}-{number}" for number in range(_POOL)):
            targets = [each.format(name) for each in settings["targets"]]
            spaces = {"embedding_space": "one", "rerank_space": "one"}
            found[name] = {**settings, "targets": targets, "strategy": "ordered", **spaces}
    return found


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[Bed]:
    """A gateway of two processes over two upstreams."""
    _numbers.update({kind: itertools.count() for kind in KINDS})
    with ScriptedUpstream() as a, ScriptedUpstream() as b:
        models = list(groups())
        gateway = Gateway(
            env={"DATABASE_URL": database, "RATE_LIMIT_ENABLED": "false"},
            config_yaml=yaml(
                adapters={"a": adapter(a, models), "b": adapter(b, models)},
                model_groups=groups(),
                prices=PRICES,
                server={"workers": 2},
                retry={"min_concurrent": 1000, "after_send": True},
            ),
            start_timeout_s=60.0,
        )
        with gateway:
            gateway.worker_pids(2)
            yield PatientBed(gateway, {"a": a, "b": b})


@pytest.fixture(scope="module")
def engine(database: str, bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


@pytest.fixture(scope="module", autouse=True)
def all_adds_up(engine: Engine) -> Iterator[None]:
    """At the end of all tests what is spent is the sum of the rows, and nothing is reserved."""
    yield
    held = select(func.sum(LEASES.c.held))
    until(lambda: not transact(engine, lambda c: c.scalar(held)), 15.0)
    assert transact(engine, lambda c: reports.wrong_windows(c, 0)) == []


def group(kind: str) -> str:
    """A group that no other test has used."""
    number = next(_numbers[kind])
    assert number < _POOL
    return f"{kind}-{number}"


def owed(row: dict[str, Any]) -> int:
    """What the tokens of a row cost at the prices of its deployment, in nano-dollars."""
    prompt, said = UNITS[row["deployment"][0]]
    return (prompt * (row["prompt"] or 0) + said * (row["completion"] or 0)) * UNIT


def check(account: Account, row: dict[str, Any]) -> None:
    """Compare what is spent with the one row."""
    until(lambda: account.spent() * UNIT == row["cost"])
    assert len(account.rows()) == 1


NAMES = list(DOORS)
#: Doors whose answers say what they took.
COUNTED = [name for name in NAMES if name != "speech"]


@at_once(COUNTED)
def test_who_answers_in_the_end_is_paid(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, error(500))
    bed.b.on(model, door.answer(7))

    answer = ask(bed, door, model, account.key)
    row = row_of(account)

    assert (answer.status, row["status"], row["deployment"]) == (200, "ok", f"b/{model}")
    assert (row["prompt"], row["estimated"]) == (7, None)
    assert row["cost"] == owed(row)
    check(account, row)


def test_sound_that_another_sends_in_the_end_is_an_answer(bed: Bed, engine: Engine) -> None:
    door, model, account = DOORS["speech"], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, error(500))
    bed.b.on(model, door.answer(7))

    answer = ask(bed, door, model, account.key)
    row = row_of(account)

    assert (answer.status, row["status"], row["http_status"], row["deployment"]) == (200, "ok", 200, f"b/{model}")
    check(account, row)


@at_once(NAMES)
def test_an_answer_that_breaks_is_asked_for_elsewhere_and_paid_once(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    (whole,) = door.answer(1000)
    bed.a.on(model, [Send(whole.data[: len(whole.data) // 2]), Reset()])
    bed.b.on(model, door.answer(7))

    answer = bed_answer(bed, door, model, account)
    row = row_of(account)

    if answer is not None and answer.status == 200:
        assert (row["status"], row["deployment"]) == ("ok", f"b/{model}")
        assert row["cost"] == owed(row)
    else:  # its first bytes had gone out
        assert (row["status"], row["deployment"], row["estimated"]) == ("interrupted", f"a/{model}", True)
        assert row["cost"] == owed(row)
    check(account, row)


def bed_answer(bed: Bed, door: Door, model: str, account: Account) -> Answer | None:
    """The answer, or None where it was cut."""
    with contextlib.suppress(EOFError, ConnectionError, AssertionError):
        return ask(bed, door, model, account.key)
    return None


@at_once(NAMES)
def test_when_nobody_answers_nothing_is_owed(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, error(500))
    bed.b.on(model, error(503))

    answer = ask(bed, door, model, account.key)
    row = row_of(account)

    assert (answer.status >= 500, row["status"], row["cost"]) == (True, "failed", 0)
    check(account, row)


@at_once(NAMES)
def test_a_client_that_leaves_before_the_answer_owes_nothing(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, [Hang()])
    with bed.connect() as client:
        client.send(request_of(bed, door, model, account))
        until(lambda: bed.asked(model))

    row = row_of(account)

    assert (row["status"], row["cost"]) == ("cancelled", 0)
    check(account, row)


def request_of(bed: Bed, door: Door, model: str, account: Account, **fields: Any) -> bytes:
    """The request as bytes."""
    sent: list[bytes] = []

    class Recorder:
        gateway = bed.gateway

        def send(self, request: bytes) -> None:
            sent.append(request)

    ask(Recorder(), door, model, account.key, **fields)  # type: ignore[arg-type]
    return sent[0]


@at_once(COUNTED)
def test_only_the_faster_one_of_two_that_are_asked_is_paid(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account, gate = DOORS[name], group("hedge"), Account(engine, 1_000_000), threading.Event()
    bed.a.on(model, [WaitFor(gate), *door.answer(1000)])
    bed.b.on(model, door.answer(7))
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(ask, bed, door, model, account.key)
        with contextlib.suppress(AssertionError):
            until(lambda: asked.done() or bed.asked(model).get("b"), 2.0)
        gate.set()
        assert asked.result().status == 200

    row = row_of(account)

    assert row["status"] == "ok"
    assert row["prompt"] == {f"a/{model}": 1000, f"b/{model}": 7}[row["deployment"]]
    assert row["cost"] == owed(row)
    check(account, row)


KEPT = ("chat", "responses", "messages", "embeddings", "rerank")


@at_once(KEPT)
def test_a_kept_answer_is_paid_once(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("kept"), Account(engine, 1_000_000)
    bed.a.on(model, door.answer(7))

    # Each process keeps its own.
    answers = [ask(bed, door, model, account.key) for _ in range(12)]

    assert {answer.status for answer in answers} == {200}
    until(lambda: len(account.rows()) == 12)
    costs = Counter(row["cost"] for row in account.rows())
    asked = bed.asked(model)["a"]
    assert costs == {7 * UNIT: asked, 0: 12 - asked}
    assert 1 <= asked <= 2
    until(lambda: account.spent() == 7 * asked)


@at_once(["chat", "responses", "messages"])
def test_identical_requests_at_once_are_paid_once(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account, gate = DOORS[name], group("kept"), Account(engine, 1_000_000), threading.Event()
    bed.a.on(model, [WaitFor(gate), *door.answer(7)])
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(ask, bed, door, model, account.key) for _ in range(20)]
        until(lambda: bed.asked(model))
        gate.set()
        assert Counter(each.result().status for each in asked) == {200: 20}

    until(lambda: len(account.rows()) == 20)
    asked_times = bed.asked(model)["a"]
    costs = Counter(row["cost"] for row in account.rows())
    assert costs == {7 * UNIT: asked_times, 0: 20 - asked_times}
    assert asked_times <= 2
    until(lambda: account.spent() == 7 * asked_times)


# Streams


def pieces(name: str, *texts: str, usage: Any = None) -> list[Any]:
    """Chunks of a stream, without an end where there is no usage."""
    if name != "completions":
        return list(text_chunks(*texts, usage=usage) if usage else text_chunks(*texts, finish=None))
    frame = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    chunks = [frame | {"choices": [{**TEXT, "text": text, "finish_reason": None}]} for text in texts]
    if usage:
        chunks += [frame | {"choices": [{**TEXT, "text": ""}]}, frame | {"choices": [], "usage": usage}]
    return chunks


@at_once(STREAMED)
def test_a_client_that_leaves_a_stream_owes_what_was_sent(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, sse(*pieces(name, *["abcdef"] * 10), Hang(), done=False))
    with bed.connect() as client:
        client.send(request_of(bed, door, model, account, stream=True))
        seen = ""
        for event in client.iter_events(client.read_head()):
            seen += event
            if seen.count("abcdef") >= 10:
                break

    row = row_of(account)

    assert (row["status"], row["estimated"], row["completion"]) == ("cancelled", True, 20)
    assert row["cost"] == owed(row)
    check(account, row)


@pytest.mark.parametrize("tells", [True, False], ids=["told", "estimated"])
@at_once(STREAMED)
def test_a_stream_that_went_elsewhere_before_it_began_is_paid_once(
    bed: Bed, engine: Engine, name: str, tells: bool
) -> None:
    door, model, account = DOORS[name], group("pair"), Account(engine, 1_000_000)
    bed.a.on(model, sse(Reset(), done=False))
    if tells:
        bed.b.on(model, sse(*pieces(name, "abc", "def", usage=tokens(7, 2))))
    else:
        bed.b.on(model, sse(*pieces(name, "abc", "def", usage=tokens(7, 2))[:-1]))

    ask(bed, door, model, account.key, stream=True)
    row = row_of(account)

    assert (row["status"], row["deployment"], row["completion"]) == ("ok", f"b/{model}", 2)
    assert row["estimated"] is (None if tells else True)
    assert row["cost"] == owed(row)
    check(account, row)


@at_once(["chat", "responses", "messages"])
def test_a_resumed_stream_is_paid_to_who_finished_it(bed: Bed, engine: Engine, name: str) -> None:
    door, model, account = DOORS[name], group("resume"), Account(engine, 1_000_000)
    gate = threading.Event()
    bed.a.on(model, sse(*pieces(name, "abc", "def"), WaitFor(gate), Reset(), done=False))
    bed.b.on(model, sse(*pieces(name, "abc", "def", "ghi", usage=tokens(7, 3))))
    seen = ""
    with bed.connect() as client:
        client.send(request_of(bed, door, model, account, stream=True))
        for event in client.iter_events(client.read_head()):
            seen += event
            if "def" in seen:
                gate.set()

    row = row_of(account)

    assert "ghi" in seen
    assert (row["status"], row["deployment"], row["attempts"]) == ("ok", f"b/{model}", 2)
    assert (row["prompt"], row["completion"], row["estimated"]) == (7, 3, None)
    assert row["cost"] == owed(row)
    check(account, row)
