"""The gateway while its database or its disk can take nothing: nobody waits for long, no row is lost or there twice."""

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from one_api.accounts.database import TRANSACTION_S, open_engine, transact
from one_api.accounts.keys import make_key
from one_api.accounts.opening import open_database
from one_api.accounts.tables import LEDGER
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.own_disk import filled, nearly_full, own_disk
from tests.accounts.own_server import OwnServer, binary
from tests.accounts.test_budgets import Account, check_books, gateway_on, unit_model, until, warm_up
from tests.accounts.test_outages import MAX_WAIT_S, SLACK_S, serves, timed
from tests.api.bed import Answer, Bed
from tests.support import WaitFor, sse, text_chunks, tokens
from tests.support.launcher import REPOSITORY
from tests.support.running_time import RunningTime

#: How long a disaster lasts, in seconds: longer than any transaction may take.
LASTS_S = 8.0 if "ONE_API_LONG" in os.environ else 3.0
INSTANCE = REPOSITORY / "instance"


def with_instance(folder: Path) -> tuple[str, ...]:
    """The command that has the one after it take ``folder`` for the instance folder, and no other process."""
    INSTANCE.mkdir(exist_ok=True)
    return ("unshare", "-m", "sh", "-c", f'mount --bind "{folder}" "{INSTANCE}" && exec "$@"', "sh")


