"""A machine that has other things to do."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore


def burn(begun: Semaphore) -> None:
    """Compute for ever."""
    begun.release()
    while True:
        sum(range(10_000))


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every core busy twice."""
    spawning = multiprocessing.get_context("spawn")
    begun = spawning.Semaphore(0)
    burners = [spawning.Process(target=burn, args=[begun]) for _ in range(2 * (os.cpu_count() or 1))]
    for burner in burners:
        burner.start()
    try:
        for _ in burners:
            begun.acquire()
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()
            burner.close()
