"""What the two programs, the benchmark and the soak, have in common: how they start, talk and end."""

import resource
import signal
import sys
from collections.abc import Callable

from bench.target import BenchError


def progress(text: str) -> None:
    """Tell on standard error what is being done; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def exit_status(program: Callable[[], int]) -> int:
    """Run a program with as many open files as the system allows, so that Ctrl-C and SIGTERM unwind it.

    A BenchError is told and gives 1.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return program()
    except BenchError as error:
        progress(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
