"""What a process holds of one window of a budget."""

import asyncio
import time

from one_api.accounts.budgets import Budget, Window, WindowKey
from one_api.accounts.money import dollars
from one_api.accounts.windows import Grant, Need
from one_api.errors import BudgetExceeded

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Return a clock that goes on while the machine sleeps, in seconds."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """What this process holds of one window. Amounts are nano-dollars."""

    def __init__(self, budget: Budget, window: Window) -> None:
        self.budget = budget
        self.window = window
        self.key: WindowKey = (budget.name, window.start)
        self.amount = 0
        #: For requests under way.
        self.reserved = 0
        #: By requests that have ended and are not booked.
        self.used = 0
        #: Spent in the last minute, about, and since that was last counted.
        self.recent = self.newly_spent = 0
        #: How many requests are charged to it that have not ended.
        self.requests = 0
        #: What waiting requests need.
        self.needs: list[int] = []
        self.acquiring: asyncio.Task[Grant] | None = None
        #: What was left of the window, and until when that is believed, by ``now_s``.
        self.left, self.left_until = 0, 0.0
        #: The last question for what is idle that was answered; and the own one that others have to answer.
        self.wanted = 0
        self.asked: int | None = None
        #: Until when it is this process's, by ``now_s``.
        self.good_until = 0.0
        #: Until when nothing more is asked for ahead of need, by ``now_s``.
        self.ahead_at = 0.0
        #: Others need what is left: until then nothing is taken for later.
        self.lean_until = 0.0
        #: The database has a row of it.
        self.is_stored = False
        #: What was last written of it, and when.
        self.written = (0, 0)
        self.written_at = 0.0

    @property
    def held(self) -> int:
        """Return what is in use."""
        return self.reserved + self.used

    @property
    def free(self) -> int:
        """Return what new requests may have."""
        return self.amount - self.reserved - self.used

    @property
    def pace(self) -> int:
        """Return what is spent in a minute."""
        return self.recent + self.newly_spent + self.reserved

    @property
    def is_idle(self) -> bool:
        """Return whether there is nothing in it, and it is not used."""
        return not (self.is_stored or self.amount or self.held or self.requests or self.acquiring)

    def lacks(self, need: int, *, waited: bool) -> bool:
        """Return whether a request cannot have ``need`` now, which may have waited for it."""
        free = self.amount - self.reserved - self.used
        return (free if waited or not self.needs else free - sum(self.needs)) < need

    def need(self) -> Need:
        """Return what to acquire for waiting requests, and for what more is in use than there is; for later, too."""
        free, waiting = self.free, sum(self.needs)
        return Need(
            max(0, min(self.needs) - free) if self.needs else 0,
            max(0, waiting - free),
            0 if now_s() < self.lean_until else max(self.pace - max(0, free), waiting),
            self.held + waiting,
            self.asked,
        )

    def settle(self, reserved: int, cost: int) -> None:
        """End a request that had reserved something; it has cost so much."""
        self.requests -= 1
        self.reserved -= reserved
        self.used += cost
        self.newly_spent += cost

    def refusal(self, need: int) -> BudgetExceeded:
        """Return the answer to a request that may cost more than is left."""
        now, left = time.time(), max(0, self.free, self.free + self.left)
        renews, retry_after_s = "It is not renewed", None
        if self.window.end is not None:
            renews = f"It is renewed at {self.budget.when(self.window.end)}"
            retry_after_s = max(1.0, self.window.end - now)
        return BudgetExceeded(
            f"The budget of {self.budget} has {dollars(left)} USD left, and this request may cost up to "
            f"{dollars(need)} USD. {renews}. A smaller `max_tokens` needs less.",
            retry_after_s=retry_after_s,
        )
