"""Keys are made, kept as digests alone, changed with a line in the audit, and never come back."""

import asyncio
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text

from one_api.accounts import changes, reports
from one_api.accounts.changes import NotThere
from one_api.accounts.database import Database, transact
from one_api.accounts.keyring import POLL_S, KeyCopy, Loaded, load
from one_api.accounts.keys import ChangeRefused, VirtualKey, check_name, digest_of, is_ours, make_key, networks
from one_api.accounts.opening import open_database
from one_api.accounts.tables import AUDIT, BUDGETS, KEYS, META, TEAMS
from one_api.admin.accounts import until_in_force
from one_api.contract import Caller
from one_api.settings.kinds import Storage
from one_api.settings.sections import DatabaseConfig
from tests.support.running_time import RunningTime

FOREIGN = "sk-" + "f" * 48


def created(engine: Engine, name: str = "alice", key: str | None = None, **fields: object) -> str:
    """The text of a new key."""
    return transact(engine, lambda c: changes.create_key(c, "tester", name, fields, key))[0]


def found(engine: Engine, key: str) -> VirtualKey | None:
    """The key as requests meet it."""
    loaded = transact(engine, lambda c: load(c, -1))
    assert loaded is not None
    return loaded[1].get(digest_of(key))


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


async def test_thousands_of_keys_with_a_budget_each_are_read_and_listed_in_one_transaction(engine: Engine) -> None:
    names = [f"user-{number}" for number in range(5000)]
    key = {"role": "client", "created_at": 1, "prefix": "sk", "team": "many"}
    budget = {"period": "month", "zone": "UTC", "limit_nano": 5, "alert_percent": 0}

    def make(connection: Connection) -> None:
        connection.execute(TEAMS.insert().values(name="many"))
        connection.execute(KEYS.insert(), [{**key, "name": name, "digest": digest_of(name)} for name in names])
        owned = [{**budget, "name": f"key:{name}:month", "key": name, "team": None} for name in names]
        common = [
            {**budget, "name": "team:many:month", "key": None, "team": "many"},
            {**budget, "name": "all:month", "key": None, "team": None},
        ]
        connection.execute(BUDGETS.insert(), owned + common)

    transact(engine, make)
    database = Database(engine, "test")
    copy = KeyCopy(database)
    try:
        await copy.start()
        assert copy.is_loaded
        found = [each.name for each in copy.budgets_of("user-17")]
        assert found == ["key:user-17:month", "team:many:month", "all:month"]
    finally:
        await copy.aclose()
        await database.aclose()

    statements: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    shown = transact(engine, lambda c: reports.budgets(c, time.time()))
    assert (len(shown), {each["spent_usd"] for each in shown}) == (5002, {"0"})
    assert len(statements) < 50, "none for each of them"


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


async def test_a_key_that_is_made_while_keys_are_read_is_not_seen_without_its_budget(engine: Engine) -> None:
    made = list[str]()

    def make(connection: Connection) -> str:
        text, _ = changes.create_key(connection, "tester", "alice", {})
        changes.set_budget(connection, "tester", "key:alice:day", {"limit_usd": "1"})
        return text

    def read(connection: Connection) -> Loaded | None:
        def meanwhile(_: Any, __: Any, statement: str, *___: Any) -> None:
            if f"FROM {KEYS.name}" in statement and not made:
                made.append(transact(engine, make))

        event.listen(connection, "before_cursor_execute", meanwhile)
        return load(connection, -1)

    database = Database(engine, "test")
    loaded = await database.read(read)
    await database.aclose()

    assert made
    assert loaded is not None
    assert len(loaded.keys) == len(loaded.budgets.get("alice", ()))
