"""Rows and their sums agree, whatever is written again."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import Engine, func, select

from one_api.accounts import ledger
from one_api.accounts.database import transact
from one_api.accounts.entries import entry_of
from one_api.accounts.ledger import LedgerRow, Refusal
from one_api.accounts.opening import open_database
from one_api.accounts.percentiles import FIRST, WHOLE
from one_api.accounts.rates import Rates
from one_api.accounts.tables import LEDGER, USAGE, WINDOWS
from one_api.contract import Unit, Units, Usage
from one_api.dialects import json
from one_api.records import AttemptRecord, CallRecord
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.rows import HOUR, row

RATES = Rates(1_000_000, 10_000_000, 100_000, 1_000_000)
ID = f"req_{HOUR * 1000:012x}{7:020x}"


def price_of(deployment: str) -> Rates | None:
    """What the deployments of the tests cost."""
    return None if deployment.startswith("unpriced/") else RATES


def book(engine: Engine, *rows: LedgerRow, refused: Counter[Refusal] | None = None, again: bool = False) -> None:
    """Write rows in one transaction."""
    transact(engine, lambda connection: ledger.book(connection, list(rows), refused or Counter(), again=again))


def sums(engine: Engine, span: int = 900) -> list[dict[str, Any]]:
    """The sums of one span, in order."""
    query = select(USAGE).where(USAGE.c.span == span).order_by(USAGE.c.start, USAGE.c.key)
    return transact(engine, lambda connection: [dict(each) for each in connection.execute(query).mappings()])


def record(**fields: Any) -> CallRecord:
    """The record of a request that was answered, but for these fields."""
    made = CallRecord(ID, "POST", "/v1/chat/completions", started=100.0, caller="alice", model="gpt", status=200)
    made.deployment, made.ended, made.usage = "openai/gpt", 100.5, Usage(100, 10, cached_tokens=40)
    made.attempts = [AttemptRecord("openai/gpt", "ok", 0.2, 0.5, made.usage)]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def booked(**fields: Any) -> LedgerRow:
    """The row of such a request."""
    entry = entry_of(record(**fields), price_of)
    assert isinstance(entry, LedgerRow)
    return entry


def test_rows_are_kept_as_they_are(engine: Engine) -> None:
    given = booked()

    book(engine, given)

    stored = transact(engine, lambda connection: connection.execute(select(LEDGER)).one())
    assert LedgerRow(*stored) == given


def test_the_longest_prices_fit_into_their_column(engine: Engine) -> None:
    each = 999_999_123_456_789
    dear = Rates(each, each, each, each, units=tuple((unit, each) for unit in get_args(Unit)))
    entry = entry_of(record(units=Units(3, "documents")), lambda _: dear)
    assert isinstance(entry, LedgerRow)

    book(engine, entry)

    shown = json.decode(str(transact(engine, lambda c: c.scalar(select(LEDGER.c.rates)))).encode())
    assert list(shown["units"]) == ["search_units", "documents"]
    assert shown["output"] == "999999.123456789"


@pytest.mark.parametrize("count", [1, 63, 100, 200])
def test_sqlite_is_asked_seldom_for_many_rows(tmp_path: Path, count: int) -> None:
    # For each statement the driver lets another thread run, and waits for its turn again.
    engine = open_database(DatabaseConfig(url=Storage(f"sqlite:///{tmp_path}/test.db")), tmp_path)
    statements: list[str] = []
    with engine.begin() as connection:
        connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
        ledger.book(connection, [row(number) for number in range(count)], Counter(), again=False)

    assert sum(each.startswith("INSERT INTO ledger") for each in statements) <= 6
    assert transact(engine, lambda connection: connection.scalar(select(func.count(LEDGER.c.id)))) == count


def test_sums_are_those_of_the_rows(engine: Engine) -> None:
    book(engine, row(1), row(2, HOUR + 59, key="bob", status="failed", cost=None), row(3, HOUR + 60, cache="hit"))
    book(engine, row(4, first_ms=20), refused=Counter({Refusal(HOUR + 60, "alice"): 7}))

    alice = [each for each in sums(engine) if each["key"] == "alice"]
    assert {
        name: sum(each[name] for each in alice) for name in alice[0] if name not in ("key", "model", "deployment")
    } == {
        **{"span": 1800, "start": 2 * HOUR, "requests": 3, "errors": 0, "refused": 7, "cancelled": 0},
        **{"cached_answers": 1, "unpriced": 0, "prompt": 300, "cached": 120, "completion": 30, "cost": 3000},
        **{"upstream_cost": 3000, "ms": 1500, "first_ms": 20, "firsts": 1},
        **dict.fromkeys((*FIRST.columns, *WHOLE.columns), 0),
        **{"first_250": 1, "ms_500": 3},
    }
    (bob,) = [each for each in sums(engine) if each["key"] == "bob"]
    assert (bob["errors"], bob["unpriced"], bob["cost"]) == (1, 1, 0)
    assert [each["start"] for each in sums(engine, 60)] == [HOUR, HOUR, HOUR + 60, HOUR + 60]


def test_rows_that_are_written_again_count_once(engine: Engine) -> None:
    book(engine, row(1), row(2))

    book(engine, row(1), row(2), row(3), again=True)

    (found,) = sums(engine)
    assert found["requests"] == 3
    assert transact(engine, lambda connection: connection.scalar(select(func.count()).select_from(LEDGER))) == 3


def test_thousands_of_mixed_rows_add_up_to_the_nano_dollar(engine: Engine) -> None:
    chance = random.Random(7)
    rows = [
        row(number, HOUR + chance.randrange(7200), key=chance.choice("abc"), cost=chance.randrange(10**10))
        for number in range(1000)
    ]
    for begin in range(0, len(rows), 100):
        book(engine, *rows[begin : begin + 100])

    expected = Counter[str]()
    for made in rows:
        expected[made.key] += made.cost or 0
    for span in ledger.SPANS:
        found = Counter[str]()
        for each in sums(engine, span):
            found[each["key"]] += each["cost"]
        assert found == expected


def test_the_oldest_rows_are_forgotten_first(engine: Engine) -> None:
    book(engine, *(row(number, HOUR + number) for number in range(10)))

    counts = [
        transact(engine, lambda connection: ledger.forget(connection, (HOUR + 5) * 1000, limit=3)) for _ in range(3)
    ]

    assert counts == [3, 2, 0]
    left = transact(engine, lambda connection: connection.scalars(select(LEDGER.c.at).order_by(LEDGER.c.id)).all())
    assert left == [(HOUR + number) * 1000 for number in range(5, 10)]


def test_while_rows_are_written_only_the_old_ones_are_forgotten(engine: Engine) -> None:
    window = ("all:total", 0)
    charged = ledger.charged_text((window,))
    rows = [row(number, HOUR + number % 7200, cost=number, charged=charged) for number in range(3000)]
    before_s, is_over = HOUR + 1800, threading.Event()

    def forget() -> None:
        while not is_over.is_set() or transact(engine, lambda c: ledger.forget(c, before_s * 1000, 500)):
            transact(engine, lambda c: ledger.forget(c, before_s * 1000, 50))
            transact(engine, lambda c: ledger.forget_sums(c, by_minute=True, before_s=before_s))
            is_over.wait(0.01)

    with ThreadPoolExecutor(4) as threads:
        forgetting = threads.submit(forget)
        try:
            batches = [rows[begin : begin + 50] for begin in range(0, len(rows), 50)]
            list(threads.map(lambda batch: book(engine, *batch), batches))
        finally:
            is_over.set()
        forgetting.result()

    left = transact(engine, lambda c: c.scalars(select(LEDGER.c.id).order_by(LEDGER.c.id)).all())
    assert left == sorted(each.id for each in rows if each.at >= before_s * 1000)
    total = sum(each.cost or 0 for each in rows)
    assert sum(each["cost"] for each in sums(engine)) == total
    assert transact(engine, lambda c: c.scalar(select(WINDOWS.c.spent))) == total
    minutes = [each for each in sums(engine, 60) if each["start"] >= before_s]
    assert sum(each["cost"] for each in minutes) == sum(each.cost or 0 for each in rows if each.at >= before_s * 1000)


def test_the_sums_have_the_order_of_their_columns() -> None:
    (minute, _) = ledger.sums_of([row(1, first_ms=7, cache="hit", status="cancelled", cost=None)], Counter())

    assert minute["requests"] == minute["cancelled"] == minute["cached_answers"] == minute["unpriced"] == 1
    assert minute["errors"] == minute["refused"] == minute["cost"] == 0
    assert (minute["prompt"], minute["cached"], minute["completion"]) == (100, 40, 10)
    assert (minute["upstream_cost"], minute["ms"], minute["first_ms"], minute["firsts"]) == (1000, 500, 7, 1)


def test_the_sums_of_many_rows_are_those_of_each_added_up() -> None:
    ends: list[dict[str, Any]] = [
        {},
        {"status": "failed", "cost": None, "upstream_cost": None, "prompt": None, "cached": None, "completion": None},
        {"status": "interrupted", "first_ms": 250, "ms": 64_001},
        {"status": "cancelled", "first_ms": 9000, "ms": 501, "cache": "joined"},
        {"status": "credit", "cost": -77, "ms": 0},
        {"status": "presumed", "cost": 5, "ms": 0, "deployment": None},
        {"status": "ok", "cache": "hit", "cost": 0, "model": "another"},
    ]
    rows = [row(number, HOUR + 25 * number, **ends[number % len(ends)]) for number in range(70)]

    found = ledger.sums_of(rows, Counter())

    def by_place(sums: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
        places = ("span", "start", "key", "model", "deployment")
        added: Counter[tuple[Any, ...]] = Counter()
        for each in sums:
            for name in each.keys() - set(places):
                added[(*(each[place] for place in places), name)] += each[name]
        return added

    assert by_place(found) == by_place([each for one in rows for each in ledger.sums_of([one], Counter())])
    assert sum(each["requests"] for each in found if each["span"] == 900) == 60
    assert sum(each["ms_more"] for each in found if each["span"] == 900) == 10
    assert sum(each["first_250"] for each in found if each["span"] == 900) == 10


# What becomes a row


def test_a_row_tells_tokens_cost_and_times() -> None:
    found = booked(first_event=100.25)

    assert (found.prompt, found.cached, found.completion) == (100, 40, 10)
    assert (found.cost, found.upstream_cost) == (60 + 4 + 100, 60 + 4 + 100)
    assert (found.at, found.ms, found.first_ms, found.attempts) == (HOUR * 1000, 500, 250, 1)
    assert found.rates == '{"input":"0.001","cached_input":"0.0001","cache_write":"0.001","output":"0.01"}'


def test_a_model_without_a_price_has_no_cost_rather_than_none_to_pay() -> None:
    found = booked(deployment="unpriced/gpt")

    assert found.cost is None


def test_tokens_that_nobody_knows_have_no_cost() -> None:
    assert booked(usage=None, first_event=100.1).cost is None


def test_usage_of_zero_costs_nothing() -> None:
    assert booked(usage=Usage(0, 0), deployment="unpriced/gpt").cost == 0


def test_an_answer_that_was_kept_costs_nothing() -> None:
    found = booked(usage=Usage(0, 0), free=True, cache="hit", attempts=[])

    assert (found.cost, found.upstream_cost, found.status) == (0, 0, "ok")


def test_what_a_lost_attempt_took_is_not_for_the_key_to_pay() -> None:
    answered = record()
    answered.attempts.insert(0, AttemptRecord("openai/slow", "UpstreamBroken", 0.1, 0.2, Usage(100, 0)))
    found = entry_of(answered, price_of)

    assert isinstance(found, LedgerRow)
    assert (found.cost, found.upstream_cost) == (164, 264)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": 502, "error": "upstream_error"}, "failed"),
        ({"status": 499, "error": "cancelled"}, "cancelled"),
        ({"status": 200, "error": "upstream_error"}, "interrupted"),
        ({}, "ok"),
    ],
)
def test_the_end_of_a_request_is_one_of_four(fields: dict[str, Any], status: str) -> None:
    assert booked(**fields).status == status


def test_a_client_that_left_before_the_answer_began_pays_nothing() -> None:
    assert booked(status=499, error="cancelled", usage=None).cost == 0


def test_a_refused_request_is_counted_without_a_row() -> None:
    refused = record(status=429, attempts=[], model=None, deployment=None, usage=None)

    assert entry_of(refused, price_of) == Refusal(HOUR, "alice")


@pytest.mark.parametrize("fields", [{"caller": None}, {"model": None, "attempts": []}])
def test_what_concerns_no_account_is_not_booked(fields: dict[str, Any]) -> None:
    assert entry_of(record(**fields), price_of) is None


def test_names_that_a_database_would_refuse_are_mended(engine: Engine) -> None:
    found = booked(model="gpt\0" + "x" * 1000)

    book(engine, found)

    assert found.model == "gpt" + "x" * 253


def test_a_thousand_attempts_are_cut_to_what_is_kept() -> None:
    found = booked(attempts=[AttemptRecord(f"openai/{number}", "UpstreamFailed") for number in range(1000)])

    assert found.attempts == 1000
    assert found.tries is not None
    assert 10_000 < len(found.tries) <= 16 * 1024
