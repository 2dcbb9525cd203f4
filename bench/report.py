"""What a benchmark found, as Markdown: every figure with its ratio to the same figure of the row it is held against."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.closed_loop import LoadResult
from bench.procfs import Memory
from bench.slow_streams import SlowResult
from bench.target import Kind

MIB = 1 << 20


@dataclass(frozen=True)
class LoadRow:
    """One closed-loop run; CPU is that of the server's process tree, `others` the CPUs busy with foreign things."""

    server: str
    kind: Kind
    connections: int
    result: LoadResult
    cpu_ms_per_request: float
    others: float

    @property
    def figures(self) -> tuple[float, ...]:
        """In the order of LOAD_HEADS, with a ratio each."""
        result = self.result
        return result.requests_per_s, result.p50_ms, result.p99_ms, self.cpu_ms_per_request


@dataclass(frozen=True)
class SlowRow:
    """One run of many paced streams; `others` as in LoadRow."""

    server: str
    result: SlowResult
    cpu_s: float
    kib_per_stream: float
    others: float

    @property
    def figures(self) -> tuple[float, ...]:
        """In the order of SLOW_HEADS, without the count of completed streams."""
        result = self.result
        return self.cpu_s, self.kib_per_stream, result.first_chunk_p50_ms, result.late_p50_ms, result.late_p99_ms


@dataclass(frozen=True)
class IdleRow:
    """One process that has done nothing yet, and how long its program takes to import."""

    server: str
    memory: Memory
    import_s: float

    @property
    def figures(self) -> tuple[float, ...]:
        """In the order of IDLE_HEADS."""
        return self.memory.rss / MIB, self.memory.pss / MIB, self.import_s


@dataclass(frozen=True)
class Goal:
    """A figure and the limit that it has to keep."""

    name: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass
class Report:
    """Everything that one benchmark found; the first row of each list is what the others are held against."""

    load: list[LoadRow] = field(default_factory=list)
    slow: list[SlowRow] = field(default_factory=list)
    idle: list[IdleRow] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def load_of(self, server: str, kind: Kind, connections: int) -> LoadRow:
        """The row of one run."""
        return next(row for row in self.load if (row.server, row.kind, row.connections) == (server, kind, connections))

    def slow_of(self, server: str) -> SlowRow:
        """The row of one server."""
        return next(row for row in self.slow if row.server == server)

    @property
    def others(self) -> float:
        """The most CPUs that were busy with foreign things during a run."""
        return max([row.others for row in self.load] + [row.others for row in self.slow])

    def markdown(self) -> str:
        """All tables."""
        parts = [
            "Closed loop; CPU of the server's process tree; ratios to the direct run:",
            table(LOAD_HEADS, map(self._load_cells, self.load)),
            "Paced streams, all opened at once; ratios to the direct run:",
            table(SLOW_HEADS, map(self._slow_cells, self.slow)),
            "At rest; ratios to a bare Python:",
            table(IDLE_HEADS, ([row.server, *with_ratios(row.figures, self.idle[0].figures)] for row in self.idle)),
            "Goals; ratios to the limit:",
            table(GOAL_HEADS, map(_goal_cells, self.goals)),
        ]
        return "\n\n".join(parts)

    def _load_cells(self, row: LoadRow) -> list[str]:
        base = self.load_of(self.load[0].server, row.kind, row.connections)
        figures = with_ratios(row.figures, base.figures)
        return [row.server, row.kind, str(row.connections), *figures, number(row.others)]

    def _slow_cells(self, row: SlowRow) -> list[str]:
        completed = f"{row.result.completed} ({row.result.completed / row.result.streams:.2f}x)"
        return [row.server, completed, *with_ratios(row.figures, self.slow[0].figures), number(row.others)]


LOAD_HEADS = ("server", "request", "connections", "req/s", "p50 ms", "p99 ms", "CPU ms/request", "others' CPUs")
SLOW_HEADS = (
    "server",
    "completed",
    "CPU s",
    "KiB/stream",
    "first chunk p50 ms",
    "late p50 ms",
    "late p99 ms",
    "others' CPUs",
)
IDLE_HEADS = ("process", "RSS MiB", "PSS MiB", "import s")
GOAL_HEADS = ("goal", "measured", "limit", "met")


def _goal_cells(goal: Goal) -> list[str]:
    bound = "at least" if goal.at_least else "at most"
    return [
        goal.name,
        with_ratios([goal.measured], [goal.limit])[0],
        f"{bound} {number(goal.limit)}",
        "yes" if goal.met else "NO",
    ]


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def with_ratios(figures: Sequence[float], base: Sequence[float]) -> list[str]:
    """Each figure followed by its ratio to the base's; no ratio to nothing."""
    return [
        f"{number(figure)} ({number(figure / other)}x)" if other else number(figure)
        for figure, other in zip(figures, base, strict=True)
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as text."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
