"""What is spent is the sum of the rows and what everything costs by another calculation, to the nano-dollar."""

import asyncio
import math
import os
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from one_api.accounts import changes, reports
from one_api.accounts.database import transact
from one_api.accounts.prices import Catalogue, Prices
from one_api.accounts.service import Accounts
from one_api.accounts.tables import LEASES, LEDGER, USAGE, WINDOWS
from one_api.contract import Answer, Caller, Usage
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.records import AttemptRecord, CallRecord
from one_api.settings.kinds import Storage
from one_api.settings.prices import PriceConfig, PricesConfig
from one_api.settings.sections import BudgetConfig, DatabaseConfig

LONG = pytest.mark.skipif("ONE_API_LONG" not in os.environ, reason="it takes minutes: set ONE_API_LONG, such as 100000")
#: US dollars per million tokens: input, cached input, cache write, output.
RATES = {
    "a/x": ("0.15", "0.075", "0.15", "0.6"),
    "a/y": ("3", "0.3", "3.75", "15"),
    "b/z": ("0.000123", "0.000001", "0.9", "77.77"),
}
PRICES = Prices(
    PricesConfig(
        models={
            name: PriceConfig(input=float(a), cached_input=float(b), cache_write=float(c), output=float(d))
            for name, (a, b, c, d) in RATES.items()
        }
    ),
    {},
    Catalogue({"date": "2026-01-01", "providers": {}}),
)
PROCESSES = 4


def expected_cost(deployment: str, usage: Usage) -> int:
    """What an answer costs, in nano-dollars, calculated with fractions."""
    plain, cached, written, output = (Fraction(each) * 1000 for each in RATES[deployment])
    rest = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    total = rest * plain + usage.cached_tokens * cached + usage.cache_write_tokens * written
    return math.ceil(total + usage.completion_tokens * output)


def random_usage(rng: random.Random) -> Usage:
    """Plausible counts, from none to very many."""
    prompt = rng.choice([0, 1, rng.randrange(100), rng.randrange(200_000)])
    cached = rng.randrange(prompt + 1) if rng.random() < 0.5 else 0
    written = rng.randrange(prompt - cached + 1) if rng.random() < 0.3 else 0
    return Usage(prompt, rng.choice([0, 1, rng.randrange(5000)]), cached, written)


async def serve(accounts: Accounts, number: int, rng: random.Random) -> int:
    """Serve one request of some kind; returns what its key owes."""
    record = CallRecord(f"req_{1_795_000_000_000 + number:012x}{number:020x}", "POST", "/v1/chat/completions")
    record.caller, record.model, record.status = f"key-{number % 3}", "m", 200
    call = ChatRequest.of({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
    within = accounts.within_budgets(Caller(record.caller), record, BudgetConfig(charge_cancelled="estimate"), PRICES)
    assert within is not None
    kind = rng.choice(["ok", "ok", "ok", "ok", "cancelled", "cut", "failed", "kept", "elsewhere"])
    usage, deployment = random_usage(rng), rng.choice(list(RATES))

    async def ask() -> Answer:
        if rng.random() < 0.01:
            await asyncio.sleep(0)
        record.attempts = [AttemptRecord(deployment, "ok", 0.1, 0.1, usage)]
        if kind == "elsewhere":
            record.attempts.insert(0, AttemptRecord("a/y", "UpstreamFailed", None, 0.1, Usage(10, 1)))
        record.deployment = deployment
        return {"choices": []}

    if kind == "kept":
        record.free, record.cache, record.deployment = True, "hit", deployment
        record.used(None)
    else:
        await within.ask(call, list(RATES), ask)
        record.first_event = record.started if kind in ("cancelled", "cut") else None
        record.usage = None if kind == "failed" else usage
    if kind == "failed":
        record.status = 502
    if kind == "cut":
        record.error = "upstream_error"
    record.end(cancelled=kind == "cancelled")
    accounts.book(record, PRICES)
    return 0 if kind in ("failed", "kept") else expected_cost(deployment, usage)


@pytest.mark.parametrize("times", [2000, pytest.param(int(os.environ.get("ONE_API_LONG", 0)), marks=LONG)])
async def test_all_of_it_adds_up(engine: Engine, address: str, tmp_path: Path, times: int) -> None:
    def set_budgets(connection: object) -> None:
        changes.create_key(connection, "tester", "key-0", {})  # type: ignore[arg-type]
        for name in ("all:total", "key:key-0:total"):
            changes.set_budget(connection, "tester", name, {"limit_usd": "100000000"})  # type: ignore[arg-type]

    transact(engine, set_budgets)
    processes = [Accounts(DatabaseConfig(url=Storage(address)), tmp_path) for _ in range(PROCESSES)]
    for each in processes:
        await each.start()
    rng, owed = random.Random(times), Counter[str]()
    for begin in range(0, times, 20):
        numbers = range(begin, min(begin + 20, times))
        found = await asyncio.gather(*(serve(processes[n % PROCESSES], n, rng) for n in numbers))
        for number, cost in zip(numbers, found, strict=True):
            owed[f"key-{number % 3}"] += cost
    for each in processes:
        await each.aclose()

    def sums(column: object, *where: object) -> int:
        return int(transact(engine, lambda c: c.scalar(select(func.sum(column)).where(*where))) or 0)  # type: ignore[arg-type]

    assert transact(engine, lambda c: c.scalar(select(func.count()).select_from(LEDGER))) == times
    assert sums(LEDGER.c.cost) == sums(WINDOWS.c.spent, WINDOWS.c.budget == "all:total") == owed.total()
    assert sums(WINDOWS.c.spent, WINDOWS.c.budget == "key:key-0:total") == owed["key-0"]
    for key, cost in owed.items():
        assert sums(USAGE.c.cost, USAGE.c.span == 900, USAGE.c.key == key) == cost
    assert sums(USAGE.c.requests, USAGE.c.span == 900) == times
    assert sums(LEASES.c.amount) == 0
    assert transact(engine, lambda c: reports.wrong_windows(c, 0)) == []