@dataclass
class Place:
    """A running gateway, and what its accounts depend on."""

    bed: Bed
    engine: Engine
    #: What it takes for its instance folder.
    disk: Path
    server: OwnServer | None


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    """A PostgreSQL that may be maltreated."""
    if binary("initdb") is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with contextlib.ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))
        try:
            running = held.enter_context(OwnServer(Path(folder)))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no PostgreSQL of our own can be started here: {error}")
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A gateway of two processes."""
    server = request.getfixturevalue("own_server") if request.param == "postgresql" else None
    address = server.address if server is not None else "sqlite"
    with own_disk() as disk, gateway_on(address, 2, within=with_instance(disk), kind=Bed) as bed:
        engine = open_engine(address, disk)
        warm_up(bed, engine)
        yield Place(bed, engine, disk, server)


# Disasters: each ends with its context


@contextlib.contextmanager
def frozen(place: Place) -> Iterator[None]:
    """Every process of the server is stopped."""
    assert place.server is not None
    try:
        place.server.freeze()
        yield
    finally:
        place.server.thaw()


@contextlib.contextmanager
def gone(place: Place) -> Iterator[None]:
    """The server has crashed, and is started again."""
    assert place.server is not None
    place.server.stop()
    try:
        yield
    finally:
        place.server.start()


@contextlib.contextmanager
def read_only(place: Place) -> Iterator[None]:
    """The server takes no changes, as one that stands by."""
    assert place.server is not None
    try:
        place.server.read_only(True)
        yield
    finally:
        place.server.read_only(False)


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Another program writes to SQLite's file."""
    with contextlib.closing(sqlite3.connect(place.disk / "one_api.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield  # what is not committed goes with the connection


@contextlib.contextmanager
def immutable(place: Place) -> Iterator[None]:
    """SQLite's files can be read and not written, by those that have them open either."""
    files = [place.disk, place.disk / "one_api.db", place.disk / "one_api.db-wal"]
    try:
        subprocess.run(["chattr", "+i", *files], check=True)
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@contextlib.contextmanager
def full(place: Place) -> Iterator[None]:
    """The disk with the journals is full, and with SQLite's file."""
    with filled(place.disk):
        yield


Disaster = Callable[[Place], "contextlib.AbstractContextManager[None]"]
#: By what they are of.
DISASTERS: dict[str, list[Disaster]] = {
    "sqlite": [locked, immutable, full],
    "postgresql": [frozen, gone, read_only, full],
}


@pytest.fixture(params=[frozen, gone, read_only, locked, immutable, full], ids=lambda each: each.__name__)
def disaster(request: pytest.FixtureRequest, place: Place) -> Disaster:
    """What can become of this place."""
    chosen: Disaster = request.param
    if chosen not in DISASTERS[place.engine.dialect.name]:
        pytest.skip("not of this database")
    return chosen


def keep_asking(bed: Bed, model: str, account: Account | None, stop: threading.Event) -> list[tuple[float, Answer]]:
    """What a client gets that asks until it is told to stop, and how long each answer took."""
    found: list[tuple[float, Answer]] = []
    for seed in itertools.count():
        if stop.is_set():
            return found
        with RunningTime() as took:
            answer = bed.ask(model, key="test-key" if account is None else account.key, max_tokens=1, seed=seed)
        found.append((took.seconds, answer))
        stop.wait(0.02)
    raise AssertionError


def test_a_disaster_costs_nobody_more_than_a_moment(place: Place, disaster: Disaster) -> None:
    bed, engine = place.bed, place.engine
    model, rich, poor = unit_model(bed), Account(engine, 1_000_000), Account(engine, 1000)
    warm(bed, model, rich)
    streamed, gate = bed.model(), threading.Event()
    *first, second, last, counts = text_chunks("a", "b", usage=tokens(5, 7))
    bed.a.on(streamed, sse(*first, WaitFor(gate), second, last, counts))
    stop = threading.Event()

    with ThreadPoolExecutor(3) as clients, bed.begin(streamed, key=rich.key, max_tokens=10) as under_way:
        under_way.next()
        with disaster(place):
            asked = [clients.submit(keep_asking, bed, model, each, stop) for each in (rich, poor, None)]
            try:
                gate.set()
                assert under_way.rest()[-1] == "data: [DONE]"
                stop.wait(LASTS_S)
            finally:
                gate.set()
                stop.set()
            of_rich, of_poor, of_none = [each.result() for each in asked]
        until(lambda: timed(bed, model, poor)[1].status == 200, 2 + 2 * SLACK_S)

    assert {answer.status for _, answer in of_none} == {200}
    assert max(took_s for took_s, _ in of_none) < SLACK_S
    for each in (of_rich, of_poor):
        refused = [answer for _, answer in each if answer.status != 200]
        assert {(answer.status, answer.error["code"]) for answer in refused} <= {(503, "accounts_unavailable")}
        assert max(took_s for took_s, _ in each) < MAX_WAIT_S + SLACK_S
    assert {answer.status for _, answer in of_rich} == {200}
    if disaster is not full:  # in the journal there is room for a while
        assert 503 in {answer.status for _, answer in of_poor}
    answered = {answer.header("x-request-id") for _, answer in (*of_rich, *of_poor) if answer.status == 200}
    answered.add(under_way.head.headers.first("x-request-id"))
    until(lambda: answered <= {row["id"] for each in (rich, poor) for row in each.rows()}, 15.0)
    for account in (rich, poor):
        check_books(engine, account)
    assert len(rich.rows()) == rich.spent() - 6  # the stream has cost seven


def test_a_process_that_starts_in_a_disaster_is_as_good_as_any_after_it(place: Place, disaster: Disaster) -> None:
    bed, engine = place.bed, place.engine
    model, account = unit_model(bed), Account(engine, 1000)
    before = bed.gateway.worker_pids(2)

    with disaster(place):
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: set(before).isdisjoint(new := bed.gateway.worker_pids()) and len(new) == 2, 30.0)
        until(lambda: serves(bed, model), 30.0)
        statuses = {timed(bed, model, account)[1].status for _ in range(5)}
    assert 401 not in statuses

    # Whichever process takes them.
    until(lambda: [timed(bed, model, account)[1].status for _ in range(40)] == [200] * 40, 20.0)
    until(lambda: "accounts" not in bed.get("/ready").json, 20.0)
    check_books(engine, account)


def test_a_key_that_a_process_cannot_look_up_is_not_refused_for_good(place: Place, disaster: Disaster) -> None:
    with disaster(place), ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda key: timed_key(place.bed, key), [make_key() for _ in range(16)]))

    assert {answer.status for _, answer in found} <= ({503} if disaster in (frozen, gone) else {401})
    assert max(took_s for took_s, _ in found) < TRANSACTION_S + SLACK_S
    until(lambda: {timed_key(place.bed, make_key())[1].status for _ in range(4)} == {401}, 2 + 2 * SLACK_S)


