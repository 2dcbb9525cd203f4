"""Cells, and the text that Prometheus reads: others' parsers read back what was counted."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from one_api.observability.cells import SECONDS, Family, Histogram, Number


def counter(*labels: str, max_cells: int = 2000) -> Family[Number]:
    return Family("one_api_x_total", "Help.", "counter", Number, labels, max_cells)


def read(family: Family[Number] | Family[Histogram]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a family by name and labels, as Prometheus's own client reads them; one worker's."""
    text = family.head + "".join(family.samples("3"))
    (found,) = text_string_to_metric_families(text)
    assert found.documentation == "Help."
    samples = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in found.samples}
    assert all(("worker", "3") in labels for _, labels in samples)
    return {(name, tuple(pair for pair in labels if pair[0] != "worker")): value
            for (name, labels), value in samples.items()}  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**53), max_size=5))
def test_whatever_is_in_a_label_is_read_back(counts: dict[str, int]) -> None:
    family = counter("model")
    for value, count in counts.items():
        family.at(value).value += count

    found = {} if not counts else read(family)

    assert found == {("one_api_x_total", (("model", value),)): count for value, count in counts.items()}


def test_names_that_cannot_be_encoded_are_told_apart() -> None:
    family = counter("model")
    for value in ("m\ud800", "m\udc00"):
        family.at(value).value += 1

    assert len(read(family)) == 2
    assert "".join(family.samples("0")).encode()


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_each_observation_once(seconds: list[float]) -> None:
    family = Family("one_api_s_seconds", "Help.", "histogram", lambda: Histogram(SECONDS))
    cell = family.at()
    for each in seconds:
        cell.observe(each)

    found = read(family)

    for bound in SECONDS:
        assert found["one_api_s_seconds_bucket", (("le", str(bound)),)] == sum(each <= bound for each in seconds)
    assert found["one_api_s_seconds_bucket", (("le", "+Inf"),)] == len(seconds)
    assert found["one_api_s_seconds_count", ()] == len(seconds)
    assert abs(found["one_api_s_seconds_sum", ()] - sum(seconds)) <= 1e-9 * max(1.0, sum(seconds))


def test_the_sum_of_a_histogram_never_falls() -> None:
    """A timer may fire before it is due, by its clock."""
    family = Family("one_api_s_seconds", "Help.", "histogram", lambda: Histogram(SECONDS))
    for seconds in (0.5, -0.25):
        family.at().observe(seconds)

    assert read(family)["one_api_s_seconds_sum", ()] == 0.5
    assert read(family)["one_api_s_seconds_count", ()] == 2


def test_what_finds_no_room_is_counted_under_other() -> None:
    family = counter("model", "outcome", max_cells=2)
    for number in range(10):
        family.at(f"m{number}", "ok").value += 1
    family.at("m0", "ok").value += 1

    found = read(family)

    assert found == {
        ("one_api_x_total", (("model", "m0"), ("outcome", "ok"))): 2,
        ("one_api_x_total", (("model", "m1"), ("outcome", "ok"))): 1,
        ("one_api_x_total", (("model", "other"), ("outcome", "ok"))): 8,
    }
    assert family.overflows == 8


def test_what_is_forgotten_begins_anew() -> None:
    family = counter("deployment")
    family.at("a/m").value += 5
    family.at("b/m").value += 1

    family.forget("deployment", {"a/m"})
    family.at("a/m").value += 1

    assert read(family) == {
        ("one_api_x_total", (("deployment", "b/m"),)): 1,
        ("one_api_x_total", (("deployment", "a/m"),)): 1,
    }
