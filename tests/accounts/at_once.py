"""Tests of many doors that run at the same time: their rows are written in batches, for which each would wait alone."""

import inspect
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def at_once(names: Collection[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for each name, in threads; pytest sees one test without the parameter ``name``.

    Raises ExceptionGroup with the failures, each with a note of its name.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            with ThreadPoolExecutor(len(names)) as pool:
                tasks = {name: pool.submit(test, name=name, **given) for name in names}
            failed = []
            for name, task in tasks.items():
                if (error := task.exception()) is not None:
                    error.add_note(f"with {name!r}")
                    failed.append(error)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(names)} failed", failed)

        own = inspect.signature(test)
        run.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[each for each in own.parameters.values() if each.name != "name"]
        )
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate
