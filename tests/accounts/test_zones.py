"""Time zones: days of usage are exact in each, and a budget keeps what was spent when its zone is changed."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, select

from one_api.accounts import changes, ledger, reports
from one_api.accounts.budgets import Budget, budget_in
from one_api.accounts.database import transact
from one_api.accounts.ledger import LedgerRow, charged_text
from one_api.accounts.money import nano
from one_api.accounts.periods import zone_named
from one_api.accounts.tables import BUDGETS, USAGE
from one_api.accounts.windows import states
from tests.accounts.rows import HOUR, row

#: Far to the east and to the west, at a half and at a quarter of an hour, with summer time, and of no place.
ZONES = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "Asia/Kolkata", "America/New_York",
         "Europe/Berlin", "Australia/Lord_Howe", "Etc/GMT+12", "Etc/GMT-12")  # fmt: skip
#: Nobody waits for it.
LIMIT = {"limit_usd": "1000000"}


def spent_of(engine: Engine, budget: Budget, second: float) -> int:
    """What is spent of the window of a moment."""
    ((spent, _),) = transact(engine, lambda c: list(states(c, [budget], second)))
    return spent


class Books:
    """One budget, and the rows that were booked for it."""

    def __init__(self, engine: Engine, period: str, zone: str) -> None:
        self.engine, self.name = engine, f"all:{period}"
        self.rows: list[LedgerRow] = []
        self.set_zone(zone)

    def budget(self) -> Budget:
        """The budget as the database has it."""
        return budget_in(transact(self.engine, lambda c: c.execute(select(BUDGETS)).one()))

    def set_zone(self, zone: str) -> None:
        """Change its zone."""
        transact(self.engine, lambda c: changes.set_budget(c, "tester", self.name, {**LIMIT, "zone": zone}))

    def remove(self) -> None:
        """End it."""
        transact(self.engine, lambda c: changes.remove_budget(c, "tester", self.name))

    def made(self, seconds: list[int], costs: list[int], budget: Budget) -> list[LedgerRow]:
        """Rows of these moments, each charged to the window that ``budget`` has then."""
        made = []
        for second, cost in zip(seconds, costs, strict=True):
            charged = charged_text(((self.name, budget.window(second).start),))
            made.append(row(len(self.rows), second, cost=cost, charged=charged))
            self.rows.append(made[-1])
        return made

    def book(self, rows: list[LedgerRow]) -> None:
        """Book them."""
        transact(self.engine, lambda c: ledger.book(c, rows, Counter(), again=False))

    def check(self) -> None:
        """Compare what is spent of the window of now with the rows since it began, and all windows with theirs."""
        budget, now = self.budget(), time.time()
        start = budget.window(now).start
        assert spent_of(self.engine, budget, now) == sum(
            each.cost or 0 for each in self.rows if each.at >= start * 1000
        ), budget
        assert transact(self.engine, lambda c: reports.wrong_windows(c, 0)) == []


def test_days_and_hours_of_usage_are_exact_in_every_zone(engine: Engine) -> None:
    # Sixteen days at each thirteen minutes; clocks change on some of them in Europe and Australia.
    seconds = range(1_774_000_800, 1_774_000_800 + 16 * 111 * 780, 780)
    rows = [row(number, second, cost=number) for number, second in enumerate(seconds)]
    for begin in range(0, len(rows), 1000):
        transact(engine, lambda c, b=begin: ledger.book(c, rows[b : b + 1000], Counter(), again=False))  # type: ignore[misc]

    for name in (*ZONES, "Asia/Tehran", "Pacific/Chatham", "Australia/Eucla", "America/St_Johns"):
        zone = zone_named(name)
        local = [datetime.fromtimestamp(second, zone) for second in seconds]
        moments = {
            "day": [each.date().isoformat() for each in local],
            "hour": [each.replace(minute=0).isoformat() for each in local],
        }
        for by, texts in moments.items():
            expected = Counter[str]()
            for number, text in enumerate(texts):
                expected[text] += number
            found = transact(engine, lambda c, by=by, zone=zone: reports.usage(c, [by], 0, 2 * 10**9, zone))  # type: ignore[misc]
            assert {each[by]: nano(Decimal(each["cost_usd"])) for each in found.rows} == expected, name


def test_sums_by_the_hour_of_a_program_of_before_count_and_go(engine: Engine) -> None:
    transact(
        engine, lambda c: ledger.book(c, [row(1, HOUR, cost=5), row(2, HOUR + 3600, cost=6)], Counter(), again=False)
    )
    of_before = USAGE.update().where(USAGE.c.span == 900, USAGE.c.start == HOUR).values(span=3600)
    transact(engine, lambda c: c.execute(of_before))

    def cost() -> str:
        found = transact(engine, lambda c: reports.usage(c, ["key"], HOUR, HOUR + 7200, zone_named("UTC")))
        return str(found.total["cost_usd"])

    assert cost() == "0.000000011"
    transact(engine, lambda c: ledger.forget_sums(c, by_minute=False, before_s=HOUR + 1))
    assert cost() == "0.000000006"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("period", ["day", "week", "month"])
def test_after_each_change_the_window_of_now_has_what_was_spent_since_it_began(
    engine: Engine, period: str, seed: int
) -> None:
    rng, now = random.Random(f"{period} {seed}"), int(time.time())
    books = Books(engine, period, rng.choice(ZONES))
    ages = [*(rng.randrange(70 * 86400) for _ in range(60)), *(rng.randrange(40 * 3600) for _ in range(60))]
    books.book(books.made([now - age for age in ages], [rng.randrange(1, 10**6) for _ in ages], books.budget()))
    for step in range(6):
        before = books.budget()
        late = books.made([now - 60 * n for n in range(5)], [7**n for n in range(5)], before)
        if step == 3:
            books.remove()
        books.set_zone(rng.choice(ZONES))
        books.book(late)  # they were under way
        books.check()


def test_what_was_deleted_of_the_ledger_stays_spent(engine: Engine) -> None:
    now = int(time.time())
    books = Books(engine, "month", "UTC")
    start = books.budget().window(now).start
    books.book(books.made([start + 1, start + 2, now], [5, 6, 7], books.budget()))
    transact(engine, lambda c: ledger.forget(c, now * 1000, 100))

    for zone in ("Asia/Shanghai", "America/New_York", "UTC"):
        books.set_zone(zone)
        budget = books.budget()
        if abs(budget.window(now).start - start) < 2 * 86400:  # else another month has begun there, or not yet
            assert spent_of(engine, budget, now) == 18, zone


def test_the_corrections_are_in_no_sum_of_usage(engine: Engine) -> None:
    now = int(time.time())
    books = Books(engine, "day", "UTC")
    books.book(books.made([now], [5], books.budget()))
    before = _usage(engine, now)

    books.set_zone(_other_zone(now))

    assert _usage(engine, now) == before
    corrections = transact(engine, lambda c: reports.requests(c, status="credit")).rows
    assert sorted(each["cost_usd"] for each in corrections) == ["-0.000000005", "0.000000005"]


def _usage(engine: Engine, now: int) -> Any:
    return transact(engine, lambda c: reports.usage(c, ["key"], now - 86400, now + 86400, zone_named("UTC")))


def _other_zone(now: int) -> str:
    """A zone with the same offset for ever, in which the day began at another moment, and that is not about to end."""
    begun = [hours for hours in range(-12, 13) if hours and 2 <= (now // 3600 + hours) % 24 <= 21]
    return f"Etc/GMT{-begun[0]:+d}"


def test_a_change_while_rows_are_booked_loses_none(engine: Engine) -> None:
    """Each booker has its own connection, and knows the zone as it was some time ago."""
    now = int(time.time())
    books = Books(engine, "day", "UTC")
    zones = [_other_zone(now), "UTC"] * 10
    known = [books.budget()]

    def book(number: int) -> None:
        books.book(books.made([now], [number + 1], known[max(0, len(known) - 1 - number % 3)]))

    def change() -> None:
        for zone in zones:
            books.set_zone(zone)
            known.append(books.budget())

    with ThreadPoolExecutor(4) as threads:
        changing = threads.submit(change)
        list(threads.map(book, range(200)))
        changing.result()

    books.check()
