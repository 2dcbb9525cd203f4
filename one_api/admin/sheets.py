"""The ledger as a spreadsheet, read page by page as it is sent."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from one_api.accounts import reports
from one_api.accounts.money import dollars, nano
from one_api.accounts.reports import Page
from one_api.accounts.service import Accounts
from one_api.accounts.sheets import lines
from one_api.api.request_log import OpenCall
from one_api.contract import JSONObject
from one_api.errors import AccountsUnavailable
from one_api.serving.events import AnswerCut, EventBody

#: The columns that the last line sums up.
_COUNTS = ("prompt", "cached", "cache_write", "completion", "reasoning", "attempts")
_MONEY = ("cost_usd", "upstream_cost_usd")


class RequestSheet(EventBody):
    """Rows of the ledger as CSV, newest first, with a last line of totals."""

    def __init__(self, accounts: Accounts, page: Callable[..., Page], before: str | None, call: OpenCall) -> None:
        """``page`` is ``reports.requests`` with what is to be chosen; ``before`` an id that all rows are older than."""
        self._accounts = accounts
        self._page = page
        self._before = before
        self._call = call
        self._has_begun = False
        self._totals: Counter[str] = Counter()
        self._ended = False

    async def read(self) -> bytes:
        """See ``EventBody``."""
        text = ""
        while not text and not self._ended:  # a page may have been looked through in vain, and nothing is the end
            text = await self._next()
        return text.encode()

    async def _next(self) -> str:
        """Return the lines of the next page."""
        try:
            page = await self._accounts.read(partial(self._page, before=self._before, limit=reports.MAX_ROWS))
        except AccountsUnavailable as error:
            raise AnswerCut(error.message) from None
        self._add(page.rows)
        text = lines(page.rows, () if self._has_begun else reports.REQUEST_FIELDS)
        self._has_begun, self._before, self._ended = True, page.next, page.next is None
        return text + lines([self._total()], ()) if self._ended else text

    def _add(self, rows: list[JSONObject]) -> None:
        for row in rows:
            self._totals.update({name: row[name] or 0 for name in _COUNTS})
            self._totals.update({name: _nano(row[name]) for name in _MONEY})

    def _total(self) -> JSONObject:
        """Return the last line."""
        found: dict[str, Any] = {name: self._totals[name] for name in _COUNTS}
        found |= {name: dollars(self._totals[name]) for name in _MONEY}
        return {name: found.get(name, "total" if name == "id" else "") for name in reports.REQUEST_FIELDS}

    async def aclose(self) -> None:
        """See ``EventBody``."""
        await self._call.end(cancelled=not self._ended)

    def interrupted(self) -> bytes:
        """See ``EventBody``: a sheet that is cut has no words for it, and must not look complete."""
        if not self._ended:
            raise AnswerCut("the process ends")
        return b""


def _nano(text: str | None) -> int:
    """Return an amount of the ledger, exactly."""
    return 0 if text is None else -nano(text[1:]) if text.startswith("-") else nano(text)
