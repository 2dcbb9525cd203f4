"""A client that asks again, as clients do, where the gateway has waited for its accounts as long as it may."""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

from one_api.accounts.leases import MAX_WAIT_S
from tests.api.bed import KEY, Answer, Bed, Begun

#: On a busy machine the database, or a process that has to give back what is idle, may take longer. Seconds.
LIMIT_S = 30.0
#: What is unavailable for a moment; the second one at ``/v1/messages``.
_UNAVAILABLE = (503, 529)
_TRY_AGAIN = re.compile(rb"cannot (be looked up|look up its keys|be used) now")


class PatientBed(Bed):
    """A bed with such a client; what is refused without a wait is final."""

    def send(self, request: bytes) -> Answer:
        """See ``Bed``."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            began = time.monotonic()
            answer = super().send(request)
            has_waited = answer.status == 429 and time.monotonic() - began >= MAX_WAIT_S
            is_away = answer.status in _UNAVAILABLE and _TRY_AGAIN.search(answer.body)
            if not (has_waited or is_away) or time.monotonic() > deadline:
                return answer

    @contextlib.contextmanager
    def begin(self, model: str, *, key: str | None = KEY, **fields: Any) -> Iterator[Begun]:
        """See ``Bed``."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            with super().begin(model, key=key, **fields) as begun:
                if begun.head.status not in _UNAVAILABLE or time.monotonic() > deadline:
                    yield begun
                    return
