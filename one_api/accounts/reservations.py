"""One request and its budgets: what it may cost is reserved before an upstream is asked, and settled at its end."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from one_api.accounts.books import Books
from one_api.accounts.budgets import Budget
from one_api.accounts.estimate import Bound, bound_of, dearest, estimated, said_bytes
from one_api.accounts.leases import Lease, Leases, unavailable
from one_api.accounts.ledger import Reserve, Terms, moment_ms
from one_api.accounts.prices import Prices
from one_api.contract import Answer, Call, ChunkStream, JSONObject
from one_api.errors import Unpriced
from one_api.records import CallRecord
from one_api.settings.sections import BudgetConfig

#: Between two events.
_END = b"\n\n"


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
        self._bound: Bound | None = None
        #: Bytes of what was said; None is not known.
        self._said: int | None = None
        self._ended = False

    async def ask(self, call: Call, deployments: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Reserve what ``call`` may cost at the dearest of ``deployments``, and return what ``ask`` answers.

        A request that has ended reserves nothing: its answer is for others, who are charged.

        Raises:
            BudgetExceeded, Unpriced, AccountsUnavailable.
        """
        if self._bound is None and not self._ended:
            self._bound = bound = bound_of(call, self._settings.reserve_tokens)
            need = _need(bound, deployments, self._prices)
            self._charged = self._leases.begin(self._budgets)
            if need:
                await self._reserve(call.model, need)
        answer = await ask()
        if isinstance(answer, ChunkStream):
            self._said = 0
            return _Heard(answer, self)
        if isinstance(answer, dict):
            self._said = said_bytes(answer)
        return answer

    async def _reserve(self, model: str, need: int) -> None:
        await self._leases.admit(self._charged, need)
        if self._ended:
            return
        windows = [each.key for each in self._charged]
        record = self._record
        reserve = Reserve(
            record.request_id, moment_ms(record.request_id), record.caller or "", model[:256], need, windows
        )
        try:
            self._books.reserve(reserve)
        except OSError:
            raise unavailable() from None
        for each in self._charged:
            each.reserved += need
        self._amount = need

    def hear(self, size: int) -> None:
        """Count bytes of what was said."""
        self._said = (self._said or 0) + size

    def terms(self) -> Terms:
        """End it; returns what the request owes."""
        self._ended = True
        if not self._charged:
            # It has taken over an answer that another request had asked for, or asked for none.
            self._charged = self._leases.begin(self._budgets)
        return Terms(
            self._amount,
            [each.key for each in self._charged],
            None if self._bound is None else estimated(self._bound, self._said),
            self._settings.charge_cancelled == "estimate",
        )

    def settle(self, cost: int) -> None:
        """Give back what was reserved, and note what the request has cost."""
        for each in self._charged:
            each.settle(self._amount, cost)
        self._books.release(self._record.request_id)


def _need(bound: Bound, deployments: Sequence[str], prices: Prices) -> int:
    """Return what a request may cost, in nano-dollars; raises Unpriced."""
    need = 0
    for deployment in deployments:
        rates = prices.rates(deployment)
        cost = None if rates is None else dearest(bound, rates)
        if cost is None and not prices.lets_unknown_pass:
            raise Unpriced(
                f"This key has a budget, and nobody knows what `{deployment[:128]}` costs: the operator can set "
                "`prices.models` in the configuration."
            )
        need = max(need, cost or 0)
    return need


class _Heard(ChunkStream):
    """A stream that is counted as it is read, for when its upstream does not say what it took."""

    def __init__(self, stream: ChunkStream, reservation: Reservation) -> None:
        self._stream = stream
        self._reservation = reservation
        self.is_chat = stream.is_chat  # type: ignore[misc]
        #: Bytes of an event beside its text.
        self._frame = 0
        #: Bytes of what holds no text, among those that are read now.
        self._unsaid = 0

    def _note(self) -> None:
        self.usage, self.ended = self._stream.usage, self._stream.ended

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        try:
            chunks = await self._stream.read()
        finally:
            self._note()
        self._reservation.hear(said_bytes(chunks))
        return chunks

    async def read_encoded(self, encode: Callable[[list[JSONObject]], bytes]) -> bytes:
        """See ``ChunkStream``. Not every event is decoded: the texts are what is longer than an event without one."""
        try:
            encoded = await self._stream.read_encoded(partial(self._encode, encode))
        finally:
            self._note()
        self._reservation.hear(max(0, len(encoded) - self._unsaid - self._frame * encoded.count(_END)))
        self._unsaid = 0
        return encoded

    def _encode(self, encode: Callable[[list[JSONObject]], bytes], chunks: list[JSONObject]) -> bytes:
        written, said = encode(chunks), said_bytes(chunks)
        if said:
            # The smallest: what looks for a pattern writes more, see ``dialects.frames``.
            frame = (len(written) - said) // len(chunks)
            self._frame = min(frame, self._frame or frame)
        self._unsaid += len(written) * (not said)
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
