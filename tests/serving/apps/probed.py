"""The gateway with a probe: how long is its event loop held, at most, by anything?"""

import asyncio
import time

from flask import Flask

from one_api.app import create_app

TICK_S = 0.01


class LoopProbe:
    """A timer each 10 ms that notes how late it is, and how much its thread has worked since the last time.

    Work is CPU time: other programs on the machine make a tick late, but only the loop itself makes it work.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def take(self) -> dict[str, float]:
        """Return the longest times since they were last taken, in milliseconds; begins with the first call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._start_tick()
        taken = {"late_ms": self._late_s * 1000, "worked_ms": self._worked_s * 1000}
        self._reset()
        return taken

    def _reset(self) -> None:
        self._late_s = self._worked_s = 0.0

    def _start_tick(self) -> None:
        assert self._loop is not None
        self._due, self._worked_before = time.perf_counter() + TICK_S, time.thread_time()
        self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._late_s = max(self._late_s, time.perf_counter() - self._due)
        self._worked_s = max(self._worked_s, time.thread_time() - self._worked_before)
        self._start_tick()


def probed() -> Flask:
    """Return the application, as the environment configures it."""
    app, probe = create_app(), LoopProbe()
    app.get("/probe")(probe.take)
    return app


app = probed()
