"""What people write that cannot be: each is told what to change, the same with both databases, and changes nothing."""

import csv
import io
import secrets
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from one_api.accounts import changes, ledger
from one_api.accounts.database import open_engine, transact
from one_api.accounts.tables import AUDIT, USAGE
from one_api.admin.accounts import sheet_of
from tests.accounts.rows import row
from tests.accounts.test_budgets import admin, gateway_on
from tests.api.bed import Answer, Bed


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[Bed]:
    """One process."""
    with gateway_on(database, 1) as running:
        for path, body in (("/keys", {"name": "alice"}), ("/teams", {"name": "web"})):
            assert admin(running, "POST", path, body).status == 201
        assert admin(running, "PUT", "/budgets/key:alice:day", {"limit_usd": "5"}).status == 200
        yield running


@pytest.fixture(scope="module")
def engine(database: str, bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


#: A moment whose rows are not so old that the gateway forgets them, and that no request of the tests has.
YESTERDAY = int(time.time()) - 86400

NO_TEXT = [0, True, 1.5, [], {}, "a\0b", "x" * 257]
NO_LIST = [0, True, "a", {}, [1], [""], [None], ["a\0b"], ["x" * 257], ["a"] * 1001]
NO_COUNT = [-1, 1.5, True, "5", [], {}, 10**10, 2**64, 1e308]
#: By the field of a key, what it cannot be.
KEY_SLIPS: dict[str, list[Any]] = {
    "role": [None, 1, "", "Admin", "root", ["admin"]],
    "team": [*NO_TEXT, "nobody"],
    "owner": NO_TEXT,
    "note": NO_TEXT,
    "models": NO_LIST,
    "tags": NO_LIST,
    "networks": [*NO_LIST, ["10.0.0.0/33"], ["nonsense"], ["10.0.0.1/8/9"]],
    "expires_at": [*NO_COUNT[:6], 0, 253_402_300_800_000, 2**53, 2**64, "2027-01-01"],
    "rpm": NO_COUNT,
    "tpm": NO_COUNT,
    "concurrent": [*NO_COUNT, 1025],
    "unknown": [None, 1],
    "digest": ["x"],
    "disabled_at": [None, 5],
}
SLIPS = [(field, value) for field, values in KEY_SLIPS.items() for value in values]


def refused(answer: Answer, field: str | None) -> None:
    """Check that an answer names the field, and says what to change."""
    assert (answer.status, answer.error["param"]) == (400, field), answer.body
    assert answer.error["message"].endswith(".")


@pytest.mark.parametrize(("field", "value"), SLIPS, ids=lambda each: repr(each)[:24])
def test_a_key_is_neither_made_nor_changed_by_a_slip(bed: Bed, field: str, value: Any) -> None:
    name = f"key-{secrets.token_hex(4)}"
    before = admin(bed, "GET", "/keys/alice").json

    made = admin(bed, "POST", "/keys", {"name": name, field: value})
    changed = admin(bed, "PATCH", "/keys/alice", {field: value})

    expected = 404 if (field, value) == ("team", "nobody") else 400
    assert (made.status, changed.status) == (expected, expected)
    if expected == 400:
        refused(made, field)
        refused(changed, field)
    assert admin(bed, "GET", f"/keys/{name}").status == 404
    assert admin(bed, "GET", "/keys/alice").json == before


@pytest.mark.parametrize("name", [None, 1, "", " ", "a b", "-a", "a/b", "=a", "é", "x" * 129, "a\0", "a\n", "alice"])
def test_a_name_that_cannot_be_makes_no_key(bed: Bed, name: Any) -> None:
    answer = admin(bed, "POST", "/keys", {"name": name})

    assert (answer.status, bool(answer.error["message"])) == (400, True)


BUDGET_SLIPS: dict[str, list[Any]] = {
    "limit_usd": [None, 5, -1, "", "-5", "5e3", "$5", "5,0", "0.0000000001", "1000000000", ".5", "\uff15"],
    "zone": [None, 1, "", "Mars", "../UTC", "localtime", "right/UTC", "posixrules", ["UTC"], "a\0"],
    "alert_percent": [None, -1, 101, 50.5, True, "80"],
    "limit": ["5"],
    "period": ["day"],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BUDGET_SLIPS.items() for value in values],
    ids=lambda each: repr(each)[:24],
)
def test_a_budget_is_not_changed_by_a_slip(bed: Bed, field: str, value: Any) -> None:
    before = admin(bed, "GET", "/budgets").json

    refused(admin(bed, "PUT", "/budgets/key:alice:day", {field: value}), field)

    assert admin(bed, "GET", "/budgets").json == before


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/keys/alice/rotate", {"grace_s": -1}, "grace_s"),
        ("/keys/alice/rotate", {"grace_s": 366 * 86400 + 1}, "grace_s"),
        ("/keys/alice/rotate", {"grace_s": "5"}, "grace_s"),
        ("/keys/alice/rotate", {"grace": 5}, "grace"),
        ("/keys/alice/rotate", {"new_key": 5}, "new_key"),
        ("/budgets/key:alice:day/credit", {"usd": 5}, "usd"),
        ("/budgets/key:alice:day/credit", {"usd": "-5"}, "usd"),
        ("/budgets/key:alice:day/credit", {}, "usd"),
        ("/budgets/key:alice:day/credit", {"usd": "5", "note": 5}, "note"),
        ("/budgets/key:alice:day/credit", {"usd": "5", "why": "x"}, "why"),
        ("/teams", {"name": "new", "models": "gpt"}, "models"),
        ("/teams", {"name": "new", "owner": "x"}, "owner"),
    ],
)
def test_other_slips_name_their_field(bed: Bed, path: str, body: Any, field: str) -> None:
    refused(admin(bed, "POST", path, body), field)


