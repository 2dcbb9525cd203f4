"""Budgets behind the real gateway: never overspent, and everything that was spent is a row of the ledger."""

import contextlib
import itertools
import json
import math
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select

from one_api.accounts import changes, reports
from one_api.accounts.database import open_engine, transact
from one_api.accounts.money import dollars
from one_api.accounts.tables import LEASES, LEDGER, WINDOWS
from tests.accounts.patient import PatientBed
from tests.api.bed import ADMIN_KEY, Answer, Bed, adapter, yaml
from tests.support import (
    Gateway,
    Hang,
    Reset,
    ScriptedUpstream,
    build_request,
    completion,
    error,
    json_reply,
    post_chat,
    sse,
    text_chunks,
    tokens,
)

#: A prompt costs nothing, and each token of an answer a unit of 0.001 USD.
PRICES: Any = {
    "models": {
        "a/mixed-*": {"input": 0.15, "cached_input": 0.07, "output": 0.6},
        "a/*": {"input": 0, "output": 1000},
        "b/*": {"input": 0, "output": 1000},
    }
}
UNIT = 1_000_000
#: For what takes minutes: it is set to a number of requests.
LONG = pytest.mark.skipif("ONE_API_LONG" not in os.environ, reason="it takes minutes: set ONE_API_LONG, such as 100000")


@contextlib.contextmanager
def gateway_on(
    database: str, workers: int, *, within: Sequence[str] = (), kind: type[Bed] = PatientBed, **sections: Any
) -> Iterator[Bed]:
    """A gateway of so many processes over two upstreams; ``within`` is a command that becomes the one after it.

    ``kind`` is ``Bed`` where it is tested how long a client waits at most.
    """
    with ScriptedUpstream() as a, ScriptedUpstream() as b:
        names = [f"{kind}-{number}" for kind in ("solo", "pair", "mixed") for number in range(60)]
        adapters = {
            "a": adapter(a, [*names, "mixed-x"], weight=1000),
            "b": adapter(b, [name for name in names if "pair" in name], weight=1),
            "c": adapter(b, ["free"]),
        }
        gateway = Gateway(
            env={"DATABASE_URL": database, "RATE_LIMIT_ENABLED": "false"},
            config_yaml=yaml(adapters=adapters, prices=PRICES, server={"workers": workers}, **sections),
            within=within,
            start_timeout_s=60.0,
        )
        with gateway:
            yield kind(gateway, {"a": a, "b": b})


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[Bed]:
    """Four processes with one database."""
    with gateway_on(database, 4) as running:
        running.gateway.worker_pids(4)
        warm_up(running, open_engine(database, Path()))
        yield running


