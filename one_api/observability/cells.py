"""Counts that are cheap to add to, and their text in the format that Prometheus reads (version 0.0.4).

A family is one metric with its labels; a cell is one set of their values. Cells belong to one event loop: nothing here
is locked.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

#: Cells of one family; what comes on top is counted in those whose open labels are "other".
MAX_CELLS = 2000
#: Labels whose values are named by the configuration or by upstreams; those of the others are closed lists.
OPEN_LABELS = frozenset({"model", "deployment", "key"})

#: Seconds: 10 ms to 655 s, doubling.
SECONDS = tuple(0.01 * 2**power for power in range(17))
#: Seconds for each token of a stream.
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
#: Seconds of what the gateway itself takes.
OWN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Cell(Protocol):
    """What is counted for one set of labels."""

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield its samples; ``labels`` are in text, without braces."""


class Number:
    """A count or a level."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """See ``Cell``."""
        yield f"{name}{{{labels}}} {_text(self.value)}"


class Histogram:
    """How often what was observed fell between two bounds, and the sum of it."""

    __slots__ = ("_counts", "_sum", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation; less than 0, which clocks of little precision give, counts as 0: no sum may fall."""
        value = max(0.0, value)
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """See ``Cell``."""
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {_text(self._sum)}"
        yield f"{name}_count{{{labels}}} {total}"


C = TypeVar("C", bound=Cell)


class Family(Generic[C]):
    """One metric: its name, what it means, and a cell for each set of values of its labels."""

    def __init__(
        self,
        name: str,
        help_text: str,
        kind: Kind,
        make: Callable[[], C],
        labels: tuple[str, ...] = (),
        max_cells: int = MAX_CELLS,
    ) -> None:
        """``make`` makes a cell."""
        self.name = name
        self.help_text = help_text
        self.kind = kind
        self.labels = labels
        #: Calls that found no room for a cell of their own.
        self.overflows = 0
        self._open = [label in OPEN_LABELS for label in labels]
        self._make = make
        self._max_cells = max_cells
        self._cells: dict[tuple[str, ...], C] = {}
        #: The labels of each cell as text.
        self._texts: dict[tuple[str, ...], str] = {}

    @property
    def head(self) -> str:
        """Return the lines that stand above its samples."""
        return f"# HELP {self.name} {self.help_text}\n# TYPE {self.name} {self.kind}\n"

    @property
    def size(self) -> int:
        """Return how many cells there are."""
        return len(self._cells)

    def at(self, *values: str) -> C:
        """Return the cell for these values of the labels, in their order."""
        cell = self._cells.get(values)
        return cell if cell is not None else self._new(values)

    def _new(self, values: tuple[str, ...]) -> C:
        if len(self._cells) >= self._max_cells:
            self.overflows += 1
            values = tuple(["other" if is_open else each for is_open, each in zip(self._open, values, strict=True)])
            if (known := self._cells.get(values)) is not None:
                return known
        pairs = zip(self.labels, values, strict=True)
        self._texts[values] = "".join(f'{label}="{_escaped(value)}",' for label, value in pairs)
        cell = self._cells[values] = self._make()
        return cell

    def has_room(self, cells: int, *values: str) -> bool:
        """Return whether these values of the labels have a cell, or so many more have room."""
        return values in self._cells or len(self._cells) + cells <= self._max_cells

    def clear(self) -> None:
        """Forget every cell: the levels are about to be set anew."""
        self._cells.clear()
        self._texts.clear()

    def values_of(self, label: str) -> set[str]:
        """Return the values of one label that there are cells for; none where it is not a label."""
        if label not in self.labels:
            return set()
        place = self.labels.index(label)
        return {values[place] for values in self._cells}

    def forget(self, label: str, gone: set[str]) -> None:
        """Drop the cells with these values of a label; does nothing where it is not a label."""
        if label not in self.labels:
            return
        place = self.labels.index(label)
        for values in [values for values in self._cells if values[place] in gone]:
            del self._cells[values], self._texts[values]

    def samples(self, worker: str) -> Iterator[str]:
        """Yield the text of one cell after the other; the label ``worker`` says whose they are."""
        for text, cell in [(self._texts[values], cell) for values, cell in self._cells.items()]:
            yield "".join(f"{line}\n" for line in cell.lines(self.name, f'{text}worker="{worker}"'))


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(value: str) -> str:
    if not value.isascii():  # an upstream's name of a model may hold half a character, which cannot be encoded
        value = value.encode(errors="backslashreplace").decode()
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
