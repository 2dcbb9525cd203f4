"""The commands that work on the database and the prices, with a gateway or without one."""

import csv
import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import Connection, Engine, select

from one_api.accounts import changes, ledger
from one_api.accounts.database import open_engine, transact
from one_api.accounts.journal import Journal, journals_of
from one_api.accounts.keys import digest_of, is_ours
from one_api.accounts.ledger import Refusal
from one_api.accounts.opening import open_database
from one_api.accounts.tables import AUDIT, LEASES, META, METADATA, RESPONSES, USAGE, WINDOWS
from one_api.app import create_app
from one_api.config import Config
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.rows import load, row

NOW = int(time.time())


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, address: str, tmp_path: Path) -> Iterator[Flask]:
    """An application whose environment names the database; the log is left as it was."""
    settings = {
        "ONE_API_ENV_FILE": os.devnull,
        "DATABASE_URL": address,
        "OPENAI_API_KEY": "sk-test",
        "LOCAL_MODELS_ENABLED": "true",
        "LOCAL_MODELS_DIR": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ONE_API_CONFIG", raising=False)
    logger = logging.getLogger("one_api")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield create_app(Config())
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def run(app: Flask, *arguments: str) -> Result:
    """Run a command in this process."""
    return app.test_cli_runner().invoke(args=arguments)


def booked(engine: Engine, *rows: Any) -> None:
    """Put rows into the ledger."""
    transact(engine, lambda connection: ledger.book(connection, list(rows), Counter(), again=False))


def test_usage_adds_up(app: Flask, engine: Engine) -> None:
    booked(engine, row(1, NOW), row(2, NOW, key="bob", cost=5), row(3, NOW, cost=None), row(4, NOW - 40 * 86400))

    done = run(app, "usage", "--by", "key", "--as", "json")

    alice, bob, total = json.loads(done.stdout)
    assert (alice["key"], alice["requests"], alice["cost_usd"], alice["unpriced"]) == ("alice", 2, "0.000001", 1)
    assert (bob["requests"], bob["cost_usd"]) == (1, "0.000000005")
    assert (total["key"], total["requests"], total["cost_usd"]) == ("", 3, "0.000001005")


@pytest.mark.parametrize("by", ["day", "hour,key", "minute", "model,deployment,day"])
def test_usage_is_told_by_time(app: Flask, engine: Engine, by: str) -> None:
    booked(engine, row(1, NOW), row(2, NOW - 60))

    done = run(app, "usage", "--by", by, "--since", "1d", "--zone", "Asia/Shanghai", "--as", "json")

    *rows, total = json.loads(done.stdout)
    assert sum(each["requests"] for each in rows) == total["requests"] == 2
    assert set(by.split(",")) <= rows[0].keys()


def test_a_name_that_looks_like_a_formula_is_a_text_in_csv(app: Flask, engine: Engine) -> None:
    booked(engine, row(1, NOW, key='=HYPERLINK("x")'))

    rows = list(csv.reader(run(app, "usage", "--by", "key", "--as", "csv").stdout.splitlines()))

    assert [line[0] for line in rows] == ["key", '\'=HYPERLINK("x")', ""]


def test_a_table_is_for_people(app: Flask, engine: Engine) -> None:
    booked(engine, row(1, NOW))

    lines = run(app, "usage").stdout.splitlines()

    assert lines[0].split()[:3] == ["key", "model", "requests"]
    assert lines[1].split()[:3] == ["alice", "gpt", "1"]
    assert lines[2].split()[:2] == ["total", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["usage", "--by", "moon"], "usage is not kept by moon"),
        (["usage", "--since", "yesterday"], "90m, 12h, 30d or 2w"),
        (["usage", "--zone", "Mars"], "no time zone"),
    ],
)
def test_a_slip_is_told_in_a_sentence(app: Flask, arguments: list[str], said: str) -> None:
    done = run(app, *arguments)

    assert done.exit_code == 1
    assert said in done.output


def test_prices_are_shown_with_their_source(app: Flask) -> None:
    known, local, unknown = (
        run(app, "prices", "show", model).stdout for model in ("openai/gpt-5-mini", "local/any", "openai/any")
    )

    assert "openai/gpt-5-mini: {" in known
    assert "catalogue of" in known
    assert "costs nothing" in local
    assert unknown == "openai/any: unknown. Set prices.models in the configuration\n"


