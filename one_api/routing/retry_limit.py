"""How many requests may be in a retry at one time."""

import asyncio
from collections import deque


class RetryLimit:
    """How many of the requests in flight may be in a retry at one time: a share of them, and a few always.

    A request is in a retry from the moment that a deployment is asked again for it to the answer, or to the first
    content of its stream. One that finds no room waits for its turn. Nothing is counted over time, so one client with
    one dead provider can be retried every time; what keeps a total outage from being made worse is that open circuits
    leave nothing to retry (``retries.next_step``).
    """

    def __init__(self, budget: float = 0.2, min_concurrent: int = 3) -> None:
        self._budget = budget
        self._min_concurrent = min_concurrent
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: Requests that have begun and not ended.
        self.in_flight = 0
        #: Of those, the ones in a retry.
        self.retrying = 0

    @property
    def max_retrying(self) -> int:
        """How many may be in a retry now."""
        return max(self._min_concurrent, int(self._budget * self.in_flight))

    @property
    def has_room(self) -> bool:
        """Return whether a request could retry now, without waiting."""
        return not self._waiting and self.retrying < self.max_retrying

    @property
    def allows_any(self) -> bool:
        """Return whether there is ever a retry."""
        return self._min_concurrent > 0 or self._budget > 0

    def begin(self) -> None:
        """Note that a request begins."""
        self.in_flight += 1
        self._let_in()

    def end(self) -> None:
        """Note that a request has ended."""
        self.in_flight -= 1

    def enter(self) -> bool:
        """Begin a retry if there is room."""
        if not self.has_room:
            return False
        self.retrying += 1
        return True

    async def wait(self, timeout_s: float) -> bool:
        """Begin a retry once there is room, first come first served; False after ``timeout_s`` in vain."""
        if self.enter():
            return True
        if not self.allows_any:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn], timeout=timeout_s)
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise
        if turn.done():
            return True
        self._withdraw(turn)
        return False

    def leave(self) -> None:
        """Note that a retry is over."""
        self.retrying -= 1
        self._let_in()

    def _withdraw(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            self.leave()
        else:
            self._waiting.remove(turn)

    def _let_in(self) -> None:
        while self._waiting and self.retrying < self.max_retrying:
            self.retrying += 1
            self._waiting.popleft().set_result(None)