def timed_key(bed: Bed, key: str) -> tuple[float, Answer]:
    """How long a process takes to answer a key that there is not, and the answer."""
    with RunningTime() as took:
        answer = bed.get("/v1/models", key=key)
    return took.seconds, answer


def test_reports_do_not_wait_behind_each_other(place: Place, disaster: Disaster) -> None:
    bed, account = place.bed, Account(place.engine, 1000)
    until(lambda: bed.get("/v1/usage", key=account.key).status == 200)

    def ask(_: int) -> tuple[float, int]:
        with RunningTime() as took:
            status = bed.get("/v1/usage", key=account.key).status
        return took.seconds, status

    with disaster(place), ThreadPoolExecutor(16) as clients:
        found = list(clients.map(ask, range(16)))

    assert {status for _, status in found} <= {200, 503}
    assert max(took_s for took_s, _ in found) < TRANSACTION_S + 1 + SLACK_S
    until(lambda: {bed.get("/v1/usage", key=account.key).status for _ in range(8)} == {200}, 2 + 2 * SLACK_S)


def warm(bed: Bed, model: str, account: Account) -> None:
    """Ask until each of the two processes holds more of a budget than a disaster lasts."""

    def asked() -> Any:
        with ThreadPoolExecutor(20) as clients:
            list(clients.map(lambda seed: timed(bed, model, account), range(60)))
        return len(held := account.leases()) == 2 and min(held) > 400

    until(asked, 60.0)


def test_what_ends_while_the_disk_is_full_is_booked_though_its_process_is_killed() -> None:
    with own_disk() as disk, gateway_on("sqlite", 1, within=with_instance(disk), kind=Bed) as bed:
        engine = open_engine("sqlite", disk)
        warm_up(bed, engine)
        model, (old,) = unit_model(bed), bed.gateway.worker_pids(1)
        with filled(disk):
            answered = {bed.ask(model, seed=seed).header("x-request-id") for seed in range(50)}
            until(lambda: "accounts" in bed.get("/ready").json)
            os.kill(old, signal.SIGKILL)
            until(lambda: bed.gateway.worker_pids(1) != [old])

        query = select(LEDGER.c.id).where(LEDGER.c.model == model)
        until(lambda: set(transact(engine, lambda c: c.scalars(query).all())) == answered, 15.0)


def test_a_gateway_that_starts_on_a_full_disk_serves_and_has_its_accounts_once_there_is_room() -> None:
    with own_disk() as disk, contextlib.ExitStack() as until_room:
        engine = open_database(DatabaseConfig(url=Storage("sqlite")), disk)
        account = Account(engine, 1000)
        until_room.enter_context(nearly_full(disk, 9))
        with gateway_on("sqlite", 1, within=with_instance(disk), kind=Bed) as bed:
            assert "accounts" in bed.get("/ready").json
            model = unit_model(bed)
            assert bed.ask(model).status == 200
            assert timed(bed, model, account)[1].status == 503

            until_room.close()
            until(lambda: timed(bed, model, account)[1].status == 200, 2 + 2 * SLACK_S)
            until(lambda: "accounts" not in bed.get("/ready").json)
        check_books(engine, account)


def test_a_gateway_that_ends_while_its_database_is_frozen_ends_in_time_and_loses_nothing(
    own_server: OwnServer, tmp_path: Path
) -> None:
    engine = open_engine(own_server.address, tmp_path)
    with gateway_on(own_server.address, 2, kind=Bed) as bed:
        warm_up(bed, engine)
        model, account = unit_model(bed), Account(engine, 1_000_000)
        warm(bed, model, account)
        own_server.freeze()
        try:
            answered = [timed(bed, model, account)[1] for _ in range(20)]
            bed.gateway.terminate()
            assert bed.gateway.wait(20.0) == 0
        finally:
            own_server.thaw()
    known = {answer.header("x-request-id") for answer in answered if answer.status == 200}
    assert len(known) == 20

    with gateway_on(own_server.address, 1):
        until(lambda: known <= {row["id"] for row in account.rows()}, 15.0)
        check_books(engine, account)
