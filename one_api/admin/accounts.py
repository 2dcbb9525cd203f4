"""``/admin/api``: keys, teams, budgets, usage and requests, for administrators; only with a database."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from one_api.accounts import changes, reports
from one_api.accounts.changes import NotThere
from one_api.accounts.keys import ChangeRefused
from one_api.accounts.periods import zone_named
from one_api.accounts.service import Accounts
from one_api.accounts.sheets import Page, lines
from one_api.admin.sheets import BudgetSheet, KeySheet, RequestSheet, Sheet
from one_api.api.bodies import read_body
from one_api.api.service import service
from one_api.api.snapshot import snapshot
from one_api.contract import JSONObject
from one_api.errors import AccountsUnavailable, InvalidRequest, UnknownPath
from one_api.observability.log import audit
from one_api.serving.events import EventResponse
from one_api.serving.responses import JSONResponse, PlainResponse
from one_api.utils.auth import for_the_operator

logger = logging.getLogger(__name__)
accounts_api = Blueprint("accounts_api", __name__, url_prefix="/admin/api")

#: After so long every process that reaches the database knows of a change, in seconds; and in how many parts to wait.
_IN_FORCE_S, _PARTS = 0.5, 10
#: Without ``from``, usage of so many seconds is shown.
_DEFAULT_S = 30 * 86400
_GRACE_S = 86400
#: Later than any request, in UTC seconds.
_ALWAYS_S = 10**11
_SHEET_HEADERS = {"content-type": "text/csv; charset=utf-8"}


@accounts_api.get("/keys")
@for_the_operator
async def list_keys() -> Response:
    """List what is kept of keys, by name; ``tag`` and ``team`` choose some, ``after`` is the last page's ``next``."""
    return await _paged(KeySheet, partial(changes.keys, tag=_argument("tag"), team=_argument("team")))


@accounts_api.post("/keys")
@for_the_operator
async def create_key() -> Response:
    """Make a key; its text is in this answer and nowhere else."""
    body = await read_body()
    name, given = _text(body, "name"), _key_in(body, "key")
    if name in snapshot().keys.names:
        raise InvalidRequest(f"There is a key named {name!r} in the configuration already.", param="name")
    text, kept = await _change(changes.create_key, name, body, given)
    return JSONResponse(kept | {"key": text}, 201)


@accounts_api.get("/keys/<name>")
@for_the_operator
async def show_key(name: str) -> Response:
    """Return what is kept of a key."""
    return JSONResponse(await _read(changes.key, name=name))


@accounts_api.patch("/keys/<name>")
@for_the_operator
async def update_key(name: str) -> Response:
    """Change what a key may do; when this answers, every process that reaches the database knows of it."""
    kept = await _change(changes.update_key, name, await read_body())
    await until_in_force()
    return JSONResponse(kept)


@accounts_api.delete("/keys/<name>")
@for_the_operator
async def revoke_key(name: str) -> Response:
    """End a key for ever; when this answers, no process that reaches the database lets it in any more."""
    kept = await _change(changes.revoke_key, name)
    await until_in_force()
    return JSONResponse(kept)


@accounts_api.post("/keys/<name>/rotate")
@for_the_operator
async def rotate_key(name: str) -> Response:
    """Give a key another text; the old one counts for ``grace_s`` more, by default a day.

    When this answers, every process that reaches the database knows of it.
    """
    body = await read_body()
    grace_s, given = body.pop("grace_s", _GRACE_S), _key_in(body, "new_key")
    _check_empty(body, "grace_s and new_key")
    text, kept = await _change(changes.rotate_key, name, grace_s, given)
    await until_in_force()
    return JSONResponse(kept | {"key": text})


@accounts_api.get("/teams")
@for_the_operator
async def list_teams() -> Response:
    """List all teams."""
    return await _listed(await _read(changes.teams), changes.TEAM_COLUMNS)


@accounts_api.post("/teams")
@for_the_operator
async def create_team() -> Response:
    """Make a team."""
    body = await read_body()
    return JSONResponse(await _change(changes.create_team, _text(body, "name"), body), 201)


