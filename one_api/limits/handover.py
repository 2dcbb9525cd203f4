"""Windows go from one store to the next when the keys or the limits of a running gateway change."""

from collections.abc import Iterable
from functools import partial

from one_api.limits.stores import LimitStore, LocalStore
from one_api.limits.window import Window


async def copy_windows(old: LimitStore, new: LimitStore, keys: Iterable[str]) -> None:
    """Add to ``new`` what ``old`` has counted for ``keys``, which both have; stores beyond this machine keep theirs.

    Of the two counts of one second the larger one stands, so several processes may do it, in any order.
    """
    if not isinstance(old, LocalStore) or not isinstance(new, LocalStore):
        return
    for key in keys:
        counted = await old._change(key, lambda window: window)
        await new._change(key, partial(_merge, other=counted))


def _merge(window: Window, other: Window) -> None:
    """Add what ``other`` holds to ``window``."""
    newest = max(window.newest, other.newest)
    for each in (window, other):
        each._advance(newest)
    window.requests = [max(pair) for pair in zip(window.requests, other.requests, strict=True)]
    window.tokens = [max(pair) for pair in zip(window.tokens, other.tokens, strict=True)]
    window.leases = other.leases | window.leases