@pytest.fixture(scope="module")
def engine(database: str, bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Wait for what another process does, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Account:
    """A key of its own with a budget."""

    #: The database has changes of keys wait for one another, and one of many busy threads may be slow to end its own.
    _changing = threading.Lock()

    def __init__(
        self, engine: Engine, units: float, period: str = "total", team: str | None = None, **fields: Any
    ) -> None:
        self.engine = engine
        self.name = f"key-{secrets.token_hex(4)}"
        self.budget = f"key:{self.name}:{period}"
        with self._changing:
            self.key = transact(engine, lambda c: self._made(c, units, team, fields))

    def _made(self, connection: Connection, units: float, team: str | None, fields: dict[str, Any]) -> str:
        """Make both at once: no process shall know the key without its budget."""
        text, _ = changes.create_key(connection, "tester", self.name, {} if team is None else {"team": team})
        self._set(connection, units, fields)
        return text

    def _set(self, connection: Connection, units: float, fields: dict[str, Any]) -> None:
        values = {"limit_usd": f"{units / 1000:.9f}", **fields}
        changes.set_budget(connection, "tester", self.budget, values)

    def set(self, units: float, **fields: Any) -> None:
        """Change the budget."""
        with self._changing:
            transact(self.engine, lambda c: self._set(c, units, fields))

    def call_back(self) -> None:
        """Have processes give back what is idle."""
        query = WINDOWS.update().where(WINDOWS.c.budget == self.budget).values(wanted=WINDOWS.c.wanted + 1)
        transact(self.engine, lambda c: c.execute(query))

    def spent(self) -> float:
        """What is spent, in units."""
        query = select(func.sum(WINDOWS.c.spent)).where(WINDOWS.c.budget == self.budget)
        return int(transact(self.engine, lambda c: c.scalar(query)) or 0) / UNIT

    def leases(self) -> list[float]:
        """What each process holds, in units."""
        query = select(LEASES.c.amount).where(LEASES.c.budget == self.budget)
        return [amount / UNIT for amount in transact(self.engine, lambda c: c.scalars(query).all())]

    def leased(self) -> float:
        """What processes hold, in units."""
        return sum(self.leases())

    def rows(self) -> list[dict[str, Any]]:
        """Its rows of the ledger."""
        query = select(LEDGER).where(LEDGER.c.key == self.name).order_by(LEDGER.c.id)
        return transact(self.engine, lambda c: [dict(row) for row in c.execute(query).mappings()])


def ask_at_once(bed: Bed, model: str, account: Account, times: int, **fields: Any) -> list[Answer]:
    """The answers to requests that race for all processes."""
    with ThreadPoolExecutor(100) as clients:
        asked = clients.map(lambda n: bed.ask(model, key=account.key, seed=n, **fields), range(times))
        return list(asked)


def warm_up(bed: Bed, engine: Engine) -> None:
    """Have every process open its connections: how long the first requests of a busy machine take is not at stake."""
    account = Account(engine, 1000)
    ask_at_once(bed, unit_model(bed), account, 40, max_tokens=1)


def unit_model(bed: Bed, completion_tokens: int = 1) -> str:
    """A model whose answers cost so many units each."""
    model = bed.model()
    bed.a.on(model, json_reply(completion("x", usage=tokens(5, completion_tokens))))
    return model


@pytest.fixture
def unit(bed: Bed) -> str:
    """A model whose answers cost a unit each."""
    return unit_model(bed)


def test_of_two_hundred_at_once_as_many_are_let_in_as_there_are_units(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 50)

    answers = ask_at_once(bed, unit, account, 200, max_tokens=1)

    assert Counter(answer.status for answer in answers) == {200: 50, 429: 150}
    until(lambda: account.spent() == 50)
    assert len(account.rows()) == 50
    until(lambda: account.leased() == 0)


def test_while_the_zone_of_a_budget_changes_again_and_again_no_unit_is_there_twice(
    bed: Bed, engine: Engine, unit: str
) -> None:
    zones = day_zones()
    account, stop = Account(engine, 150, "day", zone=zones[0]), threading.Event()

    def change() -> None:
        while not stop.is_set():
            for zone in zones:
                account.set(150, zone=zone)
                stop.wait(0.3)

    with ThreadPoolExecutor(1) as changing:
        changes_made = changing.submit(change)
        try:
            answers = [answer for _ in range(4) for answer in ask_at_once(bed, unit, account, 60, max_tokens=1)]
        finally:
            stop.set()
        changes_made.result()

    assert Counter(answer.status for answer in answers) == {200: 150, 429: 90}
    check_books(engine, account)
    for zone in zones:
        account.set(150, zone=zone)
        (shown,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == account.budget]
        assert (shown["spent_usd"], shown["held_usd"], shown["zone"]) == ("0.15", "0", zone)
    assert transact(engine, lambda c: reports.wrong_windows(c, 0)) == []


def day_zones() -> list[str]:
    """Zones whose days have begun at different moments, and do not end or begin in the next hours."""
    hours = [each for each in range(-12, 13) if each and 2 <= (time.time() // 3600 + each) % 24 <= 20]
    return ["Asia/Kolkata"] * (2 <= (time.time() // 3600 + 5.5) % 24 <= 20) + [
        f"Etc/GMT{-each:+d}" for each in hours[::4]
    ]


def check_books(engine: Engine, account: Account) -> None:
    """Wait until nothing is held, and compare what is spent with the rows."""
    account.call_back()
    until(lambda: account.leased() == 0, 30.0)
    rows = account.rows()
    assert account.spent() * UNIT == sum(row["cost"] for row in rows if row["charged"])
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_refusal_names_the_budget_and_when_it_renews(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 10, "day", zone="Asia/Shanghai")

    answer = bed.ask(unit, key=account.key, max_tokens=11)

    assert (answer.status, answer.error["type"], answer.error["code"]) == (429, "insufficient_quota", "budget_exceeded")
    message = answer.error["message"]
    assert f"0.01 USD of each day for the key {account.name} has 0.01 USD left" in message
    assert "may cost up to 0.011 USD" in message
    assert "T00:00:00+08:00" in message
    assert answer.header("x-should-retry") == "false"
    assert 1 <= int(answer.header("retry-after") or 0) <= 86400
    assert bed.ask(unit, key=account.key, max_tokens=10).status == 200


def test_what_a_request_does_not_use_is_there_for_the_next(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 10)

    # All are in one process or not: what is idle in one is given to the other.
    assert [bed.ask(unit, key=account.key, max_tokens=8).status for _ in range(3)] == [200] * 3
    assert bed.ask(unit, key=account.key, max_tokens=8).status == 429

    check_books(engine, account)
    assert account.spent() == 3


def test_an_answer_that_costs_more_than_was_reserved_is_charged_whole(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 10), unit_model(bed, 25)

    assert bed.ask(model, key=account.key, max_tokens=10).status == 200
    until(lambda: account.spent() == 25)

    assert bed.ask(model, key=account.key, max_tokens=1).status == 429
    check_books(engine, account)


def test_a_model_without_a_price_is_refused_where_a_budget_binds(bed: Bed, engine: Engine) -> None:
    account = Account(engine, 10)

    refused = bed.ask("c/free", key=account.key)

    assert (refused.status, refused.error["code"]) == (503, "unpriced")
    assert "prices.models" in refused.error["message"]
    assert bed.ask("c/free").status == 200


def test_budgets_of_a_team_and_of_all_bind_too(bed: Bed, engine: Engine, unit: str) -> None:
    team = f"team-{secrets.token_hex(4)}"

    def set_up(c: Connection) -> None:
        changes.create_team(c, "tester", team, {})
        changes.set_budget(c, "tester", f"team:{team}:month", {"limit_usd": "0.005"})

    transact(engine, set_up)
    account, other = Account(engine, 100, team=team), Account(engine, 100, team=team)
    assert ask_statuses(bed, unit, [account, other] * 10) == {200: 5, 429: 15}

    transact(engine, lambda c: changes.remove_budget(c, "tester", f"team:{team}:month"))
    until(lambda: bed.ask(unit, key=account.key, max_tokens=6).status == 200)
    check_books(engine, account)


def ask_statuses(bed: Bed, model: str, accounts: list[Account]) -> Counter[int]:
    """The statuses of requests of these at once."""
    with ThreadPoolExecutor(len(accounts)) as clients:
        asked = clients.map(lambda each: bed.ask(model, key=each.key, max_tokens=1).status, accounts)
        return Counter(asked)


def test_an_alert_is_logged_once(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 10, alert_percent=50)

    assert Counter(answer.status for answer in ask_at_once(bed, unit, account, 12, max_tokens=1)) == {200: 10, 429: 2}
    check_books(engine, account)

    bed.gateway.wait_for_log(f"budget {account.budget} has reached 100 %")
    lines = [line for line in bed.gateway.log.splitlines() if f"budget {account.budget} has reached" in line]
    assert 1 <= len(lines) <= 2  # 50 and 100, or both at once
    assert len(set(lines)) == len(lines)


# What people see and change


def admin(bed: Bed, method: str, path: str, body: Any = None) -> Answer:
    """Ask the address for administrators."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = [("Authorization", f"Bearer {ADMIN_KEY}"), ("Content-Type", "application/json")]
    host, port = bed.gateway.host, bed.gateway.port
    return bed.send(build_request(method, f"/admin/api{path}", host, port, headers=headers, body=data))


def test_administrators_set_credit_and_remove_budgets(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 100)
    path = f"/budgets/key:{account.name}:day"

    made = admin(bed, "PUT", path, {"limit_usd": "0.002", "zone": "Asia/Shanghai"})
    assert (made.status, made.json["limit_usd"], made.json["zone"]) == (200, "0.002", "Asia/Shanghai")
    assert {bed.ask(unit, key=account.key, max_tokens=3).status for _ in range(8)} == {429}
    assert admin(bed, "PUT", path, {"limit_usd": "0.003"}).status == 200
    assert bed.ask(unit, key=account.key, max_tokens=3).status == 200
    until(lambda: account.spent() == 1)

    assert admin(bed, "POST", f"{path}/credit", {"usd": "0.001", "note": "a gift"}).status == 200
    (listed,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == path[9:]]
    assert (listed["spent_usd"], listed["remaining_usd"]) == ("0", "0.003")
    assert listed["resets_at"].endswith("T00:00:00+08:00")

    assert admin(bed, "DELETE", path).status == 200
    assert bed.ask(unit, key=account.key, max_tokens=4).status == 200
    actions = [line["action"] for line in admin(bed, "GET", "/audit").json["data"] if line["target"] == path[9:]]
    assert actions == ["remove budget", "credit budget", "set budget", "set budget"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/budgets/month", {"limit_usd": "1"}, 400),
        ("PUT", "/budgets/all:year", {"limit_usd": "1"}, 400),
        ("PUT", "/budgets/key:nobody:day", {"limit_usd": "1"}, 404),
        ("PUT", "/budgets/all:month", {"limit_usd": 1}, 400),
        ("PUT", "/budgets/all:month", {"limit_usd": "-1"}, 400),
        ("PUT", "/budgets/all:month", {}, 400),
        ("PUT", "/budgets/all:month", {"limit_usd": "1", "zone": "Mars"}, 400),
        ("PUT", "/budgets/all:month", {"limit_usd": "1", "alert_percent": 101}, 400),
        ("POST", "/budgets/all:week/credit", {"usd": "1"}, 404),
        ("DELETE", "/budgets/all:week", None, 404),
    ],
)
def test_a_slip_is_told(bed: Bed, method: str, path: str, body: Any, status: int) -> None:
    answer = admin(bed, method, path, body)

    assert (answer.status, bool(answer.error["message"])) == (status, True)


def test_a_keys_holder_sees_its_budgets(bed: Bed, engine: Engine, unit: str) -> None:
    account = Account(engine, 10)
    assert bed.ask(unit, key=account.key, max_tokens=1).status == 200
    until(lambda: account.spent() == 1)

    (budget,) = bed.get("/v1/usage", key=account.key).json["budgets"]
    subscription = bed.get("/dashboard/billing/subscription", key=account.key).json

    assert (budget["name"], budget["limit_usd"], budget["spent_usd"]) == (account.budget, "0.01", "0.001")
    assert (budget["remaining_usd"], budget["resets_at"]) == ("0.009", None)
    assert subscription["hard_limit_usd"] == 0.01
    assert bed.get("/v1/usage").json["budgets"] == []


# How an answer ends, and what it costs


def row_of(account: Account) -> dict[str, Any]:
    """The one row of an account, once it is there."""
    (row,) = until(account.rows)
    return row  # type: ignore[no-any-return]


def test_a_stream_that_is_cut_is_charged_for_what_was_sent(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 1000), bed.model()
    bed.a.on(model, sse(*text_chunks(*["abc"] * 40, finish=None), Reset(), done=False))

    answer = bed.ask(model, key=account.key, stream=True, max_tokens=100)
    row = row_of(account)

    assert answer.stream_error is not None
    assert (row["status"], row["estimated"]) == ("interrupted", True)
    assert len(answer.text) / 3 <= row["completion"] <= len(answer.text) / 3 + 2
    assert row["cost"] == row["completion"] * UNIT
    check_books(engine, account)


def test_a_client_that_leaves_pays_for_what_was_sent(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 1000), bed.model()
    bed.a.on(model, sse(*text_chunks(*["abc"] * 10, finish=None), Hang(), done=False))
    bed.waived.add(model)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 99}
    with bed.connect() as client:
        client.send(post_chat(bed.gateway.host, bed.gateway.port, body, account.key))
        events = client.iter_events(client.read_head())
        for _ in range(11):
            next(events)

    row = row_of(account)

    assert (row["status"], row["estimated"]) == ("cancelled", True)
    assert 10 * UNIT <= row["cost"] <= 12 * UNIT
    check_books(engine, account)


def test_a_whole_answer_without_usage_is_estimated_and_usage_of_zero_is_not(bed: Bed, engine: Engine) -> None:
    silent, nothing = Account(engine, 1000), Account(engine, 1000)
    models = bed.model(), bed.model()
    bed.a.on(models[0], json_reply({**completion("abcdef"), "usage": None}))
    bed.a.on(models[1], json_reply(completion("abcdef", usage=tokens(0, 0))))

    for account, model in zip((silent, nothing), models, strict=True):
        assert bed.ask(model, key=account.key, max_tokens=9).status == 200

    assert (row_of(silent)["estimated"], row_of(silent)["cost"]) == (True, 2 * UNIT)
    assert (row_of(nothing)["estimated"], row_of(nothing)["cost"]) == (None, 0)


#: What an upstream reports, and the tokens of prompt and completion that are booked; None is an estimate, for an answer
#: of six bytes.
REPORTED: dict[str, tuple[Any, tuple[int, int] | None]] = {
    "negative": ({"prompt_tokens": -5, "completion_tokens": -1}, (0, 0)),
    "beyond all measure": ({"prompt_tokens": 1e308, "completion_tokens": 2}, (1_000_000_000, 2)),
    "a text": ({"prompt_tokens": "12", "completion_tokens": 3}, (12, 3)),
    "more cached than there is": (
        {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 900}},
        (10, 3),
    ),
    "a total": ({"total_tokens": 15, "completion_tokens": 3}, (12, 3)),
    "nothing": ({}, None),
    "nulls": ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, None),
    "a list": ([], None),
}


@pytest.fixture(scope="module")
def absurd(bed: Bed, engine: Engine) -> dict[tuple[str, bool], Account]:
    """Accounts that each have asked for one of them, whole or as a stream: rows are written once a second."""
    asked = {}
    for number, (reported, stream) in enumerate(itertools.product(REPORTED, (False, True))):
        account, model, usage = Account(engine, 1_000_000), f"mixed-{20 + number}", REPORTED[reported][0]
        whole = json_reply({**completion("abcdef"), "usage": usage})
        bed.a.on(model, sse(*text_chunks("abc", "def", usage=usage)) if stream else whole)
        assert bed.ask(model, key=account.key, stream=stream, max_tokens=9).status == 200
        asked[reported, stream] = account
    return asked


@pytest.mark.parametrize("reported", REPORTED)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_absurd_usage_is_clamped_and_missing_usage_is_estimated(
    engine: Engine, absurd: dict[tuple[str, bool], Account], reported: str, stream: bool
) -> None:
    account, booked = absurd[reported, stream], REPORTED[reported][1]

    row = row_of(account)

    assert row["estimated"] is (None if booked else True)
    assert (row["prompt"], row["completion"]) == (booked or (row["prompt"], 2))
    assert row["prompt"] > 0 or booked
    assert row["cost"] == cost_of(row["prompt"], min(row["prompt"], row["cached"]), row["completion"])
    check_books(engine, account)


def test_a_failed_request_costs_nothing_and_holds_nothing(bed: Bed, engine: Engine) -> None:
    account, model = Account(engine, 10), bed.model()
    bed.a.on(model, error(400))

    assert [bed.ask(model, key=account.key, max_tokens=10).status for _ in range(3)] == [400] * 3

    check_books(engine, account)
    assert account.spent() == 0


@pytest.mark.parametrize("times", [400, pytest.param(int(os.environ.get("ONE_API_LONG", 0)), marks=LONG)])
def test_what_is_spent_is_what_everything_costs_together(bed: Bed, engine: Engine, times: int) -> None:
    account = Account(engine, 1_000_000, "month")
    usages = [(7, 0, 1), (1000, 900, 33), (0, 0, 0), (123_457, 1, 98_765), (31, 31, 3)]
    for number, (prompt, cached, said) in enumerate(usages):
        usage = {**tokens(prompt, said), "prompt_tokens_details": {"cached_tokens": cached}}
        bed.a.on(f"mixed-{number}", json_reply(completion("x", usage=usage)))
        bed.a.on(f"mixed-{number + 5}", sse(*text_chunks("x", usage=usage)))
    bed.a.on("mixed-x", error(400))
    models = ["mixed-x", *(f"mixed-{number}" for number in range(10))]
    chosen = random.Random(times).choices(models, k=times)

    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(lambda m: bed.ask(m, key=account.key, stream=m in models[6:]), chosen))

    assert Counter(answer.status for answer in answers) == Counter(400 if m == "mixed-x" else 200 for m in chosen)
    expected = sum(cost_of(*usages[int(m[-1]) % 5]) for m in chosen if m != "mixed-x")
    until(lambda: len(account.rows()) == times, 60.0)
    assert sum(row["cost"] for row in account.rows()) == expected
    until(lambda: account.spent() * UNIT == expected)
    check_books(engine, account)


def cost_of(prompt: int, cached: int, said: int) -> int:
    """What an answer costs by the prices above, in nano-dollars."""
    return math.ceil(Fraction(prompt - cached) * 150 + Fraction(cached) * 70 + Fraction(said) * 600)


def test_two_gateways_with_one_database_let_in_as_many_as_there_are_units_together(
    bed: Bed, database: str, engine: Engine, unit: str
) -> None:
    if database.startswith("sqlite"):
        pytest.skip("a file is for one machine")
    account = Account(engine, 50)
    with gateway_on(database, 1) as other:
        warm_up(other, engine)
        other.a.on(unit, json_reply(completion("x", usage=tokens(5, 1))))
        with ThreadPoolExecutor(2) as both:
            found = list(both.map(lambda each: ask_at_once(each, unit, account, 100, max_tokens=1), (bed, other)))

    assert Counter(answer.status for answers in found for answer in answers) == {200: 50, 429: 150}
    until(lambda: account.spent() == 50)
    check_books(engine, account)


# Processes that die


def test_nothing_is_lost_when_processes_are_killed(bed: Bed, engine: Engine, unit: str) -> None:
    kill_under_load(bed, engine, unit, times=2)


def test_nothing_is_lost_when_processes_are_killed_while_the_zone_changes(bed: Bed, engine: Engine, unit: str) -> None:
    kill_under_load(bed, engine, unit, times=2, zones=day_zones())


@LONG
def test_nothing_is_lost_when_processes_are_killed_again_and_again(bed: Bed, engine: Engine, unit: str) -> None:
    kill_under_load(bed, engine, unit, times=20)


def kill_under_load(bed: Bed, engine: Engine, model: str, times: int, zones: Sequence[str] = ("UTC",)) -> None:
    """Kill processes at random moments: every answer has its row, none has two, and nothing is held at the end."""
    account, stop = Account(engine, 10_000_000, "day" if len(zones) > 1 else "total", zone=zones[0]), threading.Event()
    answered: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, EOFError, AssertionError):
                answer = bed.ask(model, key=account.key, max_tokens=2)
                if answer.status == 200:
                    answered.append(answer.header("x-request-id") or "")

    def change() -> None:
        for zone in itertools.cycle(zones[1:]):
            if stop.wait(0.2):
                return
            account.set(10_000_000, zone=zone)

    threads = [*(threading.Thread(target=ask) for _ in range(8)), threading.Thread(target=change)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            before = len(answered)
            until(lambda before=before: len(answered) >= before + random.randrange(20, 200), 60.0)  # type: ignore[misc]
            os.kill(random.choice(bed.gateway.worker_pids(1, 30.0)), signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    until(lambda: len(bed.gateway.worker_pids(4, 60.0)) == 4, 60.0)

    def missing() -> set[str]:
        return set(answered) - {row["id"] for row in account.rows()}

    until(lambda: not missing(), 60.0)
    check_books(engine, account)
    presumed = [row for row in account.rows() if row["status"] == "presumed"]
    assert {row["cost"] for row in presumed} <= {2 * UNIT}
    (shown,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == account.budget]
    assert shown["spent_usd"] == dollars(sum(row["cost"] for row in account.rows()))
    assert transact(engine, lambda c: reports.wrong_windows(c, 0)) == []
    assert not {row["id"] for row in presumed} & set(answered)
    assert len(presumed) <= 8 * times