def test_credits_that_no_column_holds_are_refused(bed: Bed) -> None:
    path, body = "/budgets/team:web:month", {"usd": "999999999.999999999"}
    assert admin(bed, "PUT", path, {"limit_usd": "5"}).status == 200
    assert admin(bed, "POST", f"{path}/credit", body).status == 200

    refused(admin(bed, "POST", f"{path}/credit", body), "usd")

    (budget,) = [each for each in admin(bed, "GET", "/budgets").json["data"] if each["name"] == "team:web:month"]
    assert (budget["spent_usd"], budget["remaining_usd"]) == ("-999999999.999999999", "1000000004.999999999")


NUL = urllib.parse.quote("a\0b")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/keys/{NUL}", 404),
        (f"/keys?tag={NUL}", 400),
        (f"/keys?team={NUL}", 400),
        (f"/usage?key={NUL}", 400),
        *((f"/requests?{name}={NUL}", 400) for name in ("key", "model", "deployment", "status", "after")),
        ("/requests?limit=0", 400),
        ("/requests?limit=-1", 400),
        ("/requests?limit=", 400),
        ("/requests?from=x", 400),
        ("/requests?after=", 200),
        ("/requests?limit=1000", 200),
        ("/audit?after=x", 400),
        ("/audit?limit=0", 400),
        ("/usage?by=nothing", 400),
        ("/usage?zone=Mars", 400),
        ("/usage?from=1.5", 400),
    ],
)
def test_a_question_that_cannot_be_is_the_same_with_both_databases(bed: Bed, path: str, status: int) -> None:
    assert admin(bed, "GET", path).status == status


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_budget_with_a_name_that_cannot_be_is_not_there(bed: Bed, method: str) -> None:
    body = {"limit_usd": "1"} if method == "PUT" else None

    assert admin(bed, method, f"/budgets/key:{NUL}:day", body).status == 404


def test_what_operators_ask_in_vain_is_no_refused_request(bed: Bed, engine: Engine) -> None:
    for _ in range(3):
        assert admin(bed, "GET", "/usage?zone=Mars").status == 400
    bed.ask("solo-0")  # is written after those
    row_of_all = transact(engine, lambda c: c.execute(select(USAGE.c.key).where(USAGE.c.key == "operator")).all())

    assert row_of_all == []


# Pages


def test_the_audit_is_read_page_by_page(bed: Bed, engine: Engine) -> None:
    everything = transact(engine, lambda c: c.scalars(select(AUDIT.c.id).order_by(AUDIT.c.id.desc())).all())
    found: list[int] = []

    path = "/audit?limit=2"
    while page := admin(bed, "GET", path).json["data"]:
        assert len(page) <= 2
        found += [each["id"] for each in page]
        path = f"/audit?limit=2&after={found[-1]}"

    assert found == list(everything)


