"""What is booked for a request that has ended: its row of the ledger, made of its record. Pure."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from one_api.accounts.budgets import WindowKey
from one_api.accounts.estimate import Estimate
from one_api.accounts.ledger import LedgerRow, Refusal, charged_text, moment_ms
from one_api.accounts.rates import Rates, by_modality
from one_api.contract import Unit, Units, Usage
from one_api.dialects import json
from one_api.records import AttemptRecord, CallRecord

#: More of the attempts of one request is not kept, in bytes.
_MAX_TRIES_BYTES = 16 * 1024

#: Returns the rates of a deployment; None where its price is not known.
PriceOf = Callable[[str], Rates | None]


class Settlement(NamedTuple):
    """What a request with budgets owes, beside what its record says."""

    reserve: int
    windows: list[WindowKey]
    #: Returns what the answer took, as far as can be seen from outside; None where nothing was asked for.
    estimate: Callable[[], Estimate | None]
    charges_cancelled: bool


def entry_of(record: CallRecord, price_of: PriceOf, settlement: Settlement | None = None) -> LedgerRow | Refusal | None:
    """Return what is to be booked for a request that has ended; None when it concerns no account.

    ``settlement`` is that of a request with budgets.
    """
    if record.caller is None or record.path.startswith("/admin"):
        return None
    # A caller that pays for an answer whose own request is gone has only a deployment.
    if record.model is None or not (record.attempts or record.free or record.deployment):
        refused = record.status is not None and record.status >= 400
        second = moment_ms(record.request_id) // 1000
        return Refusal(second - second % 60, _text(record.caller, 256)) if refused else None
    return _row(record, price_of, settlement)


# Made for each request, on the loop: what is the same for many is kept, and what is known is not computed again.
def _row(record: CallRecord, price_of: PriceOf, settlement: Settlement | None) -> LedgerRow:
    usage, units, status = record.usage, record.units, _status(record)
    if usage is None and record.first_event is None and status in ("failed", "cancelled"):
        usage = Usage(0, 0)  # no upstream had begun to answer
    rates = None if record.deployment is None else price_of(record.deployment)
    cost = _cost(usage, units, rates) if record.cost is None else record.cost
    upstream_cost = _upstream_cost(record, cost, price_of)
    estimated = reserve = charged = None
    if settlement is not None:
        is_uncounted = usage is None or (rates is not None and rates.input is None)
        if cost is None and is_uncounted and (found := settlement.estimate()) is not None:
            usage, units, estimated = usage or found.usage, units or found.units, True
            cost = _cost(usage, units, rates)
        if cost and status == "cancelled" and not settlement.charges_cancelled:
            cost, upstream_cost = 0, (upstream_cost or 0) + cost * bool(estimated)
        reserve, charged = settlement.reserve, charged_text(tuple(settlement.windows)) if cost else None
    first, ended = record.first_event, record.started if record.ended is None else record.ended
    return LedgerRow(
        record.request_id,
        moment_ms(record.request_id),
        *_names(record.caller or "", record.model or "", record.deployment),
        status,
        record.status,
        record.error and _text(record.error, 128),
        record.stream,
        record.cache,
        *_tokens(usage),
        cost,
        upstream_cost,
        _rates_text(rates, None if units is None else units.unit),
        round((ended - record.started) * 1000),
        None if first is None else round((first - record.started) * 1000),
        len(record.attempts),
        _tries(record.attempts),
        estimated,
        reserve,
        charged,
        None if units is None else units.amount,
        None if units is None else units.unit,
        None if usage is None else _modalities_text(usage, rates),
    )


@lru_cache(maxsize=4096)
def _names(caller: str, model: str, deployment: str | None) -> tuple[str, str, str | None]:
    return _text(caller, 256), _text(model, 256), deployment and _text(deployment, 512)


def _tokens(usage: Usage | None) -> tuple[int | None, int | None, int | None, int | None, int | None]:
    """Return the columns from ``prompt`` to ``reasoning``."""
    if usage is None:
        return None, None, None, None, None
    written, reasoning = usage.cache_write_tokens, usage.reasoning_tokens
    return usage.prompt_tokens, usage.cached_tokens, written, usage.completion_tokens, reasoning


def _status(record: CallRecord) -> str:
    if record.error == "cancelled":
        return "cancelled"
    if record.status is None or record.status >= 400:
        return "failed"
    return "interrupted" if record.error else "ok"


def _cost(usage: Usage | None, units: Units | None, rates: Rates | None) -> int | None:
    if usage is not None and units is None and not (usage.prompt_tokens or usage.completion_tokens):
        return 0  # at whatever price
    return None if rates is None else rates.cost(usage, units)


def _upstream_cost(record: CallRecord, cost: int | None, price_of: PriceOf) -> int | None:
    """Return what the attempts cost of which it is known what they took; None when one of them has no price.

    Nearly always there is one, and it took what the request did, whose ``cost`` is known.
    """
    if len(record.attempts) == 1 and record.usage is not None:
        only = record.attempts[0]
        if (only.deployment, only.usage, only.units) == (record.deployment, record.usage, record.units):
            return cost
    costs = [(each.usage, _cost(each.usage, each.units, price_of(each.deployment))) for each in record.attempts]
    if any(cost is None for usage, cost in costs if usage is not None):
        return None
    return sum(cost for _, cost in costs if cost is not None)


@lru_cache(maxsize=4096)
def _rates_text(rates: Rates | None, unit: Unit | None) -> str | None:
    """Return the prices that a cost was made with; those of all units together would be longer than the column."""
    if rates is None:
        return None
    priced = ("documents", "search_units", "requests") if unit == "documents" else (unit, "requests")
    units = tuple(each for each in rates.units if each[0] in priced)
    return json.encode(replace(rates, above=(), units=units, modalities=()).as_dict()).decode()


def _modalities_text(usage: Usage, rates: Rates | None) -> str | None:
    found = by_modality(usage, rates)
    return json.encode(found).decode() if found else None


def _tries(attempts: list[AttemptRecord]) -> str | None:
    """Return the attempts as JSON; of one that is too long the candidates are left out, then the last attempts."""
    if not attempts or (len(attempts) == 1 and attempts[0].outcome == "ok" and len(attempts[0].candidates) <= 1):
        return None  # the other columns say all of it
    whole = [each.as_dict() for each in attempts]
    if len(text := json.encode(whole)) > _MAX_TRIES_BYTES:
        for each in whole:
            each["candidates"] = []
        while len(text := json.encode(whole)) > _MAX_TRIES_BYTES:
            whole.pop()
    return text.decode().replace("\\u0000", "")


def _text(value: str, length: int) -> str:
    """Return a text that a column takes: PostgreSQL has no NUL."""
    return value.replace("\0", "")[:length]
