"""Identical requests share an answer: one of them pays; and a gateway that ends books all that it has answered."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine

from one_api.accounts.database import open_engine
from tests.accounts.test_budgets import UNIT, Account, check_books, gateway_on, unit_model, until, warm_up
from tests.api.bed import Bed
from tests.support import WaitFor, completion, json_reply, sse, text_chunks, tokens


@pytest.fixture(scope="module")
def engine(database: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def bed(database: str, engine: Engine) -> Iterator[Bed]:
    """One process whose keys share answers."""
    with gateway_on(database, 1, cache={"enabled": True, "scope": "shared"}) as running:
        warm_up(running, engine)
        yield running


def test_of_two_hundred_identical_requests_one_pays(bed: Bed, engine: Engine) -> None:
    account, model, gate = Account(engine, 100), bed.model(), threading.Event()
    bed.a.on(model, [WaitFor(gate), *json_reply(completion("x", usage=tokens(5, 3)))])
    with ThreadPoolExecutor(200) as clients:
        asked = [clients.submit(bed.ask, model, key=account.key, temperature=0, max_tokens=3) for _ in range(200)]
        until(lambda: bed.asked(model))
        gate.set()
        assert Counter(each.result().status for each in asked) == {200: 200}

    until(lambda: len(account.rows()) == 200)
    assert Counter(row["cost"] for row in account.rows()) == {3 * UNIT: 1, 0: 199}
    assert bed.asked(model) == {"a": 1}
    assert account.spent() == 3
    check_books(engine, account)


@pytest.mark.parametrize("reports", [True, False], ids=["reported", "estimated"])
def test_when_who_asked_leaves_who_stays_pays(bed: Bed, engine: Engine, reports: bool) -> None:
    leader, heir = Account(engine, 100), Account(engine, 100)
    model, gate = bed.model(), threading.Event()
    first, *others = text_chunks("abc", "def", usage=tokens(5, 2) if reports else None)
    bed.a.on(model, sse(first, others[0], WaitFor(gate), *others[1:]))
    asked: Any = {"temperature": 0, "max_tokens": 9}
    with contextlib.ExitStack() as held:
        leaving = held.enter_context(bed.begin(model, key=leader.key, **asked))
        leaving.next()
        stays = held.enter_context(bed.begin(model, key=heir.key, **asked))
        stays.next()
        leaving.client.close()
        until(leader.rows)
        gate.set()
        assert stays.rest()[-1] == "data: [DONE]"

    until(heir.rows)
    assert (leader.rows()[0]["status"], leader.rows()[0]["cost"]) == ("cancelled", 0)
    assert (heir.rows()[0]["status"], heir.rows()[0]["cost"]) == ("ok", 2 * UNIT)
    assert heir.rows()[0]["estimated"] is (None if reports else True)
    for account in (leader, heir):
        check_books(engine, account)


def test_who_joins_does_not_pay_for_an_empty_budget_of_another(bed: Bed, engine: Engine) -> None:
    empty, full, model = Account(engine, 1), Account(engine, 100), unit_model(bed)
    accounts = [empty, full] * 10

    with ThreadPoolExecutor(20) as clients:
        asked = clients.map(lambda each: bed.ask(model, key=each.key, temperature=0, max_tokens=2), accounts)
        answers = list(asked)

    assert {answer.status for account, answer in zip(accounts, answers, strict=True) if account is full} == {200}
    assert {answer.status for account, answer in zip(accounts, answers, strict=True) if account is empty} <= {200, 429}
    assert bed.asked(model) == {"a": 1}
    until(lambda: full.spent() == 1)
    check_books(engine, empty)
    assert empty.spent() == 0


def test_a_gateway_that_ends_books_what_waits_and_gives_back_what_it_holds(database: str, engine: Engine) -> None:
    with gateway_on(database, 2) as bed:
        warm_up(bed, engine)
        account, model = Account(engine, 1000), unit_model(bed)
        with ThreadPoolExecutor(50) as clients:
            asked = clients.map(lambda n: bed.ask(model, key=account.key, max_tokens=2, seed=n).status, range(200))
            assert Counter(asked) == {200: 200}
        bed.gateway.terminate()

        assert bed.gateway.wait(20.0) == 0
        assert (len(account.rows()), account.spent(), account.leased()) == (200, 200, 0)
        assert not [*bed.gateway.config_path.parent.glob("**/*.journal")]