@accounts_api.patch("/teams/<name>")
@for_the_operator
async def update_team(name: str) -> Response:
    """Change a team; ``disabled`` shuts out all its keys, or lets them in again."""
    body = await read_body()
    disabled = body.pop("disabled", None)
    if disabled is not None and not isinstance(disabled, bool):
        raise InvalidRequest("Give true or false.", param="disabled")
    kept = await _change(changes.update_team, name, body)
    if disabled is not None:
        kept = await _change(changes.disable_team, name, disabled=disabled)
    await until_in_force()
    return JSONResponse(kept)


@accounts_api.get("/budgets")
@for_the_operator
async def list_budgets() -> Response:
    """List budgets, by name, with what is spent of them; ``after`` is the last page's ``next``."""
    return await _paged(BudgetSheet, partial(reports.page_of_budgets, now=time.time()))


@accounts_api.put("/budgets/<name>")
@for_the_operator
async def set_budget(name: str) -> Response:
    """Make or change a budget; when this answers, every process that reaches the database has it."""
    kept = await _change(changes.set_budget, name, await read_body())
    await until_in_force()
    return JSONResponse(kept)


@accounts_api.delete("/budgets/<name>")
@for_the_operator
async def remove_budget(name: str) -> Response:
    """End a budget."""
    await _change(changes.remove_budget, name)
    await until_in_force()
    return JSONResponse({"name": name, "object": "budget", "deleted": True})


@accounts_api.post("/budgets/<name>/credit")
@for_the_operator
async def credit_budget(name: str) -> Response:
    """Take something off what is spent of a budget."""
    body = await read_body()
    usd, note = body.pop("usd", None), body.pop("note", None)
    _check_empty(body, "usd and note")
    return JSONResponse(await _change(changes.credit_budget, name, usd, note))


@accounts_api.get("/audit")
@for_the_operator
async def list_changes() -> Response:
    """List the last changes of keys, teams and budgets, newest first; ``after`` is the id of the last one before."""
    after = _number("after", 0) or None
    found = await _read(changes.audit, limit=_limit(reports.MAX_ROWS), before=after)
    return await _listed(found, changes.AUDIT_COLUMNS)


@accounts_api.get("/usage")
@for_the_operator
async def show_usage() -> Response:
    """Return sums of requests, tokens and costs, and percentiles of times, by what ``by`` names.

    They are from ``from`` up to ``to``, UTC seconds.
    """
    now, by = int(time.time()), [name for name in request.args.get("by", "key,model").split(",") if name]
    if unknown := set(by) - {*reports.PLACES, *reports.TIMES}:
        raise InvalidRequest(f"Usage is not kept by {', '.join(sorted(unknown))[:200]}.", param="by")
    try:
        zone = zone_named(request.args.get("zone", "UTC"))
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="zone") from None
    begin, end = _number("from", now - _DEFAULT_S), _number("to", now + 1)
    report = await _read(reports.usage, by=by, begin=begin, end=end, zone=zone, key=_argument("key"))
    if _wants_csv():
        return await sheet_of(report.with_total(by))
    return JSONResponse({"object": "list", "data": report.rows, "total": report.total})


@accounts_api.get("/requests")
@for_the_operator
async def list_requests() -> Response:
    """List rows of the ledger, newest first; ``after`` is what the page before has as ``next``."""
    names = ("key", "model", "deployment", "status")
    wanted: Any = {name: value for name in names if (value := _argument(name)) is not None}
    since_ms, until_ms = _number("from", 0) * 1000, _number("to", _ALWAYS_S) * 1000
    page = partial(reports.requests, since_ms=since_ms, until_ms=until_ms, **wanted)
    return await _paged(RequestSheet, page, 50)


# What all share


