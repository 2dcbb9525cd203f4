"""One request and its budgets: what it may cost is reserved before an upstream is asked, and settled at its end."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

from one_api.accounts.books import Books
from one_api.accounts.budgets import Budget
from one_api.accounts.entries import Settlement
from one_api.accounts.estimate import Bound, Estimate, Output, bound_of, estimated, output_in
from one_api.accounts.lease import Lease
from one_api.accounts.leases import Leases, unavailable
from one_api.accounts.ledger import Reserve, moment_ms
from one_api.accounts.money import nano
from one_api.accounts.prices import Prices
from one_api.contract import Answer, Call, ChunkStream, JSONObject
from one_api.errors import AccountsUnavailable, Unpriced
from one_api.records import CallRecord
from one_api.settings.sections import BudgetConfig

#: Between two events.
_END = b"\n\n"
#: A stream that goes on beyond what it has reserved reserves a fourth more at a time.
_GROWTH = 4


class Settings(NamedTuple):
    """What the configuration says of money."""

    budget: BudgetConfig
    #: Those of models.
    prices: Prices


class Reservation:
    """What a request has reserved; made for each request of a caller with budgets, and ended with it."""

    def __init__(
        self, leases: Leases, books: Books, record: CallRecord, budgets: Sequence[Budget], settings: Settings
    ) -> None:
        self._leases = leases
        self._books = books
        self._record = record
        self._budgets = budgets
        self._settings = settings.budget
        self._prices = settings.prices
        #: Of the windows that it is charged to, from the moment on that they are known.
        self._charged: tuple[Lease, ...] = ()
        self._amount = 0
        #: What of it goes beyond the leases, see ``Leases.admit``.
        self._beyond = 0
        self._bound: Bound | None = None
        self._deployments: Sequence[str] = ()
        #: What has come of a stream so far; None is not known.
        self._output: Output | None = None
        #: A whole answer, which is looked at only if its upstream has not said what it took.
        self._whole: JSONObject | None = None
        #: Tokens of the answer that are reserved.
        self._reserved_tokens = 0
        self._ended = False
        #: The reservation of the request that has asked for the answer, see ``inherit``; None where it is this one, so
        #: that what is kept here goes at once, and does not wait for the garbage collector.
        self._asked: Reservation | None = None

    async def ask(self, call: Call, deployments: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Reserve what ``call`` may cost at the dearest of ``deployments``, and return what ``ask`` answers.

        A request that has ended reserves nothing: its answer is for others, which are charged.

        Raises:
            BudgetExceeded, Unpriced, AccountsUnavailable.
        """
        if self._bound is None and not self._ended:
            self._bound = bound = bound_of(call, self._settings.reserve_tokens)
            self._deployments, self._reserved_tokens = deployments, bound.completion
            need = _need(bound, deployments, self._prices)
            self._charged = self._leases.begin(self._budgets)
            if need:
                await self._admit(need)
                self._reserve(need)
        answer = await ask()
        if isinstance(answer, dict):
            self._whole = answer
        elif isinstance(answer, ChunkStream):
            self._output = Output()
            return _CountedStream(answer, self)
        return answer

    async def _admit(self, need: int) -> None:
        """Return once the leases have ``need``, or it may go beyond them."""
        allowance = nano(self._settings.allow_usd) if self._settings.on_database_down == "allow" else 0
        beyond = await self._leases.admit(self._charged, need, allowance)
        if self._ended:
            self._leases.settle(beyond, 0)
        else:
            self._beyond += beyond

    def _reserve(self, more: int, *, must_be_noted: bool = True) -> None:
        """Reserve so much more, and note it, in case that this process dies; raises AccountsUnavailable."""
        if self._ended:
            return
        record, windows = self._record, [each.key for each in self._charged]
        place = record.request_id, moment_ms(record.request_id), record.caller or "", (record.model or "")[:256]
        try:
            self._books.reserve(Reserve(*place, self._amount + more, windows))
        except OSError:
            if must_be_noted:
                raise unavailable() from None
        for each in self._charged:
            each.reserved += more
        self._amount += more

    def count(self, output: Output) -> None:
        """Count what has come of the answer."""
        self._output = (self._output or Output()).plus(output)

    @property
    def is_outgrown(self) -> bool:
        """Return whether the answer has become longer than what is reserved for it."""
        if self._bound is None or self._output is None or self._ended:
            return False
        return self._output.tokens(self._bound) > self._reserved_tokens

    async def grow(self) -> None:
        """Reserve more for an answer that goes on; without an ``overrun`` of cut it goes on all the same.

        Raises:
            BudgetExceeded: when there is no more, and the answer is to be cut.
        """
        if self._bound is None or self._output is None:
            return
        tokens = self._output.tokens(self._bound)
        longer = self._bound._replace(completion=tokens + max(1, tokens // _GROWTH))
        self._reserved_tokens = longer.completion
        more = _need(longer, self._deployments, self._prices) - self._amount
        if more <= 0:
            return
        if self._settings.overrun == "cut":
            with suppress(AccountsUnavailable):  # the answer is under way: an outage does not cut it
                await self._admit(more)
        self._reserve(more, must_be_noted=False)
        self._leases.ask_for_missing(self._charged)

    def end(self) -> Settlement:
        """End it; returns what the request owes."""
        self._ended = True
        if not self._charged:
            # It has taken over an answer that another request had asked for, or asked for none.
            self._charged = self._leases.begin(self._budgets)
        return Settlement(
            self._amount,
            [each.key for each in self._charged],
            (self._asked or self).estimate,
            self._settings.charge_cancelled == "estimate",
        )

    def inherit(self, before: Self) -> None:
        """See ``WithinBudgets``."""
        self._asked = before._asked or before

    def estimate(self) -> Estimate | None:
        """Return what the answer took as far as is known; None where nothing was asked for."""
        if self._bound is None:
            return None
        if self._whole is not None:
            return estimated(self._bound, output_in([self._whole]))
        return estimated(self._bound, self._output)

    def settle(self, cost: int) -> None:
        """Give back what was reserved, and note what the request has cost."""
        for each in self._charged:
            each.settle(self._amount, cost)
        self._leases.settle(self._beyond, cost)
        self._books.release(self._record.request_id)


def _need(bound: Bound, deployments: Sequence[str], prices: Prices) -> int:
    """Return what a request may cost, in nano-dollars; raises Unpriced."""
    need = 0
    for deployment in deployments:
        rates = prices.rates(deployment)
        dearest = None if rates is None else rates.dearest(bound.modalities)
        cost = None if dearest is None else dearest.most(bound.prompt, bound.completion, bound.units)
        if cost is None and not prices.lets_unknown_pass:
            raise Unpriced(
                f"This key has a budget, and the price of `{deployment[:128]}` is not known: the operator can set "
                "`prices.models` in the configuration."
            )
        need = max(need, cost or 0)
    return need


class _CountedStream(ChunkStream):
    """A stream that is counted as it is read, for when its upstream does not say what it took."""

    def __init__(self, stream: ChunkStream, reservation: Reservation) -> None:
        self._stream = stream
        self._reservation = reservation
        self.is_chat = stream.is_chat  # type: ignore[misc]
        #: Bytes of an event beside its text.
        self._frame = 0
        #: Of what is read now: events that were counted one by one, their bytes, and their output.
        self._counted_events = self._counted_bytes = 0
        self._counted = Output()

    def _note(self) -> None:
        self.usage, self.ended = self._stream.usage, self._stream.ended

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``; raises also BudgetExceeded."""
        if self._reservation.is_outgrown:
            await self._reservation.grow()
        try:
            chunks = await self._stream.read()
        finally:
            self._note()
        self._reservation.count(output_in(chunks))
        return chunks

    async def read_encoded(self, encode: Callable[[list[JSONObject]], bytes]) -> bytes:
        """See ``ChunkStream``. Not every event is decoded: the texts are what is longer than an event without one."""
        if self._reservation.is_outgrown:
            await self._reservation.grow()
        try:
            encoded = await self._stream.read_encoded(partial(self._encode, encode))
        finally:
            self._note()
        counted, events = self._counted, max(0, encoded.count(_END) - self._counted_events)
        size = max(0, len(encoded) - self._counted_bytes - self._frame * events)
        self._reservation.count(counted.plus(Output(size, events)))
        self._counted_events, self._counted_bytes, self._counted = 0, 0, Output()
        return encoded

    def _encode(self, encode: Callable[[list[JSONObject]], bytes], chunks: list[JSONObject]) -> bytes:
        written, output = encode(chunks), output_in(chunks)
        if output.pieces == len(chunks) > 0 and not (output.audio or output.image):
            # The smallest: what looks for a pattern writes more, see ``dialects.frames``.
            frame = (len(written) - output.size) // len(chunks)
            self._frame = min(frame, self._frame or frame)
        else:
            self._counted_events += len(chunks)
            self._counted_bytes += len(written)
            self._counted = self._counted.plus(output)
        return written

    def has_content(self, chunk: JSONObject) -> bool:
        """See ``ChunkStream``."""
        return self._stream.has_content(chunk)

    def show_model(self, chunk: JSONObject, model: str) -> None:
        """See ``ChunkStream``."""
        self._stream.show_model(chunk, model)

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        try:
            await self._stream.aclose()
        finally:
            self._note()
