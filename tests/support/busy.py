"""A machine that has other things to do."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager


def burn() -> None:
    """Compute for ever."""
    while True:
        sum(range(10_000))


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every core busy twice."""
    burners = [multiprocessing.get_context("spawn").Process(target=burn) for _ in range(2 * (os.cpu_count() or 1))]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()
            burner.close()