async def _paged(sheet: type[Sheet], page: Callable[..., Page], default: int | None = None) -> Response:
    """Return a page of a list, of ``default`` rows or as many as there may be; or all of it as a spreadsheet."""
    after, limit = _argument("after") or None, _limit(default or sheet.limit, sheet.limit)
    if _wants_csv():
        body = sheet(_accounts(), page, after, g.open_call)
        g.open_call.begin_stream()
        return EventResponse(body, headers=_SHEET_HEADERS)
    found = await _read(page, after=after, limit=limit)
    return JSONResponse({"object": "list", "data": found.rows, "next": found.next})


async def _listed(rows: list[JSONObject], names: Sequence[str]) -> Response:
    return await sheet_of(rows, names) if _wants_csv() else JSONResponse({"object": "list", "data": rows})


def _wants_csv() -> bool:
    """Return whether the client wants a spreadsheet: by the header ``Accept``, or by ``format=csv``."""
    return request.args.get("format") == "csv" or request.accept_mimetypes.best == "text/csv"


async def sheet_of(rows: list[JSONObject], names: Sequence[str] | None = None) -> Response:
    """Return rows as a spreadsheet, written in a thread: of thousands that takes a while."""
    return PlainResponse(await asyncio.to_thread(lines, rows, names), headers=_SHEET_HEADERS)


def _accounts() -> Accounts:
    accounts = service().accounts
    if accounts is None:
        raise AccountsUnavailable("This gateway keeps no accounts: set DATABASE_URL, and restart it.")
    return accounts


async def _read(work: Any, **arguments: Any) -> Any:
    """Return what a function of ``changes`` or ``reports`` reads."""
    try:
        return await _accounts().read(partial(work, **arguments))
    except NotThere as error:
        raise UnknownPath(_sentence(error)) from None


async def _change(work: Any, *arguments: Any, **named: Any) -> Any:
    """Return what a function of ``changes`` returns, with the current caller as its actor."""

    def change(connection: Any) -> Any:
        return work(connection, actor, *arguments, **named)

    actor = g.caller.name
    try:
        found = await _accounts().write(change)
    except NotThere as error:
        raise UnknownPath(_sentence(error)) from None
    except ChangeRefused as error:
        raise InvalidRequest(_sentence(error), param=error.field) from None
    action, target = work.__name__.replace("_", " "), str(arguments[0])
    event = "key" if action.endswith("key") else "admin"  # of teams and budgets
    logger.info("%s: %s %s", actor, action, target, extra=audit(event, by=actor, action=action, target=target, **named))
    return found


async def until_in_force() -> None:
    """Wait until every process that reaches the database knows of a change.

    In parts: while a machine stands still, no process on it looks for changes.
    """
    for _ in range(_PARTS):
        await asyncio.sleep(_IN_FORCE_S / _PARTS)


def _sentence(error: ChangeRefused) -> str:
    text = error.message
    return f"{text[:1].upper()}{text[1:]}."


def _check_empty(body: JSONObject, known: str) -> None:
    """Raise InvalidRequest for fields that nobody has taken out of the body."""
    for name in body:
        raise InvalidRequest(f"There is no {name[:64]!r}; known are {known}.", param=name[:64])


def _text(body: JSONObject, name: str) -> str:
    value = body.pop(name, None)
    if not isinstance(value, str):
        raise InvalidRequest("Give a text.", param=name)
    return value


def _key_in(body: JSONObject, name: str) -> str | None:
    """Take a key of the caller's own out of the body, if it brings one."""
    value = body.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("Give a text, or null.", param=name)
    return value


def _argument(name: str) -> str | None:
    """Return an argument of the question; None where it is left out."""
    text = request.args.get(name)
    if text is not None and "\0" in text:
        raise InvalidRequest("Give a text without NUL.", param=name)
    return text


def _limit(default: int, most: int = reports.MAX_ROWS) -> int:
    """Return how many rows a page is to have."""
    limit = _number("limit", default)
    if not limit:
        raise InvalidRequest(f"Give a whole number from 1 to {most}.", param="limit")
    return min(limit, most)


def _number(name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not text.isdecimal() or len(text) > 12:
        raise InvalidRequest("Give a whole number.", param=name)
    return int(text)