def test_keys_and_budgets_are_read_page_by_page_and_as_a_whole_spreadsheet(bed: Bed, engine: Engine) -> None:
    names = [f"paged-{number}" for number in range(5)]
    for number, each in enumerate(names):
        fields = {"tags": ["paged"]} if number % 2 else {}
        transact(engine, partial(changes.create_key, actor="tests", name=each, fields=fields))
        transact(engine, partial(changes.set_budget, actor="tests", name=f"key:{each}:day", fields={"limit_usd": "7"}))

    for path, wanted in (
        ("/keys?limit=2", names),
        ("/keys?limit=2&tag=paged", names[1::2]),
        ("/budgets?limit=2", [f"key:{each}:day" for each in names]),
    ):
        found: list[str] = []
        page = admin(bed, "GET", path).json
        while True:
            assert len(page["data"]) <= 2
            found += [each["name"] for each in page["data"]]
            if page["next"] is None:
                break
            page = admin(bed, "GET", f"{path}&after={page['next']}").json
        whole = admin(bed, "GET", path.replace("?limit=2", "?").rstrip("?")).json
        sheet = csv.DictReader(io.StringIO(admin(bed, "GET", f"{path}&format=csv").body.decode()))

        assert [each for each in found if each in wanted] == wanted
        assert found == sorted(set(found)) == [each["name"] for each in whole["data"]]
        assert [each["name"] for each in sheet] == found
        assert whole["next"] is None


@pytest.mark.parametrize("path", ["/keys?limit=0", "/budgets?limit=x"])
def test_a_page_has_a_size(bed: Bed, path: str) -> None:
    assert admin(bed, "GET", path).json["error"]["param"] == "limit"


def test_an_empty_list_is_a_spreadsheet_with_its_head(bed: Bed) -> None:
    for path, fields in (
        ("/keys?team=nobody-at-all&", "name,old_until,prefix,role,team"),
        ("/budgets?after=zzz&", "name,key,team,period,zone,limit_usd,spent_usd"),
        ("/audit?after=1&", "id,at,actor,action"),
    ):
        (head,) = admin(bed, "GET", f"{path}format=csv").body.decode().splitlines()

        assert head.startswith(fields)


def test_a_filter_without_an_index_looks_at_so_many_rows_a_page_and_finds_all(bed: Bed, engine: Engine) -> None:
    failed, count = {3, 4, 20_100}, 20_200
    rows = [
        row(number, YESTERDAY, key="many", status="failed" if number in failed else "ok") for number in range(count)
    ]
    transact(engine, lambda c: ledger.book(c, rows, Counter(), again=False))
    path = f"/requests?status=failed&from={YESTERDAY}&to={YESTERDAY + 1}"

    first = admin(bed, "GET", path).json
    second = admin(bed, "GET", f"{path}&after={first['next']}").json

    assert [each["id"] for each in first["data"]] == [rows[20_100].id]
    assert first["next"] == rows[200].id
    assert [each["id"] for each in second["data"]] == [rows[4].id, rows[3].id]
    assert second["next"] is None
    sheet = admin(bed, "GET", f"{path}&format=csv").body.decode().splitlines()
    assert [line.partition(",")[0] for line in sheet] == ["id", *(rows[each].id for each in (20_100, 4, 3)), "total"]


def test_an_empty_export_has_its_head_and_its_totals(bed: Bed) -> None:
    head, total = admin(bed, "GET", "/requests?key=nobody-at-all&format=csv").body.decode().splitlines()

    assert head.startswith("id,at,key,model")
    assert total.startswith("total,")


async def test_a_spreadsheet_is_not_written_on_the_loop() -> None:
    written_by = set[int]()

    class Rows(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            written_by.add(threading.get_ident())
            return super().__iter__()

    answer = await sheet_of(Rows([{"name": "alice"}]))

    assert answer.get_data(as_text=True) == "name\r\nalice\r\n"
    assert written_by
    assert threading.get_ident() not in written_by


def test_each_page_names_the_next(bed: Bed, engine: Engine) -> None:
    rows = [row(number, YESTERDAY + 3600, key="paged") for number in range(7)]
    transact(engine, lambda c: ledger.book(c, rows, Counter(), again=False))
    found: list[str] = []
    path = "/requests?key=paged&limit=3"

    answer = admin(bed, "GET", path).json
    while answer["next"] is not None:
        found += [each["id"] for each in answer["data"]]
        answer = admin(bed, "GET", f"{path}&after={answer['next']}").json
    found += [each["id"] for each in answer["data"]]

    assert found == [each.id for each in reversed(rows)]
