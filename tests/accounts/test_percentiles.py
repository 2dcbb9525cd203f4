"""Percentiles of what is counted in steps, and rows for spreadsheets."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.accounts.percentiles import FIRST, FIRST_MS, PERCENTS, WHOLE
from one_api.accounts.sheets import cell, lines


def counted(times: list[int]) -> list[int]:
    """The counts of the steps of these times."""
    return FIRST.counts(times)


def test_where_nothing_was_counted_there_is_no_percentile() -> None:
    assert FIRST.percentile_ms(FIRST.counts([]), 50) is None
    assert WHOLE.percentile_ms(WHOLE.counts([]), 99) is None


@pytest.mark.parametrize(
    ("times", "p50", "p95"),
    [
        ([250] * 100, 125, 238),  # all in the first step, as if spread evenly
        ([251] * 100, 375, 488),
        ([100] * 50 + [5000] * 50, 250, 7600),
        ([9000] * 10, 8000, 8000),  # beyond the last limit
        ([0], 125, 238),
    ],
)
def test_a_percentile_is_within_its_step(times: list[int], p50: int, p95: int) -> None:
    counts = counted(times)

    assert (FIRST.percentile_ms(counts, 50), FIRST.percentile_ms(counts, 95)) == (p50, p95)


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=200))
def test_a_percentile_is_in_the_step_of_the_true_one(times: list[int]) -> None:
    counts = counted(times)
    found = [FIRST.percentile_ms(counts, percent) for percent in PERCENTS]

    assert sum(counts) == len(times)
    assert found == sorted(found, key=lambda each: each or 0)
    for percent, value in zip(PERCENTS, found, strict=True):
        true = sorted(times)[max(0, -(-len(times) * percent // 100) - 1)]
        above = min((limit for limit in FIRST_MS if limit >= true), default=FIRST_MS[-1])
        below = max((limit for limit in (0, *FIRST_MS) if limit < true), default=0)
        assert value is not None
        assert min(below, FIRST_MS[-1]) <= value <= above


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("+1+cmd", "'+1+cmd"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-0.25", "-0.25"),
        (-7, "-7"),
        (None, ""),
        (["a", "b"], "a b"),
        (["=a"], "'=a"),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_no_cell_is_a_formula(value: object, shown: str) -> None:
    assert cell(value) == shown
    assert list(csv.reader(io.StringIO(lines([{"a": value, "b": 1}])))) == [["a", "b"], [shown, "1"]]
