"""A gateway's database is backed up while it serves and put back, and moved to PostgreSQL, as docs/accounts.md says."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from one_api.accounts.database import open_engine
from tests.accounts.conftest import postgres_schema
from tests.accounts.test_budgets import Account, admin, ask_at_once, check_books, gateway_on, unit_model, until
from tests.api.bed import Bed
from tests.support import run_program


def flask(bed: Bed, *arguments: str, **env: str) -> str:
    """What a command prints."""
    done = run_program("flask", "--app", "wsgi", *arguments, env={**bed.gateway.environment, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def asking() -> Iterator[threading.Event]:
    """Set while clients ask; not any more after the test."""
    event = threading.Event()
    event.set()
    yield event
    event.clear()


def test_a_backup_made_under_load_holds_nothing_that_only_the_processes_of_then_could_give_back(
    tmp_path: Path, asking: threading.Event
) -> None:
    file, backup = tmp_path / "one_api.db", tmp_path / "backup.db"
    engine = open_engine(f"sqlite:///{file}", tmp_path)
    with gateway_on(f"sqlite:///{file}", 2) as bed, ThreadPoolExecutor(4) as clients:
        model, account = unit_model(bed), Account(engine, 1_000_000)

        def ask() -> None:
            while asking.is_set():
                bed.ask(model, key=account.key, max_tokens=2)

        asked = [clients.submit(ask) for _ in range(4)]
        try:
            until(lambda: account.spent() > 20 and account.leased() > 0)
            assert "holds a copy" in flask(bed, "db", "export", str(backup))
        finally:
            asking.clear()
        for each in asked:
            each.result()
        admin(bed, "DELETE", f"/keys/{account.name}")
        bed.gateway.terminate()
        assert bed.gateway.wait(20.0) == 0
    engine.dispose()
    assert sorted(path.name for path in tmp_path.glob("backup*")) == ["backup.db"]
    assert (backup.stat().st_mode & 0o777) == 0o600
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, file)

    spent = account.spent()
    assert spent > 20
    assert account.leases() == []
    with gateway_on(f"sqlite:///{file}", 2) as bed:
        account.set(spent + 50)
        answers = ask_at_once(bed, unit_model(bed), account, 70, max_tokens=1)
        assert sum(answer.status == 200 for answer in answers) == 50
        check_books(engine, account)
        assert "are the sums of their rows" in flask(bed, "db", "check")


def test_all_that_a_gateway_has_in_sqlite_goes_on_in_postgresql(tmp_path: Path, server: str) -> None:
    old, new = f"sqlite:///{tmp_path}/one_api.db", postgres_schema(server)
    with gateway_on(old, 2) as bed:
        engine = open_engine(old, tmp_path)
        account, gone = Account(engine, 50, "day", zone="Asia/Kathmandu"), Account(engine, 50)
        model = unit_model(bed)
        rotated = admin(bed, "POST", f"/keys/{account.name}/rotate", {"grace_s": 3600}).json["key"]
        assert ask_at_once(bed, model, account, 20, max_tokens=1)[-1].status == 200
        assert bed.ask(model, key=gone.key, max_tokens=1).status == 200
        until(lambda: (account.spent(), gone.spent()) == (20, 1))
        assert admin(bed, "POST", f"/budgets/{account.budget}/credit", {"usd": "0.005"}).status == 200
        assert admin(bed, "PUT", f"/budgets/{account.budget}", {"zone": "UTC"}).status == 200
        assert admin(bed, "DELETE", f"/keys/{gone.name}").status == 200
        before = [admin(bed, "GET", path).json["data"] for path in ("/keys", "/audit", "/usage")]
        (budget,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == account.budget]
        bed.gateway.terminate()
        assert bed.gateway.wait(20.0) == 0
        assert "the sums are equal" in flask(bed, "db", "copy", old, DATABASE_URL=new)

    with gateway_on(new, 2) as bed:
        assert [admin(bed, "GET", path).json["data"] for path in ("/keys", "/audit", "/usage")] == before
        (same,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == account.budget]
        assert (same, same["spent_usd"]) == (budget | {"held_usd": "0"}, "0.015")
        assert bed.get("/v1/models", key=gone.key).error["code"] == "key_disabled"
        assert bed.get("/v1/models", key=rotated).status == 200
        answers = ask_at_once(bed, unit_model(bed), account, 60, max_tokens=1)
        assert sum(answer.status == 200 for answer in answers) == 35
        assert admin(bed, "POST", "/keys", {"name": "another"}).status == 201
        account.engine = open_engine(new, tmp_path)
        check_books(account.engine, account)
        assert "are the sums of their rows" in flask(bed, "db", "check")
