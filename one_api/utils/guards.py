"""What the decorators of routes have in common: a check that runs before the view."""

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

from one_api.serving.bridge import async_to_sync

View: TypeAlias = Callable[..., Any]


def guarded(view: View, check: Callable[[], object]) -> View:
    """Return ``view`` behind ``check``, which raises what a request is refused with."""
    run = async_to_sync(view) if iscoroutinefunction(view) else view

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check()
        return run(*args, **kwargs)

    return checked
