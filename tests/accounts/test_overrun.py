"""Answers that become longer than what was reserved for them: more is reserved; where there is none, they may end."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from one_api.accounts.database import open_engine
from tests.accounts.test_budgets import UNIT, Account, check_books, gateway_on, row_of, unit_model, until, warm_up
from tests.api.bed import Bed
from tests.support import WaitFor, sse, text_chunks, tokens

#: Where no limit is given, so many tokens are reserved.
RESERVED = 10


@pytest.fixture(scope="module")
def engine(database: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def cutting(database: str, engine: Engine) -> Iterator[Bed]:
    """Two processes that cut what has no budget left."""
    with gateway_on(database, 2, budget={"overrun": "cut", "reserve_tokens": RESERVED}) as running:
        warm_up(running, engine)
        yield running


@pytest.fixture(scope="module")
def finishing(database: str, engine: Engine) -> Iterator[Bed]:
    """Two processes that let answers come to their end."""
    with gateway_on(database, 2, budget={"reserve_tokens": RESERVED}) as running:
        warm_up(running, engine)
        yield running


def slowly(*gates: threading.Event, said: int, usage: dict[str, Any] | None = None) -> Any:
    """A stream of so many pieces, of a token each; it waits for a gate after each tenth."""
    first, *pieces = text_chunks(*["abc"] * said, usage=usage)
    held: list[Any] = [first]
    waiting = iter(gates)
    for number, piece in enumerate(pieces, 1):
        held.append(piece)
        if number % 10 == 0 and (gate := next(waiting, None)) is not None:
            held.append(WaitFor(gate))
    return sse(*held)


def opened(count: int) -> list[threading.Event]:
    """Gates that nobody has to wait at."""
    gates = [threading.Event() for _ in range(count)]
    for gate in gates:
        gate.set()
    return gates


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 10}], ids=["without a limit", "beyond its limit"])
def test_a_stream_is_cut_where_its_budget_ends(cutting: Bed, engine: Engine, limit: dict[str, int]) -> None:
    account, model = Account(engine, 30), cutting.model()
    gates = [threading.Event() for _ in range(9)]
    cutting.a.on(model, slowly(*gates, said=100))

    with cutting.begin(model, key=account.key, **limit) as begun:
        events = [begun.next() for _ in range(11)]
        for gate in gates:
            gate.set()
            for event in iter(begun.next, None):
                events.append(event)
                if "error" in event or len(events) % 10 == 1:
                    break
            if "error" in events[-1]:
                break
        answer = begun.answer([*events, *begun.rest()])

    assert answer.stream_error is not None
    assert answer.stream_error["code"] == "budget_exceeded"
    assert "data: [DONE]" not in answer.events
    row = row_of(account)
    assert (row["status"], row["error"], row["estimated"]) == ("interrupted", "budget_exceeded", True)
    # Ten pieces come at once, and it is cut before the next ones.
    assert 20 * UNIT <= row["cost"] <= 41 * UNIT
    assert row["reserve"] <= 30 * UNIT
    check_books(engine, account)


def test_a_stream_within_its_limit_is_never_cut(cutting: Bed, engine: Engine) -> None:
    account, model = Account(engine, 20), cutting.model()
    # Twenty tokens with more than three bytes each, as in English.
    pieces = [" wording"] * 20
    cutting.a.on(model, sse(*text_chunks(*pieces, usage=tokens(5, 20))))

    answer = cutting.ask(model, key=account.key, stream=True, max_tokens=20)

    assert (answer.stream_error, answer.text) == (None, "".join(pieces))
    until(lambda: account.spent() == 20)
    check_books(engine, account)


def test_a_stream_with_enough_left_goes_on(cutting: Bed, engine: Engine) -> None:
    account, model = Account(engine, 1000), cutting.model()
    cutting.a.on(model, slowly(*opened(9), said=100, usage=tokens(5, 100)))

    assert cutting.ask(model, key=account.key, stream=True).stream_error is None

    until(lambda: account.spent() == 100)
    check_books(engine, account)


def test_others_have_less_while_a_stream_grows(finishing: Bed, engine: Engine) -> None:
    account, model, gate = Account(engine, 40), finishing.model(), threading.Event()
    small = unit_model(finishing)
    finishing.a.on(model, slowly(gate, *opened(2), said=60, usage=tokens(5, 60)))
    with finishing.begin(model, key=account.key) as begun:
        events = [begun.next() for _ in range(11)]
        assert finishing.ask(small, key=account.key, max_tokens=15).status == 200
        gate.set()
        events += [begun.next() for _ in range(49)]
        until(lambda: {finishing.ask(small, key=account.key, max_tokens=1).status for _ in range(8)} == {429})
        answer = begun.answer([*events, *begun.rest()])

    assert answer.stream_error is None
    until(lambda: account.spent() >= 61)
    check_books(engine, account)