def test_a_file_that_is_no_catalogue_is_not_imported(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("{}")

    done = run(app, "prices", "import", str(tmp_path / "file.json"))

    assert done.exit_code == 1
    assert "no catalogue" in done.output


def test_a_backup_holds_what_was_there(app: Flask, engine: Engine, tmp_path: Path) -> None:
    booked(engine, row(1, NOW))

    done = run(app, "db", "export", str(tmp_path / "copy.db"))

    if engine.dialect.name == "postgresql":
        assert "pg_dump" in done.output
        return
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT count(*) FROM ledger").fetchall() == [(1,)]
    assert run(app, "db", "export", str(tmp_path / "copy.db")).exit_code == 1


def test_tables_are_brought_up_to_date_by_hand(app: Flask) -> None:
    assert run(app, "db", "upgrade").stdout == "the tables are up to date\n"
    assert run(app, "db", "upgrade").exit_code == 0


def test_without_a_database_the_commands_say_so(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "none")

    done = run(app, "usage")

    assert "there is no database: set DATABASE_URL" in done.output


# Keys


def test_a_key_is_printed_once_and_counts(app: Flask, engine: Engine) -> None:
    assert run(app, "teams", "create", "red", "--model", "gpt-*").exit_code == 0
    done = run(app, "keys", "create", "alice", "--team", "red", "--tag", "a", "--tag", "b", "--expires", "30d")

    key = done.stdout.strip()
    assert is_ours(key)
    loaded = transact(engine, load)
    met = loaded.find(digest_of(key))
    assert met is not None
    assert met.caller.may_use("gpt-5")
    assert not met.caller.may_use("claude")
    assert met.is_expired((NOW + 31 * 86400) * 1000)
    assert not met.is_expired((NOW + 29 * 86400) * 1000)
    assert key not in run(app, "keys", "list").stdout + run(app, "keys", "show", "alice").stdout


def test_a_key_is_changed_rotated_and_revoked(app: Flask, engine: Engine) -> None:
    first = run(app, "keys", "create", "alice", "--model", "gpt").stdout.strip()
    run(app, "keys", "update", "alice", "--model", "-", "--owner", "bob")
    second = run(app, "keys", "rotate", "alice", "--grace", "0m").stdout.strip()
    run(app, "keys", "revoke", "alice")

    (kept,) = json.loads(run(app, "keys", "list", "--as", "json").stdout)
    assert (kept["models"], kept["owner"]) == (None, "bob")
    assert kept["disabled_at"] is not None
    loaded = transact(engine, load)
    assert digest_of(first) not in loaded.keys
    assert loaded.keys[digest_of(second)].is_disabled


def test_limits_of_a_key_are_set_and_taken_back(app: Flask) -> None:
    run(app, "keys", "create", "alice", "--rpm", "60", "--tpm", "1000", "--concurrent", "0")
    run(app, "keys", "update", "alice", "--rpm", "-", "--tpm", "0")

    (kept,) = json.loads(run(app, "keys", "list", "--as", "json").stdout)

    assert (kept["rpm"], kept["tpm"], kept["concurrent"]) == (None, 0, 0)


def test_a_key_of_elsewhere_is_read_from_standard_input(app: Flask, engine: Engine) -> None:
    done = app.test_cli_runner().invoke(args=["keys", "import", "alice"], input="sk-" + "x" * 48 + "\n")

    assert done.exit_code == 0
    loaded = transact(engine, load)
    assert digest_of("sk-" + "x" * 48) in loaded.keys


HEAD = "name,key,budget,team,models,rpm,note"


def imported(app: Flask, *table: str, options: Sequence[str] = ()) -> Result:
    """Take over the keys of a table in standard input."""
    arguments = ["keys", "import", "--table", "-", *options]
    return app.test_cli_runner().invoke(args=arguments, input="\ufeff" + "\r\n".join([*table, ""]))


def test_many_keys_of_elsewhere_are_taken_over_at_once(app: Flask, engine: Engine) -> None:
    run(app, "teams", "create", "red")
    names = [f"user-{number}" for number in range(1500)]
    table = [f'{name},{name:x<40},2/day 50/month,red,gpt-5* m,60,"one, two"' for name in names]

    done = imported(app, HEAD, *table, "", f"last,{'last':x<40},,,,,", options=["--rpm", "7", "--owner", "bob"])

    assert (done.output, done.exit_code) == ("1501 keys may be used\n", 0)
    loaded = transact(engine, load)
    first, last = (loaded.find(digest_of(f"{name:x<40}")) for name in ("user-0", "last"))
    assert first is not None
    assert last is not None
    assert (first.caller.models, first.caller.requests_per_minute) == ((("gpt-5*", "m"),), 60)
    assert (last.caller.models, last.caller.requests_per_minute) == ((), 7)
    shown = [str(each) for each in loaded.budgets_of("user-1499")]
    assert shown == ["2 USD of each day for the key user-1499", "50 USD of each month for the key user-1499"]
    (kept,) = [each for each in json.loads(run(app, "keys", "list", "--as", "json").stdout) if each["name"] == "user-7"]
    assert (kept["team"], kept["owner"], kept["note"], kept["prefix"]) == (
        "red",
        "bob",
        "one, two",
        "user-7xxxx...xxxx",
    )
    lines = transact(engine, lambda c: changes.audit(c, limit=10_000))
    # Each change has its line and its version, so that processes which know all keys read these alone.
    version = transact(engine, lambda c: c.scalar(select(META.c.value).where(META.c.name == "version")))
    assert len(lines) == version == 1 + 1501 + 2 * 1500
    assert next(each["after"] for each in lines if each["target"] == "user-7") == kept | {"created_at": ANY}


FINE = f"fine,{'fine':x<40},,,,,"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([], "line 1: it must name the columns"),
        ([f"alice,{'alice':x<40}"], "line 1: 2 of its cells name no column"),
        (["name,note"], "and key among them"),
        (["name,key,key"], "line 1: a column is named twice"),
        ([HEAD, FINE, "alice,short,,,,,"], "line 3: a key that is brought along has at least 32 characters"),
        ([HEAD, f"a b,{'a':x<40},,,,,", FINE], "line 2: 'a b' is no usable name"),
        ([HEAD, "", f"alice,{'a':x<40}"], "line 3: it has 2 cells, and the first line 7"),
        ([HEAD, FINE, f"fine,{'other':x<40},,,,,"], "line 3: this name is in line 2, too"),
        ([HEAD, FINE, f"other,{'fine':x<40},,,,,"], "line 3: this key is in line 2, too"),
        ([HEAD, FINE, f"there,{'other':x<40},,,,,"], "line 3: there is a key named 'there' already"),
        ([HEAD, FINE, f"other,{'there':x<40},,,,,"], "line 3: this key is, or was, in use"),
        ([HEAD, FINE, f"other,{'before':x<40},,,,,"], "line 3: this key is, or was, in use"),
        ([HEAD, FINE, f"other,{'other':x<40},,blue,,,"], "line 3: there is no team named 'blue'"),
        ([HEAD, FINE, f"other,{'other':x<40},,,,many,"], "line 3: rpm: give a whole number"),
        ([HEAD, FINE, f"other,{'other':x<40},5,,,,"], "line 3: budget: write it like 50/month"),
        ([HEAD, FINE, f"other,{'other':x<40},-5/day,,,,"], "line 3: limit_usd: give US dollars"),
        ([HEAD, FINE, f"other,{'other':x<40},1/day 2/day,,,,"], "line 3: budget: write it like 50/month, once"),
        ([HEAD, FINE, f'other,"{"other":x<40}" x,,,,,'], "line 3: this is no CSV"),
        ([HEAD, FINE, *["bad,bad,,,,,"] * 30], "and 10 more"),
    ],
)
def test_of_a_table_with_a_slip_no_key_is_taken_over(app: Flask, engine: Engine, table: list[str], said: str) -> None:
    transact(engine, lambda c: changes.create_key(c, "tester", "there", {}, f"{'before':x<40}"))
    transact(engine, lambda c: changes.rotate_key(c, "tester", "there", 60, f"{'there':x<40}"))
    before = transact(engine, load)

    done = imported(app, *table)

    assert done.exit_code == 1
    assert said in done.output
    assert "xxxxx" not in done.output, "no key is shown"
    assert transact(engine, load) == before


