"""The clock for bounds on waiting."""

import os
import signal
import subprocess
import sys
import time

from tests.support import freeze
from tests.support.launcher import REPOSITORY
from tests.support.running_time import RunningTime

MEASURE = """
from tests.support.running_time import RunningTime

with RunningTime() as took:
    print("begun", flush=True)
    input()
print(took.seconds)
"""


def test_a_wait_is_counted_and_never_for_longer_than_it_was() -> None:
    began = time.monotonic()
    with RunningTime() as took:
        time.sleep(0.2)

    assert 0 < took.seconds <= time.monotonic() - began


def test_what_a_process_stands_still_is_not_counted() -> None:
    command = [sys.executable, "-c", MEASURE]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as measuring:
        assert measuring.stdout is not None
        assert measuring.stdout.readline() == "begun\n"
        began = time.monotonic()
        freeze(measuring.pid)
        frozen = time.monotonic()
        time.sleep(1.0)
        stood_still_s = time.monotonic() - frozen
        os.kill(measuring.pid, signal.SIGCONT)
        told, _ = measuring.communicate("\n", timeout=30)

    assert float(told) < time.monotonic() - began - 0.9 * stood_still_s + 0.1
