"""What a key's holder may know of it: its usage, and the two addresses that chat clients of one-api ask; only with a
database.
"""

import time
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING

from flask import Blueprint, Response, g, request

from one_api.accounts import reports
from one_api.accounts.money import NANO
from one_api.accounts.periods import start_of, zone_named
from one_api.api.service import service
from one_api.api.snapshot import snapshot
from one_api.contract import JSONObject
from one_api.errors import AccountsUnavailable, InvalidRequest
from one_api.serving.responses import JSONResponse
from one_api.utils.auth import verify_api_key
from one_api.utils.rate_limit import check_rate_limit

if TYPE_CHECKING:
    from one_api.accounts.service import Accounts

account = Blueprint("account", __name__)

#: What clients of one-api see where nothing limits what a key may spend, in dollars.
_NO_LIMIT_USD = 100_000_000
_CENT = NANO // 100
_DAY_S = 86400


@account.get("/v1/usage")
@verify_api_key
@check_rate_limit
async def show_usage() -> Response:
    """Return what the key has used today and this month, by model; days are those of ``zone``, by default UTC."""
    try:
        zone = zone_named(request.args.get("zone", "UTC"))
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="zone") from None
    now, accounts = int(time.time()), _accounts()
    names = {each.name for each in accounts.budgets_of(g.caller)}
    key = accounts.key_of(g.caller)
    body: JSONObject = {"object": "usage", "key": g.caller.name, "prefix": None, "expires_at": None}
    if key is not None:
        body |= {"prefix": key.prefix, "expires_at": key.expires_at}
    body["limits"] = snapshot().limits.settings_of(g.caller)
    body["budgets"] = await accounts.read(partial(reports.budgets, now=now, names=names)) if names else []
    for period in ("day", "month"):
        begin = start_of(period, zone, now)
        work = partial(reports.usage, by=["model"], begin=begin, end=now + 1, zone=zone, key=g.caller.name)
        report = await accounts.read(work)
        since = datetime.fromtimestamp(begin, zone).isoformat()
        body["today" if period == "day" else "month"] = {"since": since, **report.total, "models": report.rows}
    return JSONResponse(body)


@account.get("/v1/dashboard/billing/subscription")
@account.get("/dashboard/billing/subscription")
@verify_api_key
@check_rate_limit
def show_subscription() -> Response:
    """Answer the clients that ask one-api for a balance: the least of the key's budgets is its limit."""
    accounts = _accounts()
    least = min((each.limit for each in accounts.budgets_of(g.caller)), default=_NO_LIMIT_USD * NANO)
    limits = dict.fromkeys(("soft_limit_usd", "hard_limit_usd", "system_hard_limit_usd"), least / NANO)
    key = accounts.key_of(g.caller)
    # In seconds; 0 is never.
    until = 0 if key is None else (key.expires_at or 0) // 1000
    return JSONResponse({"object": "billing_subscription", "has_payment_method": True, **limits, "access_until": until})


@account.get("/v1/dashboard/billing/usage")
@account.get("/dashboard/billing/usage")
@verify_api_key
@check_rate_limit
async def show_billing_usage() -> Response:
    """Return what the key has spent from ``start_date`` to ``end_date``, in cents; by default this month, in UTC.

    Where more was credited than spent, that is nothing.
    """
    now = int(time.time())
    begin = _day("start_date", start_of("month", zone_named("UTC"), now))
    end = _day("end_date", now) + _DAY_S
    spent = await _accounts().read(partial(reports.spent, key=g.caller.name, begin=begin, end=end))
    return JSONResponse({"object": "list", "total_usage": max(0, spent) / _CENT})


def _accounts() -> "Accounts":
    accounts = service().accounts
    if accounts is None:
        raise AccountsUnavailable("This gateway keeps no accounts: its operator can set DATABASE_URL.")
    return accounts


def _day(name: str, default: int) -> int:
    """Return the start of a day of the question, in UTC seconds."""
    text = request.args.get(name)
    try:
        return (
            default
            if text is None
            else int(datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp())
        )
    except ValueError:
        raise InvalidRequest("Write the day like 2026-11-28.", param=name) from None
