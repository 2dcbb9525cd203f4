"""Rows as people get them: page by page, and as CSV for spreadsheets. Pure."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from one_api.contract import JSONObject
from one_api.dialects import json

#: A spreadsheet takes a text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class Page(NamedTuple):
    """Some rows of a list, and what the next page begins after; None at the end."""

    rows: list[JSONObject]
    next: str | None


def text_of(value: Any) -> str:
    """Return a value as people read it in a table."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return json.encode(value).decode()
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def cell(value: Any) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    text = text_of(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def lines(rows: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> str:
    """Return rows as lines of CSV; before them one of ``names``, or without these the names in the first row.

    Without a name (``names`` is empty) there is no such line.
    """
    found = list(rows)
    written = io.StringIO()
    writer = csv.writer(written)
    head = list(found[0]) if names is None and found else names
    if head:
        writer.writerow(head)
    writer.writerows([cell(value) for value in row.values()] for row in found)
    return written.getvalue()
