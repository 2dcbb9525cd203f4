"""Keys are made, kept as digests alone, changed with a line in the audit, and never come back."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, Engine, event, select, text

from one_api.accounts import changes, reports
from one_api.accounts.changes import NotThere
from one_api.accounts.database import Database, transact
from one_api.accounts.keyring import POLL_S, KeyCopy, Loaded, changed
from one_api.accounts.keys import ChangeRefused, VirtualKey, check_name, digest_of, is_ours, make_key, networks
from one_api.accounts.opening import open_database
from one_api.accounts.tables import AUDIT, BUDGETS, KEYS, META, TEAMS
from one_api.admin.accounts import until_in_force
from one_api.contract import Caller
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.accounts.rows import load
from tests.support.running_time import RunningTime

FOREIGN = "sk-" + "f" * 48


def created(engine: Engine, name: str = "alice", key: str | None = None, **fields: object) -> str:
    """The text of a new key."""
    return transact(engine, lambda c: changes.create_key(c, "tester", name, fields, key))[0]


def found(engine: Engine, key: str) -> VirtualKey | None:
    """The key as requests meet it."""
    loaded = transact(engine, load)
    return loaded.find(digest_of(key))


def version(engine: Engine) -> int:
    """The version of all keys."""
    return transact(engine, lambda c: c.scalar(select(META.c.value))) or 0


# The text


def test_keys_are_random_and_scanners_can_find_them() -> None:
    made = {make_key() for _ in range(100)}

    assert len(made) == 100
    assert all(re.fullmatch(r"sk-oa-[\w-]{47}", key) and is_ours(key) for key in made)


def test_a_typing_error_is_told_without_a_look_at_the_database() -> None:
    key = make_key()

    assert not any(is_ours(key[:at] + ("A" if key[at] != "A" else "B") + key[at + 1 :]) for at in range(len(key)))


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a" * 129, "ключ", "a\n"])
def test_a_name_that_is_unfit_for_headers_and_files_is_refused(name: str) -> None:
    with pytest.raises(ChangeRefused):
        check_name(name)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", True),
        ("11.0.0.1", False),
        (None, False),
        ("unix:", False),
    ],
)
def test_a_key_counts_in_its_networks_alone(address: str | None, allowed: bool) -> None:
    key = VirtualKey(Caller("a"), "sk-oa-abcd...wxyz", "client", networks(["10.0.0.0/8", "2001:db8::/32"]), None, False)

    assert key.is_allowed_from(address) is allowed


# In the database


def test_of_a_key_only_its_digest_is_kept(engine: Engine) -> None:
    key = created(engine, note="for tests", tags=["a", "b"], owner="bob")

    rows = transact(engine, lambda c: [*c.execute(select(KEYS)), *c.execute(select(AUDIT))])

    assert key not in str(rows)
    assert key[10:-4] not in str(rows)
    kept = transact(engine, lambda c: changes.key(c, "alice"))
    assert (kept["prefix"], kept["tags"], kept["role"]) == (f"{key[:10]}...{key[-4:]}", ["a", "b"], "client")
    assert not {"digest", "old_digest"} & kept.keys()


def test_requests_meet_what_was_said_of_a_key(engine: Engine) -> None:
    transact(engine, lambda c: changes.create_team(c, "tester", "red", {"models": ["gpt-*", "claude-*"]}))
    key = created(engine, team="red", models=["gpt-5*"], networks=["10.0.0.0/8"], expires_at=10**12)

    met = found(engine, key)

    assert met is not None
    assert [met.caller.may_use(model) for model in ("gpt-5-mini", "gpt-4", "claude-5")] == [True, False, False]
    assert met.is_expired(10**12)
    assert not met.is_expired(10**12 - 1)
    assert not met.is_disabled


@pytest.mark.parametrize(("limit", "most"), [("rpm", 10**9), ("tpm", 10**9), ("concurrent", 1024)])
def test_requests_meet_the_limits_of_a_key(engine: Engine, limit: str, most: int) -> None:
    key, told = created(engine), []
    for value in (most, 0, None):
        transact(engine, partial(changes.update_key, actor="tester", name="alice", fields={limit: value}))
        met = found(engine, key)
        assert met is not None
        told.append((met.caller.requests_per_minute, met.caller.tokens_per_minute, met.caller.concurrent))

    place = ("rpm", "tpm", "concurrent").index(limit)
    assert [each[place] for each in told] == [most, 0, None]
    assert all(value is None for each in told for at, value in enumerate(each) if at != place)


def test_a_revoked_key_is_disabled_and_never_comes_back(engine: Engine) -> None:
    key = created(engine)
    transact(engine, lambda c: changes.revoke_key(c, "tester", "alice"))

    met = found(engine, key)
    assert met is not None
    assert met.is_disabled
    with pytest.raises(ChangeRefused, match="already"):
        created(engine)
    with pytest.raises(ChangeRefused, match="in use"):
        created(engine, "bob", key)
    with pytest.raises(ChangeRefused, match="revoked"):
        transact(engine, lambda c: changes.rotate_key(c, "tester", "alice", 60))


def test_a_rotated_key_counts_until_its_grace_is_over(engine: Engine) -> None:
    old = created(engine)
    new, _ = transact(engine, lambda c: changes.rotate_key(c, "tester", "alice", 60))

    before, after = found(engine, old), found(engine, new)

    assert before is not None
    assert after is not None
    now = time.time() * 1000
    assert (before.is_expired(now), before.is_expired(now + 61_000), after.is_expired(now + 10**10)) == (
        False,
        True,
        False,
    )


def test_without_grace_the_old_key_is_gone(engine: Engine) -> None:
    old = created(engine)
    transact(engine, lambda c: changes.rotate_key(c, "tester", "alice", 0))

    assert found(engine, old) is None


def test_a_second_rotation_leaves_the_grace_of_the_first(engine: Engine) -> None:
    texts = [created(engine)]
    for grace_s in (7200, 60, 3600):
        texts.append(transact(engine, partial(changes.rotate_key, actor="tester", name="alice", grace_s=grace_s))[0])

    now, met = time.time() * 1000, [found(engine, text) for text in texts]

    ends = [(each.expires_at or 10**15) - now for each in met if each is not None]
    assert [round(each / 60_000) for each in ends[:3]] == [120, 1, 60]
    assert len(ends) == 4


def test_a_rotation_without_grace_ends_all_earlier_texts(engine: Engine) -> None:
    texts = [created(engine)]
    for grace_s in (7200, 7200, 0):
        texts.append(transact(engine, partial(changes.rotate_key, actor="tester", name="alice", grace_s=grace_s))[0])

    assert [found(engine, text) is not None for text in texts] == [False, False, False, True]


@pytest.mark.parametrize("graces", [(0,), (60, 60), (60, 0), (0, 60, 60)])
def test_a_text_that_was_rotated_away_never_comes_back(engine: Engine, graces: tuple[int, ...]) -> None:
    texts = [created(engine)]
    for grace_s in graces:
        texts.append(transact(engine, partial(changes.rotate_key, actor="tester", name="alice", grace_s=grace_s))[0])
    transact(engine, lambda c: changes.revoke_key(c, "tester", "alice"))
    created(engine, "carol")

    for former in texts:
        with pytest.raises(ChangeRefused, match="in use"):
            created(engine, "bob", former)
        with pytest.raises(ChangeRefused, match="in use"):
            transact(engine, partial(changes.rotate_key, actor="tester", name="carol", grace_s=60, key=former))


def test_to_rotate_again_after_a_lost_answer_changes_nothing(engine: Engine) -> None:
    old = created(engine)
    for _ in range(2):
        transact(engine, lambda c: changes.rotate_key(c, "tester", "alice", 60, FOREIGN))

    assert found(engine, old) is not None
    assert found(engine, FOREIGN) is not None


def test_keys_of_elsewhere_are_taken_over_unless_they_can_be_guessed(engine: Engine) -> None:
    created(engine, key=FOREIGN)

    assert found(engine, FOREIGN) is not None
    for bad in ("short", "x" * 31, "with a space" + "x" * 32, "ключ" * 10):
        with pytest.raises(ChangeRefused):
            created(engine, "bob", bad)


def test_a_disabled_team_shuts_out_its_keys(engine: Engine) -> None:
    transact(engine, lambda c: changes.create_team(c, "tester", "red", {}))
    key = created(engine, team="red")
    transact(engine, lambda c: changes.disable_team(c, "tester", "red", disabled=True))
    shut_out = found(engine, key)
    transact(engine, lambda c: changes.disable_team(c, "tester", "red", disabled=False))
    let_in = found(engine, key)

    assert shut_out is not None
    assert let_in is not None
    assert (shut_out.is_disabled, let_in.is_disabled) == (True, False)


@pytest.fixture(scope="module")
def unchanged(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with a key, which all that is refused leaves as it was."""
    opened = open_database(DatabaseConfig(url=Storage(database)), tmp_path_factory.mktemp("unchanged"))
    created(opened)
    yield opened
    opened.dispose()


