"""Rows of the ledger for the tests, and all keys as a process reads them."""

from typing import Any

from sqlalchemy import Connection

from one_api.accounts import keyring
from one_api.accounts.ledger import LedgerRow

#: A moment in 2026, in UTC seconds, at the start of an hour.
HOUR = 1_780_002_000
_ROW: dict[str, Any] = dict.fromkeys(LedgerRow._fields) | {
    "key": "alice",
    "model": "gpt",
    "deployment": "openai/gpt",
    "status": "ok",
    "http_status": 200,
    "stream": False,
    "prompt": 100,
    "completion": 10,
    "cached": 40,
    "cost": 1000,
    "upstream_cost": 1000,
    "ms": 500,
    "attempts": 1,
}


def row(number: int, second: int = HOUR, **fields: Any) -> LedgerRow:
    """One row; its id is made of its moment and number."""
    moment_ms = second * 1000
    made = f"req_{moment_ms:012x}{number:020x}"
    return LedgerRow(**{**_ROW, "id": made, "at": moment_ms, **fields})


def load(connection: Connection) -> keyring.Loaded:
    """All keys and budgets, read in one transaction."""
    rows = {name: connection.execute(query).all() for name, (query, _) in keyring.QUERIES.items()}
    return keyring.merged(keyring.NOTHING, keyring.state(connection), rows)
