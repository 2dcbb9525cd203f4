"""Keys, teams and budgets change or end while their requests are under way: each is booked once, and holds nothing."""

import contextlib
import secrets
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from one_api.accounts import reports
from one_api.accounts.database import open_engine, transact
from tests.accounts.test_budgets import (
    UNIT,
    Account,
    admin,
    check_books,
    gateway_on,
    row_of,
    unit_model,
    until,
    warm_up,
)
from tests.api.bed import Bed
from tests.support import WaitFor, sse, text_chunks, tokens


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[Bed]:
    """Two processes."""
    with gateway_on(database, 2, reload={"cut_revoked": False}) as running:
        warm_up(running, open_engine(database, Path()))
        yield running


@pytest.fixture(scope="module")
def cutting_bed(database: str, bed: Bed) -> Iterator[Bed]:
    """Two processes more that cut the streams of revoked keys, which go on in those of ``bed``."""
    with gateway_on(database, 2, reload={"cut_revoked": True}) as running:
        warm_up(running, open_engine(database, Path()))
        yield running


@pytest.fixture(scope="module")
def engine(database: str, bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a stream waits for; it goes on after the test in any case."""
    event = threading.Event()
    yield event
    event.set()


def streaming(bed: Bed, gate: threading.Event) -> str:
    """A model whose streams say three bytes, wait, and go on to their end, for seven units."""
    model = bed.model()
    *first, second, last, counts = text_chunks("abc", "def", usage=tokens(5, 7))
    bed.a.on(model, sse(*first, WaitFor(gate), second, last, counts))
    return model


@pytest.mark.parametrize("how", ["revoked", "of a disabled team", "expired", "rotated without grace"])
@pytest.mark.parametrize("cuts", [False, True], ids=["go on", "are cut"])
def test_a_stream_whose_key_ends_is_booked_once_and_holds_nothing(
    request: pytest.FixtureRequest, engine: Engine, gate: threading.Event, cuts: bool, how: str
) -> None:
    bed: Bed = request.getfixturevalue("cutting_bed" if cuts else "bed")
    account, model, team = Account(engine, 100), streaming(bed, gate), f"team-{secrets.token_hex(4)}"
    path = f"/keys/{account.name}"
    if how == "of a disabled team":
        assert admin(bed, "POST", "/teams", {"name": team}).status == 201
        assert admin(bed, "PATCH", path, {"team": team}).status == 200
    bed.waived.add(model)
    with bed.begin(model, key=account.key, max_tokens=10) as under_way:
        under_way.next()
        changed = {
            "revoked": lambda: admin(bed, "DELETE", path),
            "of a disabled team": lambda: admin(bed, "PATCH", f"/teams/{team}", {"disabled": True}),
            "expired": lambda: admin(bed, "PATCH", path, {"expires_at": 1}),
            "rotated without grace": lambda: admin(bed, "POST", f"{path}/rotate", {"grace_s": 0}),
        }[how]()
        assert changed.status == 200
        until(lambda: bed.ask(unit_model(bed), key=account.key).status == 401)
        is_cut = cuts and how != "expired"
        if not is_cut:
            gate.set()
        rest = under_way.rest()
        gate.set()

    assert (rest[-1] == "data: [DONE]") is not is_cut
    row = row_of(account)
    if is_cut:
        assert (row["status"], row["estimated"], row["cost"]) == ("interrupted", True, UNIT)
    else:
        assert (row["status"], row["estimated"], row["cost"]) == ("ok", None, 7 * UNIT)
    check_books(engine, account)


@pytest.mark.parametrize("how", ["removed", "removed, and made anew", "lowered", "in another zone", "of another team"])
def test_a_stream_is_charged_to_the_budgets_that_it_was_let_in_by(
    bed: Bed, engine: Engine, gate: threading.Event, how: str
) -> None:
    account, model = Account(engine, 100, "day"), streaming(bed, gate)
    teams = [f"team-{secrets.token_hex(4)}" for _ in range(2)]
    for team in teams:
        assert admin(bed, "POST", "/teams", {"name": team}).status == 201
        assert admin(bed, "PUT", f"/budgets/team:{team}:total", {"limit_usd": "1"}).status == 200
    assert admin(bed, "PATCH", f"/keys/{account.name}", {"team": teams[0]}).status == 200
    path = f"/budgets/{account.budget}"
    with bed.begin(model, key=account.key, max_tokens=10) as under_way:
        under_way.next()
        if how.startswith("removed"):
            assert admin(bed, "DELETE", path).status == 200
        if how == "removed, and made anew":
            assert admin(bed, "PUT", path, {"limit_usd": "0.1"}).status == 200
        if how == "lowered":
            assert admin(bed, "PUT", path, {"limit_usd": "0.001"}).status == 200
        if how == "in another zone":
            assert admin(bed, "PUT", path, {"zone": "Asia/Kolkata"}).status == 200
        if how == "of another team":
            assert admin(bed, "PATCH", f"/keys/{account.name}", {"team": teams[1]}).status == 200
        gate.set()
        assert under_way.rest()[-1] == "data: [DONE]"

    row = row_of(account)
    assert row["cost"] == 7 * UNIT
    if how == "removed":
        assert admin(bed, "PUT", path, {"limit_usd": "0.1"}).status == 200
    check_books(engine, account)
    shown = {each["name"]: each for each in admin(bed, "GET", "/budgets").json["data"]}
    assert shown[account.budget]["spent_usd"] == "0.007"
    assert [shown[f"team:{team}:total"]["spent_usd"] for team in teams] == ["0.007", "0"]
    if how == "lowered":
        assert bed.ask(unit_model(bed), key=account.key, max_tokens=1).error["code"] == "budget_exceeded"
    assert transact(engine, lambda c: reports.wrong_windows(c, 0)) == []


def test_of_a_key_that_many_rotate_at_once_every_text_counts_and_the_last_one_is_shown(
    bed: Bed, engine: Engine, database: str
) -> None:
    account = Account(engine, 100)
    path = f"/keys/{account.name}/rotate"
    with contextlib.ExitStack() as held:
        other = held.enter_context(gateway_on(database, 1)) if database.startswith("postgres") else bed
        with ThreadPoolExecutor(8) as administrators:
            rotated = [
                *administrators.map(lambda n: admin((bed, other)[n % 2], "POST", path, {"grace_s": 600}), range(8))
            ]
    assert {each.status for each in rotated} == {200}
    texts = [each.json["key"] for each in rotated]

    shown = admin(bed, "GET", f"/keys/{account.name}").json
    assert [f"{text[:10]}...{text[-4:]}" for text in texts].count(shown["prefix"]) == 1
    assert {bed.get("/v1/models", key=text).status for text in (account.key, *texts)} == {200}
    own = f"sk-{secrets.token_hex(24)}"
    with ThreadPoolExecutor(8) as administrators:
        again = list(administrators.map(lambda _: admin(bed, "POST", path, {"grace_s": 0, "new_key": own}), range(8)))
    assert {(each.status, each.json["key"]) for each in again} == {(200, own)}, "it is the same, whoever asks again"
    assert {bed.get("/v1/models", key=text).status for text in (account.key, *texts)} == {401}
    assert bed.get("/v1/models", key=own).status == 200
    actions = [line["action"] for line in admin(bed, "GET", "/audit").json["data"] if line["target"] == account.name]
    assert actions.count("rotate key") == 9


#: Texts that are letters somewhere, or none at all.
ODD = [
    "é" * 128,
    "名前",
    "\u202eevil",
    "😀" * 256,
    "a\u0301",
    "\ud800",
    "\udfff\ud800",
    "\u0000",
    "\x7f\x1b[2J",
    "\ufeff",
    "\uffff",
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_are_kept_or_refused_and_break_nothing(bed: Bed, engine: Engine, text: str) -> None:
    quoted = urllib.parse.quote(text.encode("utf-8", "surrogatepass"))
    name = f"odd-{secrets.token_hex(4)}"
    for method, path, body in (
        ("POST", "/keys", {"name": text}),
        ("POST", "/teams", {"name": text}),
        ("PUT", f"/budgets/key:{quoted}:day", {"limit_usd": "1"}),
        ("PUT", "/budgets/all:day", {"limit_usd": "1", "zone": text}),
        ("GET", f"/keys/{quoted}", None),
        ("DELETE", f"/keys/{quoted}", None),
        ("POST", f"/keys/{quoted}/rotate", {}),
        ("POST", "/keys", {"name": name, "key": f"sk-{'x' * 40}{text}"}),
    ):
        assert admin(bed, method, path, body).status in (400, 404), (method, path)
    for place in (
        "usage?key",
        "usage?zone",
        "usage?by",
        "requests?key",
        "requests?model",
        "requests?after",
        "keys?tag",
    ):
        assert admin(bed, "GET", f"/{place}={quoted}").status in (200, 400), place
    made = admin(
        bed, "POST", "/keys", {"name": name, "owner": text, "note": text, "tags": [text], "models": [f"{text}*"]}
    )
    assert made.status in (201, 400), made.body
    if made.status == 201:
        kept = admin(bed, "GET", f"/keys/{name}").json
        assert (kept["owner"], kept["note"], kept["tags"], kept["models"]) == (text, text, [text], [f"{text}*"])
        assert bed.ask(f"{text}x", key=made.json["key"]).status in (400, 404)
        assert admin(bed, "GET", "/keys?format=csv").status == 200
    assert bed.ask(f"a/{text}").status in (400, 404)
    assert bed.ask(unit_model(bed)).status == 200