@pytest.mark.parametrize(
    "fields",
    [
        {"color": "red"},
        {"role": "root"},
        {"models": "gpt"},
        {"models": [""]},
        {"networks": ["10.0.0.0/99"]},
        {"team": "nobody"},
        {"expires_at": "tomorrow"},
        {"expires_at": True},
        {"rpm": -1},
        {"rpm": "5"},
        {"tpm": 1.5},
        {"tpm": True},
        {"concurrent": 1025},
        {"note": "x" * 257},
        {"note": "\0"},
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(unchanged: Engine, fields: dict[str, object]) -> None:
    before = version(unchanged)

    with pytest.raises(ChangeRefused):
        transact(unchanged, lambda c: changes.update_key(c, "tester", "alice", fields))

    assert version(unchanged) == before


def test_every_change_is_in_the_audit_and_has_a_version(engine: Engine) -> None:
    created(engine)
    transact(engine, lambda c: changes.update_key(c, "tester", "alice", {"models": ["gpt"]}))
    transact(engine, lambda c: changes.rotate_key(c, "tester", "alice", 60))
    transact(engine, lambda c: changes.revoke_key(c, "tester", "alice"))

    lines = transact(engine, changes.audit)

    assert [line["action"] for line in lines] == ["revoke key", "rotate key", "update key", "create key"]
    assert (lines[2]["before"], lines[2]["after"]) == ({"models": None}, {"models": ["gpt"]})
    assert lines[2]["actor"] == "tester"
    assert version(engine) == 4


def test_a_key_that_is_not_there_is_told(engine: Engine) -> None:
    with pytest.raises(NotThere, match="no key named 'nobody'"):
        transact(engine, lambda c: changes.revoke_key(c, "tester", "nobody"))


# In memory


async def test_a_process_looks_for_new_keys_at_once_but_not_too_often(engine: Engine) -> None:
    looks = 0

    class Counting(Database):
        async def read(self, work):  # type: ignore[no-untyped-def]
            nonlocal looks
            looks += 1
            return await super().read(work)

    database = Counting(engine, "test")
    copy = KeyCopy(database)
    key = created(engine)
    await copy.look_again()
    assert copy.find(digest_of(key)) is not None

    began, looks = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        await copy.look_again()
    assert looks <= 6
    await database.aclose()


async def test_a_change_is_seen_within_half_a_second(engine: Engine) -> None:
    database = Database(engine, "test")
    copy = KeyCopy(database)
    await copy.start()
    key = await asyncio.to_thread(created, engine)
    with RunningTime() as took:
        while copy.find(digest_of(key)) is None:
            assert took.seconds < 2
            await asyncio.sleep(0.01)
    await copy.aclose()
    await database.aclose()


async def test_what_changes_keys_is_answered_after_all_have_looked_although_the_machine_stood_still() -> None:
    waiting = asyncio.create_task(until_in_force())
    await asyncio.sleep(0)
    time.sleep(1.0)  # in which nobody else could look
    began = time.monotonic()

    await waiting

    assert time.monotonic() - began > POLL_S


class Watched(Database):
    """Counts transactions, and does something between two of them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "test")
        self.transactions = 0
        #: By how many transactions have ended.
        self.between: dict[int, Callable[[], Any]] = {}

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        found = await super().read(work)
        self.transactions += 1
        if (change := self.between.pop(self.transactions, None)) is not None:
            await asyncio.to_thread(change)
        return found


@pytest_asyncio.fixture
async def watched(engine: Engine) -> AsyncIterator[Watched]:
    """A database that is closed after the test."""
    database = Watched(engine)
    yield database
    await database.aclose()


def make_many(connection: Connection, count: int) -> None:
    """Make a team of so many keys, all with budgets."""
    names = [f"user-{number}" for number in range(count)]
    key = {"role": "client", "created_at": 1, "prefix": "sk", "team": "many"}
    budget = {"period": "month", "zone": "UTC", "limit_nano": 5, "alert_percent": 0}
    connection.execute(TEAMS.insert().values(name="many"))
    connection.execute(KEYS.insert(), [{**key, "name": name, "digest": digest_of(name)} for name in names])
    owned = [{**budget, "name": f"key:{name}:month", "key": name, "team": None} for name in names]
    common = [
        {**budget, "name": "team:many:month", "key": None, "team": "many"},
        {**budget, "name": "all:month", "key": None, "team": None},
    ]
    connection.execute(BUDGETS.insert(), owned + common)


async def test_of_thousands_of_keys_each_transaction_reads_a_few_and_a_change_only_what_it_is_of(
    engine: Engine, watched: Watched
) -> None:
    transact(engine, lambda c: make_many(c, 5000))
    copy = KeyCopy(watched)

    await copy.look_again()

    found = [each.name for each in copy.budgets_of("user-17")]
    assert found == ["key:user-17:month", "team:many:month", "all:month"]
    assert watched.transactions > 10
    for change in (
        lambda c: changes.revoke_key(c, "tester", "user-17"),
        lambda c: changes.update_team(c, "tester", "many", {"models": ["gpt"]}),
        lambda c: changes.set_budget(c, "tester", "all:month", {"limit_usd": "7"}),
    ):
        transact(engine, change)
        watched.transactions = 0
        await copy.look_again()
        assert watched.transactions == 1
    key = copy.find(digest_of("user-17"))
    assert key is not None
    assert (key.is_disabled, key.caller.models, str(copy.budgets_of("nobody")[0])[:5]) == (True, (("gpt",),), "7 USD")


def test_thousands_of_budgets_are_listed_by_a_few_statements(engine: Engine) -> None:
    transact(engine, lambda c: make_many(c, 5000))
    statements: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    shown = transact(engine, lambda c: reports.budgets(c, time.time()))
    assert (len(shown), {each["spent_usd"] for each in shown}) == (5002, {"0"})
    assert len(statements) < 50, "none for each of them"


def test_who_asks_for_its_own_budget_has_no_other_read(engine: Engine) -> None:
    transact(engine, lambda c: make_many(c, 3))
    given: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *each: given.append(f"{each[2]} {each[3]}"))

    (shown,) = transact(engine, lambda c: reports.budgets(c, time.time(), ["key:user-1:month"]))

    assert shown["name"] == "key:user-1:month"
    asked = [each for each in given if "SELECT" in each]
    assert asked
    assert all("key:user-1:month" in each for each in asked), asked


async def test_keys_outlive_a_database_that_is_away(engine: Engine) -> None:
    database = Database(engine, "test")
    copy = KeyCopy(database)
    key = created(engine)
    await copy.look_again()
    transact(engine, lambda c: c.execute(text("ALTER TABLE meta RENAME TO elsewhere")))

    await copy.start()

    assert copy.find(digest_of(key)) is not None
    await copy.aclose()
    await database.aclose()


def make_with_budget(connection: Connection, name: str) -> None:
    """Make a key with a budget of its own."""
    changes.create_key(connection, "tester", name, {"team": "many"})
    changes.set_budget(connection, "tester", f"key:{name}:day", {"limit_usd": "1"})


#: All that can be changed of keys that ``make_many`` has made; the first ones and the last ones of those.
CHANGES: list[Callable[[Connection], Any]] = [
    lambda c: make_with_budget(c, "a-first"),
    lambda c: make_with_budget(c, "z-last"),
    lambda c: changes.rotate_key(c, "tester", "user-1", 60, "second-" + "-" * 40),
    lambda c: changes.rotate_key(c, "tester", "user-1", 60, "third-" + "-" * 40),
    lambda c: changes.rotate_key(c, "tester", "user-1", 60, "third-" + "-" * 40),  # which changes nothing
    lambda c: changes.rotate_key(c, "tester", "user-999", 0, "other-" + "-" * 40),
    lambda c: changes.revoke_key(c, "tester", "user-2"),
    lambda c: changes.update_key(c, "tester", "user-3", {"models": ["gpt"], "team": None}),
    lambda c: changes.set_budget(c, "tester", "key:user-4:week", {"limit_usd": "1"}),
    lambda c: changes.set_budget(c, "tester", "key:user-998:month", {"limit_usd": "1", "zone": "Asia/Shanghai"}),
    lambda c: changes.remove_budget(c, "tester", "key:user-5:month"),
    lambda c: changes.credit_budget(c, "tester", "key:user-6:month", "1"),
    lambda c: changes.create_team(c, "tester", "red", {"models": ["gpt"]}),
    lambda c: changes.update_key(c, "tester", "user-7", {"team": "red"}),
    lambda c: changes.set_budget(c, "tester", "team:many:day", {"limit_usd": "1"}),
    lambda c: changes.set_budget(c, "tester", "all:day", {"limit_usd": "1"}),
    lambda c: changes.remove_budget(c, "tester", "all:month"),
    lambda c: changes.remove_budget(c, "tester", "team:many:month"),
    lambda c: changes.disable_team(c, "tester", "many", disabled=True),
    lambda c: changes.disable_team(c, "tester", "many", disabled=False),
]


def check_as_read_at_once(copy: KeyCopy, engine: Engine) -> None:
    """Compare what a process knows with all that there is."""
    at_once = transact(engine, load)
    gone = [digest_of("user-999"), digest_of("user-1")]
    assert {each: copy.find(each) for each in (*at_once.keys, *gone)} == {
        each: at_once.find(each) for each in (*at_once.keys, *gone)
    }
    assert {each: copy.budgets_of(each) for each in (*at_once.names, "nobody")} == {
        each: at_once.budgets_of(each) for each in (*at_once.names, "nobody")
    }


#: After so many transactions of a look: before the version is read, before teams, before budgets, between two pages of
#: these, between two pages of keys, and after the last one.
@pytest.mark.parametrize("when", [1, 2, 3, 4, 7, 8])
async def test_what_changes_while_keys_are_read_is_seen_as_if_they_were_read_at_once(
    engine: Engine, watched: Watched, when: int
) -> None:
    transact(engine, lambda c: make_many(c, 1500))
    watched.between[when] = lambda: [transact(engine, change) for change in CHANGES]
    copy = KeyCopy(watched)

    await copy.look_again()

    assert not watched.between
    check_as_read_at_once(copy, engine)


async def test_each_change_is_seen_as_if_all_keys_were_read_again(engine: Engine, watched: Watched) -> None:
    transact(engine, lambda c: make_many(c, 1500))
    copy = KeyCopy(watched)
    await copy.look_again()

    for change in CHANGES:
        transact(engine, change)
        await copy.look_again()
        check_as_read_at_once(copy, engine)


async def test_a_key_that_is_made_while_keys_are_looked_for_is_not_seen_without_its_budget(engine: Engine) -> None:
    """In one transaction all is as of one moment."""
    made = list[str]()
    transact(engine, lambda c: changes.create_team(c, "tester", "many", {}))
    before = transact(engine, load)
    transact(engine, lambda c: make_with_budget(c, "first"))

    def read(connection: Connection) -> Loaded | None:
        def meanwhile(_: Any, __: Any, statement: str, *___: Any) -> None:
            if f"FROM {AUDIT.name}" in statement and not made:
                made.append("second")
                transact(engine, lambda c: make_with_budget(c, "second"))

        event.listen(connection, "before_cursor_execute", meanwhile)
        return changed(connection, before)

    database = Database(engine, "test")
    loaded = await database.read(read)
    await database.aclose()

    assert made
    assert loaded is not None
    assert [len(loaded.budgets_of(name)) for name in loaded.names] == [1] * len(loaded.names)