def test_a_table_that_is_not_utf_8_is_refused(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_bytes(HEAD.encode() + b"\n\xff\xfe")

    done = run(app, "keys", "import", "--table", str(tmp_path / "keys.csv"))

    assert (done.exit_code, done.output) == (1, "Error: the table is not written in UTF-8\n")
    assert run(app, "keys", "import").exit_code == 2


def test_a_team_is_listed_and_shut_out(app: Flask) -> None:
    run(app, "teams", "create", "red", "--note", "the first")
    run(app, "teams", "update", "red", "--disable", "--model", "gpt")

    (kept,) = json.loads(run(app, "teams", "list", "--as", "json").stdout)

    assert (kept["name"], kept["note"], kept["models"]) == ("red", "the first", ["gpt"])
    assert kept["disabled_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keys", "create", "a b"], "no usable name"),
        (["keys", "create", "fine", "--network", "10.0.0.0/99"], "no address and no network"),
        (["keys", "create", "fine", "--team", "nobody"], "no team named 'nobody'"),
        (["keys", "create", "fine", "--expires", "soon"], "no time span"),
        (["keys", "create", "fine", "--expires", "9999999d"], "in the year 9999 at the latest"),
        (["keys", "create", "fine", "--expires", "999999999999999999999d"], "in the year 9999 at the latest"),
        (["keys", "create", "fine", "--budget", "5/day", "--budget", "6/day"], "one for each period"),
        (["keys", "rotate", "nobody", "--grace", "9999999999999d"], "at most a year"),
        (["keys", "create", "fine", "--rpm", "many"], "--rpm: 'many' is no whole number"),
        (["keys", "create", "fine", "--concurrent", "1025"], "concurrent: give a whole number up to 1024"),
        (["keys", "create", "configured"], "in the configuration already"),
        (["keys", "revoke", "nobody"], "no key named 'nobody'"),
        (["teams", "update", "nobody"], "no team named 'nobody'"),
    ],
)
def test_a_slip_with_a_key_is_told_in_a_sentence(
    app: Flask, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setenv("API_KEYS", "configured:sk-configured")

    done = run(app, *arguments)

    assert done.exit_code == 1
    assert said in done.output


def test_a_key_is_made_with_its_budgets_and_they_are_changed(app: Flask, engine: Engine) -> None:
    assert run(app, "keys", "create", "alice", "--budget", "50/month", "--budget", "2/day").exit_code == 0
    assert run(app, "budgets", "set", "key:alice:day", "3", "--zone", "Asia/Shanghai", "--alert", "50").exit_code == 0
    assert run(app, "budgets", "credit", "key:alice:month", "0.5", "--note", "a gift").exit_code == 0

    day, month = json.loads(run(app, "budgets", "list", "--as", "json").stdout)
    assert (day["name"], day["limit_usd"], day["zone"], day["alert_percent"]) == (
        "key:alice:day", "3", "Asia/Shanghai", 50
    )  # fmt: skip
    assert (month["limit_usd"], month["spent_usd"], month["zone"]) == ("50", "-0.5", "UTC")
    assert run(app, "budgets", "remove", "key:alice:day").exit_code == 0
    assert len(json.loads(run(app, "budgets", "list", "--as", "json").stdout)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "alice", "--budget", "50/year"),
        ("budgets", "set", "all", "5"),
        ("budgets", "set", "key:nobody:day", "5"),
        ("budgets", "set", "all:day", "five"),
        ("budgets", "remove", "all:day"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(app: Flask, engine: Engine, arguments: tuple[str, ...]) -> None:
    done = run(app, *arguments)

    assert (done.exit_code, done.output[:7]) == (1, "Error: ")
    assert run(app, "keys", "show", "alice").exit_code == 1


def test_what_is_spent_is_compared_with_the_rows(app: Flask, engine: Engine) -> None:
    charged = json.dumps([["all:day", NOW - NOW % 86400]])
    booked(engine, row(1, NOW, charged=charged), row(2, NOW, charged=charged))
    assert run(app, "db", "check").exit_code == 0

    transact(engine, lambda c: c.execute(WINDOWS.update().values(spent=1999)))

    done = run(app, "db", "check")
    assert done.exit_code == 1
    assert "0.000001999" in done.output


def test_what_is_spent_of_a_prepaid_budget_is_compared_too(app: Flask, engine: Engine) -> None:
    assert run(app, "budgets", "set", "all:total", "5").exit_code == 0
    booked(engine, row(1, NOW, charged=json.dumps([["all:total", 0]])))
    assert run(app, "db", "check").exit_code == 0

    transact(engine, lambda c: c.execute(WINDOWS.update().values(spent=999)))

    assert run(app, "db", "check").exit_code == 1
    # Where the budget is older than the rows that are kept, not all of them are there.
    transact(engine, lambda c: c.execute(AUDIT.update().values(at=(NOW - 31 * 86400) * 1000)))
    assert run(app, "db", "check").exit_code == 0


@pytest.mark.parametrize(("name", "start"), [("all:total", 0), ("all:day", NOW - NOW % 86400)])
def test_a_window_that_is_gone_is_missed(app: Flask, engine: Engine, name: str, start: int) -> None:
    assert run(app, "budgets", "set", name, "5").exit_code == 0
    booked(engine, row(1, NOW, charged=json.dumps([[name, start]])))
    assert run(app, "db", "check").exit_code == 0

    transact(engine, lambda c: c.execute(WINDOWS.delete()))

    done = run(app, "db", "check")
    assert (done.exit_code, name in done.output) == (1, True)
    assert run(app, "budgets", "remove", name).exit_code == 0  # what was spent of it counts no more
    assert run(app, "db", "check").exit_code == 0


@pytest.mark.parametrize("column", ["requests", "prompt", "cost", "upstream_cost"])
def test_usage_is_compared_with_the_rows(app: Flask, engine: Engine, column: str) -> None:
    booked(engine, row(1, NOW), row(2, NOW, key="bob"), row(3, NOW - 7200, status="failed", cost=None))
    transact(engine, lambda c: ledger.book(c, [], Counter({Refusal(NOW - NOW % 60, "bob"): 5}), again=False))
    transact(engine, lambda c: ledger.credit(c, "bob", 300, ("key:bob:total", 0)))
    assert run(app, "db", "check").exit_code == 0

    wrong = USAGE.update().where(USAGE.c.key == "bob", USAGE.c.cost > 0, USAGE.c.span == 900)
    transact(engine, lambda c: c.execute(wrong.values({column: USAGE.c[column] + 1})))

    done = run(app, "db", "check")
    assert done.exit_code == 1
    assert len([line for line in done.output.splitlines() if line.startswith("bob ")]) == 1
    assert ", rows " in done.output
    # Those of a program of before are by the hour.
    transact(engine, lambda c: c.execute(wrong.values({column: USAGE.c[column] - 1})))
    by_hour = USAGE.update().where(USAGE.c.span == 900, USAGE.c.key == "alice")
    transact(engine, lambda c: c.execute(by_hour.values(span=3600, start=USAGE.c.start - USAGE.c.start % 3600)))
    assert run(app, "db", "check").exit_code == 0


@pytest.mark.parametrize("since", ["9999999d", "99999999999999999999d"])
def test_usage_of_all_time_is_that_of_all_rows(app: Flask, engine: Engine, since: str) -> None:
    booked(engine, row(1, NOW))

    for by in ("key", "day", "minute"):
        done = run(app, "usage", "--by", by, "--since", since, "--zone", "Pacific/Honolulu", "--as", "json")
        assert json.loads(done.stdout)[-1]["requests"] == 1


# From SQLite to PostgreSQL


@pytest.fixture
def old(tmp_path: Path) -> Iterator[str]:
    """The address of a SQLite database that has something in every table but that of leases."""
    address = f"sqlite:///{tmp_path}/old.db"
    engine = open_database(DatabaseConfig(url=Storage(address)), tmp_path)
    transact(engine, fill)
    engine.dispose()
    yield address


def fill(connection: Connection) -> None:
    """Put something into every table."""
    changes.create_team(connection, "tester", "web", {"models": ["gpt-*"]})
    changes.create_key(connection, "tester", "alice", {"team": "web", "tags": ["a", "b"], "rpm": 7}, OLD_KEY)
    for _ in range(2):
        changes.rotate_key(connection, "tester", "alice", 3600)
    changes.set_budget(connection, "tester", "key:alice:month", {"limit_usd": "50", "zone": "Asia/Shanghai"})
    start = 1_790_000_000
    for begin in range(0, 2500, 500):
        rows = [
            row(n, NOW - n, cost=10**9 + n, charged=f'[["key:alice:month",{start}]]', estimated=n % 3 == 0 or None)
            for n in range(begin, begin + 500)
        ]
        ledger.book(connection, rows, Counter({ledger.Refusal(NOW - NOW % 60, "alice"): 3}), again=False)
    values = {"id": "resp_1", "owner": "alice", "status": "completed", "created_at": 1, "expires_at": NOW * 2000}
    connection.execute(RESPONSES.insert(), values | {"size": 4, "items": b"[]", "response": b"\x00{"})


OLD_KEY = "0123456789" * 5


def everything(engine: Engine) -> dict[str, list[Any]]:
    """All rows by table."""

    def read(connection: Connection) -> dict[str, list[Any]]:
        found = {}
        for table in METADATA.sorted_tables:
            query = select(table).order_by(*table.primary_key)
            found[table.name] = [tuple(row) for row in connection.execute(query)]
        return found

    return transact(engine, read)


def test_a_database_is_copied_whole(app: Flask, address: str, old: str, tmp_path: Path) -> None:
    done = run(app, "db", "copy", old)

    assert done.exit_code == 0, done.output
    assert "ledger: 2500" in done.output
    before, after = (everything(open_engine(each, tmp_path)) for each in (old, address))
    assert before == after
    assert all(rows for name, rows in after.items() if name != "leases")
    assert run(app, "db", "check").exit_code == 0
    # It goes on from there: ids that are given out by the database, too.
    assert run(app, "keys", "create", "bob").exit_code == 0
    assert run(app, "keys", "rotate", "alice").exit_code == 0
    assert len(everything(open_engine(address, tmp_path))["audit"]) == len(before["audit"]) + 2


def test_nothing_is_copied_over_something_else(app: Flask, address: str, old: str, tmp_path: Path) -> None:
    assert run(app, "keys", "create", "bob").exit_code == 0
    before = everything(open_engine(address, tmp_path))

    refused = run(app, "db", "copy", old)

    assert (refused.exit_code, "is not empty" in refused.output) == (1, True)
    assert everything(open_engine(address, tmp_path)) == before


def test_a_database_in_use_is_not_copied(app: Flask, address: str, old: str, tmp_path: Path) -> None:
    engine = open_engine(old, tmp_path)
    journal = Journal.create(journals_of(Path(app.instance_path), engine))
    assert "still uses" in run(app, "db", "copy", old).output
    journal.remove()
    held = {"budget": "key:alice:month", "start": 0, "holder": "x", "amount": 1, "held": 0, "seen": 0, "expires_at": 1}
    transact(engine, lambda c: c.execute(LEASES.insert(), held))

    refused = run(app, "db", "copy", old)

    assert (refused.exit_code, "still uses" in refused.output) == (1, True)
    assert not everything(open_engine(address, tmp_path))["ledger"]


def test_what_is_no_database_is_not_copied(app: Flask, tmp_path: Path) -> None:
    missing = run(app, "db", "copy", f"sqlite:///{tmp_path}/missing.db")

    assert (missing.exit_code, "there is no database" in missing.output) == (1, True)
    assert not (tmp_path / "missing.db").exists()


def test_a_database_is_not_copied_into_itself(app: Flask, address: str) -> None:
    refused = run(app, "db", "copy", address)

    assert (refused.exit_code, "the configured database itself" in refused.output) == (1, True)


def test_a_copy_that_is_not_equal_is_undone(app: Flask, address: str, old: str, tmp_path: Path) -> None:
    if address.startswith("sqlite"):
        add = "CREATE TRIGGER wrong AFTER INSERT ON ledger BEGIN UPDATE ledger SET cost = 1 WHERE id = NEW.id; END"
    else:
        add = "CREATE RULE wrong AS ON INSERT TO ledger WHERE NEW.cost = 1000000000 DO INSTEAD NOTHING"
    engine = open_database(DatabaseConfig(url=Storage(address)), tmp_path)
    transact(engine, lambda c: c.exec_driver_sql(add))

    refused = run(app, "db", "copy", old)

    assert (refused.exit_code, "of ledger is" in refused.output) == (1, True)
    found = everything(engine)
    assert not any(found[name] for name in found if name != "meta")
    assert found["meta"] == [("version", 0)]
