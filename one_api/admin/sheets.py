"""Long lists as spreadsheets, read page by page as they are sent."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from one_api.accounts import changes, reports
from one_api.accounts.money import dollars, nano
from one_api.accounts.service import Accounts
from one_api.accounts.sheets import Page, lines
from one_api.api.request_log import OpenCall
from one_api.contract import JSONObject
from one_api.errors import AccountsUnavailable
from one_api.serving.events import AnswerCut, EventBody

#: The columns that the last line sums up.
_COUNTS = ("prompt", "cached", "cache_write", "completion", "reasoning", "attempts")
_MONEY = ("cost_usd", "upstream_cost_usd")


class Sheet(EventBody):
    """A list as CSV: a line of names, and all rows of all its pages."""

    def __init__(self, accounts: Accounts, page: Callable[..., Page], after: str | None, call: OpenCall) -> None:
        """``page`` returns those after ``after``, at most ``limit``."""
        self._accounts = accounts
        self._page = page
        self._after = after
        self._call = call
        self._has_begun = self._ended = False

    #: What the columns are called, and rows in a page.
    names: Sequence[str]
    limit = reports.MAX_NAMED

    async def read(self) -> bytes:
        """See ``EventBody``."""
        text = ""
        while not text and not self._ended:  # a page may have been looked through in vain, and nothing is the end
            text = await self._next()
        return text.encode()

    async def _next(self) -> str:
        """Return the lines of the next page."""
        try:
            page = await self._accounts.read(partial(self._page, after=self._after, limit=self.limit))
        except AccountsUnavailable as error:
            raise AnswerCut(error.message) from None
        text = await asyncio.to_thread(lines, page.rows, () if self._has_begun else self.names)
        self._has_begun, self._after, self._ended = True, page.next, page.next is None
        return text + self._last(page.rows)

    def _last(self, rows: Sequence[JSONObject]) -> str:
        """Return what follows ``rows``, of each page."""
        return ""

    async def aclose(self) -> None:
        """See ``EventBody``."""
        await self._call.end(cancelled=not self._ended)

    def interrupted(self) -> bytes:
        """See ``EventBody``: a sheet that is cut has no words for it, and must not look complete."""
        if not self._ended:
            raise AnswerCut("the process ends")
        return b""


class KeySheet(Sheet):
    """Keys, by name."""

    names = changes.KEY_COLUMNS


class BudgetSheet(Sheet):
    """Budgets, by name."""

    names = reports.BUDGET_FIELDS


class RequestSheet(Sheet):
    """Rows of the ledger, newest first, with a last line of totals."""

    names = reports.REQUEST_FIELDS
    limit = reports.MAX_ROWS

    def __init__(self, accounts: Accounts, page: Callable[..., Page], after: str | None, call: OpenCall) -> None:
        """See ``Sheet``; ``page`` is ``reports.requests`` with what is to be chosen."""
        super().__init__(accounts, page, after, call)
        self._totals: Counter[str] = Counter()

    def _last(self, rows: Sequence[JSONObject]) -> str:
        for row in rows:
            self._totals.update({name: row[name] or 0 for name in _COUNTS})
            self._totals.update({name: _nano(row[name]) for name in _MONEY})
        return lines([self._total()], ()) if self._ended else ""

    def _total(self) -> JSONObject:
        """Return the last line."""
        found: dict[str, Any] = {name: self._totals[name] for name in _COUNTS}
        found |= {name: dollars(self._totals[name]) for name in _MONEY}
        return {name: found.get(name, "total" if name == "id" else "") for name in reports.REQUEST_FIELDS}


def _nano(text: str | None) -> int:
    """Return an amount of the ledger, exactly."""
    return 0 if text is None else -nano(text[1:]) if text.startswith("-") else nano(text)
