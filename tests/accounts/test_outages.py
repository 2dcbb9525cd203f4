"""The gateway while PostgreSQL is away: nobody waits for long, budgets hold as far as is configured, no row is lost."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.engine import make_url

from one_api.accounts import changes
from one_api.accounts.database import open_engine, transact
from one_api.accounts.tables import WINDOWS
from tests.accounts.conftest import postgres_schema
from tests.accounts.relay import Switch
from tests.accounts.test_budgets import UNIT, Account, check_books, gateway_on, unit_model, until, warm_up
from tests.api.bed import Answer, Bed
from tests.support.running_time import RunningTime

#: A request waits so long for its budgets at most, in seconds, and the machine that runs the tests is busy.
MAX_WAIT_S, SLACK_S = 1.5, 1.5
OUTAGES = {
    "frozen": (Switch.freeze, Switch.thaw),
    "gone": (Switch.break_off, Switch.restore),
}


@pytest.fixture(scope="module")
def address(server: str) -> str:
    """The address of the database itself."""
    return postgres_schema(server)


@pytest.fixture(scope="module")
def switch(server: str) -> Iterator[Switch]:
    """What is between the gateway and its database."""
    url = make_url(server)
    relay = Switch(url.host or "", url.port or 5432)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def engine(address: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The database, which the tests always reach."""
    return open_engine(address, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module", params=["refuse", "allow"])
def bed(request: pytest.FixtureRequest, address: str, switch: Switch, engine: Engine) -> Iterator[Bed]:
    """A gateway of one process that reaches its database through the switch."""
    relayed = make_url(address).set(port=switch.port).render_as_string(hide_password=False)
    budget = {"on_database_down": request.param, "allow_usd": 0.005}
    with gateway_on(relayed, 1, kind=Bed, budget=budget) as running:
        warm_up(running, engine)
        running.mode = request.param  # type: ignore[attr-defined]
        yield running


@pytest.fixture(params=list(OUTAGES))
def outage(request: pytest.FixtureRequest, switch: Switch) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """What begins and what ends an outage; it has ended after the test."""
    begin, end = OUTAGES[request.param]
    under_way: list[bool] = []

    def start() -> None:
        under_way.append(True)
        begin(switch)

    def finish() -> None:
        if under_way:
            under_way.clear()
            end(switch)

    yield start, finish
    finish()


def timed(bed: Bed, model: str, account: Account) -> tuple[float, Answer]:
    """How long an answer took, and the answer."""
    with RunningTime() as took:
        answer = bed.ask(model, key=account.key, max_tokens=1)
    return took.seconds, answer


def test_while_the_database_is_away_budgets_hold_and_nobody_waits(
    bed: Bed, engine: Engine, outage: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    begin, end = outage
    model, rich, poor = unit_model(bed), Account(engine, 100_000), Account(engine, 100)
    # Until its process has taken more than it uses: for later.
    until(lambda: timed(bed, model, rich)[1].status == 200 and rich.leased() > 30, 30.0)
    assert bed.get("/v1/models", key=poor.key).status == 200  # the process knows the key
    let_in = 5 if bed.mode == "allow" else 0  # type: ignore[attr-defined]

    begin()
    from_lease = [timed(bed, model, rich) for _ in range(8)]
    beyond = [timed(bed, model, poor) for _ in range(8)]

    assert [answer.status for _, answer in from_lease] == [200] * 8
    assert max(took_s for took_s, _ in from_lease) < SLACK_S
    assert [answer.status for _, answer in beyond] == [200] * let_in + [503] * (8 - let_in)
    assert {answer.error["code"] for _, answer in beyond[let_in:]} == {"accounts_unavailable"}
    assert max(took_s for took_s, _ in beyond) < MAX_WAIT_S + SLACK_S
    if let_in:  # it is known that the database is away
        assert max(took_s for took_s, _ in beyond[1:]) < SLACK_S

    end()
    until(lambda: timed(bed, model, poor)[1].status == 200, 2 + 2 * SLACK_S)
    answered = [answer for _, answer in (*from_lease, *beyond) if answer.status == 200]
    known = {answer.header("x-request-id") for answer in answered}
    until(lambda: known <= {row["id"] for each in (rich, poor) for row in each.rows()}, 15.0)
    for each in (rich, poor):
        check_books(engine, each)
    assert poor.spent() == let_in + 1


def test_what_was_let_in_is_missing_afterwards(
    bed: Bed, engine: Engine, outage: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    if bed.mode == "refuse":  # type: ignore[attr-defined]
        pytest.skip("nothing is let in")
    begin, end = outage
    model, account = unit_model(bed), Account(engine, 2)
    assert bed.get("/v1/models", key=account.key).status == 200

    begin()
    assert [timed(bed, model, account)[1].status for _ in range(4)] == [200] * 4
    end()

    until(lambda: account.spent() == 4, 15.0)
    assert timed(bed, model, account)[1].error["code"] == "budget_exceeded"
    check_books(engine, account)


def test_a_process_that_starts_without_the_database_refuses_no_key_for_good(
    bed: Bed, engine: Engine, outage: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    begin, end = outage
    model, account = unit_model(bed), Account(engine, 100)
    assert bed.ask(model, key=account.key, max_tokens=1).status == 200

    begin()
    (pid,) = bed.gateway.worker_pids(1)
    os.kill(pid, signal.SIGKILL)
    until(lambda: serves(bed, model), 30.0)
    unknown = bed.ask(model, key=account.key, max_tokens=1)

    assert (unknown.status, unknown.error["code"]) == (503, "accounts_unavailable")
    assert bed.ask(model).status == 200  # one of the configuration
    end()
    until(lambda: bed.ask(model, key=account.key, max_tokens=1).status == 200, 10.0)
    assert bed.ask(model, key="sk-nobody").status == 401
    check_books(engine, account)


@pytest.fixture
def shared(engine: Engine) -> Iterator[str]:
    """A budget of all keys together, which is gone after the test."""
    name = "all:total"
    transact(engine, lambda c: changes.set_budget(c, "tester", name, {"limit_usd": "0.1"}))
    yield name
    transact(engine, lambda c: changes.remove_budget(c, "tester", name))


def test_in_a_process_that_starts_without_the_database_the_budgets_of_all_keys_bind(
    bed: Bed, engine: Engine, outage: tuple[Callable[[], None], Callable[[], None]], shared: str
) -> None:
    begin, end = outage
    model, account = unit_model(bed), Account(engine, 100)
    assert bed.get("/v1/models", key=account.key).status == 200  # the process knows what there is now
    assert bed.ask(model, max_tokens=101).error["code"] == "budget_exceeded"
    before = spent_of(engine, shared)
    let_in = 5 if bed.mode == "allow" else 0  # type: ignore[attr-defined]

    begin()
    (pid,) = bed.gateway.worker_pids(1)
    os.kill(pid, signal.SIGKILL)
    until(lambda: serves(bed, None), 30.0)
    answers = [bed.ask(model, max_tokens=1) for _ in range(8)]

    assert [answer.status for answer in answers] == [200] * let_in + [503] * (8 - let_in)
    assert {answer.error["code"] for answer in answers[let_in:]} == {"accounts_unavailable"}
    end()
    until(lambda: bed.ask(model, max_tokens=1).status == 200, 10.0)
    until(lambda: spent_of(engine, shared) == before + let_in + 1)


def spent_of(engine: Engine, budget: str) -> float:
    """What is spent of a budget, in units."""
    query = select(WINDOWS.c.spent).where(WINDOWS.c.budget == budget)
    return (transact(engine, lambda c: c.scalar(query)) or 0) / UNIT


def serves(bed: Bed, model: str | None) -> bool:
    """Whether a new process answers: a question for a model, or without one for all of them."""
    try:
        return (bed.get("/v1/models") if model is None else bed.ask(model)).status == 200
    except (OSError, EOFError, AssertionError):
        return False
