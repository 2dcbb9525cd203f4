"""Percentiles of times that are counted in steps, so that sums of many hours have them, too. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

#: Up to how many milliseconds each step goes; a last one has no end. First for the first content, then for all of it.
FIRST_MS = (250, 500, 1000, 2000, 4000, 8000)
WHOLE_MS = (500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)
#: Which percentiles are shown.
PERCENTS = (50, 95, 99)


class Steps:
    """The steps of one kind of time."""

    def __init__(self, name: str, limits_ms: Sequence[int]) -> None:
        self.name = name
        self._limits = limits_ms
        #: The columns that count them.
        self.columns = tuple(f"{name}_{each}" for each in (*limits_ms, "more"))

    def counts(self, times_ms: Iterable[int]) -> list[int]:
        """Return what times add to the columns."""
        counts = [0] * len(self.columns)
        for each in times_ms:
            counts[bisect_left(self._limits, each)] += 1
        return counts

    def percentile_ms(self, counts: Sequence[int], percent: int) -> int | None:
        """Return below which time so many per cent of what was counted are; None where nothing was.

        Within a step they count as spread evenly; beyond the last limit nothing is known but that, so it is returned.
        """
        wanted, seen, below = sum(counts) * percent / 100, 0, 0
        if not wanted:
            return None
        for limit, count in zip(self._limits, counts, strict=False):
            if seen + count >= wanted:
                return round(below + (limit - below) * (wanted - seen) / count)
            seen, below = seen + count, limit
        return below


FIRST, WHOLE = Steps("first", FIRST_MS), Steps("ms", WHOLE_MS)
