"""Bounds on waiting that mean the same on a machine that is busy, or stands still for a moment."""

import threading
import time
from types import TracebackType
from typing import Self

#: How long what should happen at once is waited for, in seconds: nobody promises anything of it.
PATIENCE_S = 30.0
_TICK_S = 0.01
#: What is longer between two ticks is not counted: somebody else had the machine.
_MAX_TICK_S = 2 * _TICK_S


class RunningTime:
    """How long something takes, without the time in which nothing could run; a context manager around it."""

    def __init__(self) -> None:
        #: So far.
        self.seconds = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _count(self) -> None:
        before, is_over = time.monotonic(), False
        while not is_over:
            is_over = self._is_over.wait(_TICK_S)
            now = time.monotonic()
            self.seconds += min(now - before, _MAX_TICK_S)
            before = now
