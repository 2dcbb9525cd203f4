"""What the system tells of this process."""

import os
import time
from pathlib import Path

import pytest

from one_api.observability.process import process_state

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def test_the_start_of_a_process_does_not_move() -> None:
    """A time that differs from scrape to scrape would count as a restart each time."""
    found = set()
    for _ in range(20):
        found.add(process_state().started)
        time.sleep(0.003)

    (started,) = found
    assert started is not None
    assert 0 < time.time() - started < 86_400


def test_a_forked_process_has_a_start_of_its_own() -> None:
    before = process_state().started
    assert before is not None
    time.sleep(max(0.0, before + 0.1 - time.time()))  # more than a tick of the clock
    readable, writable = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writable, str(process_state().started).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child = float(os.read(readable, 100))
    os.close(readable)
    os.close(writable)

    assert child > before
