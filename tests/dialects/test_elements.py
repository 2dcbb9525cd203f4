"""What a JSON text holds is known before it is decoded, and too much is refused while it is still cheap."""

import contextlib
import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.elements import Elements, count_elements

MANY = 10**9


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"1", Elements(0, 0, 0)),
        (b'{"a": [1, 2, {}], "b": "x"}', Elements(6, 3, 2)),
        (b'"[{,:"', Elements(0, 0, 0)),
        (rb'["\"[", "\\", {"\\\"": ",\\"}]', Elements(4, 2, 1)),
        (rb'["a\\\\", "\\\\\",[", []]', Elements(4, 2, 0)),
    ],
)
def test_only_what_stands_outside_texts_counts(text: bytes, found: Elements) -> None:
    assert count_elements(text, MANY) == found
    assert count_elements(bytearray(text), MANY) == found


VALUES = st.recursive(
    st.none() | st.integers() | st.text('a"\\,[{:'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a"\\,[{:'), inner),
    max_leaves=30,
)


@given(VALUES, st.data())
def test_pieces_may_be_cut_anywhere(value: object, data: st.DataObject) -> None:
    text = json.encode([value])
    cut = data.draw(st.integers(0, len(text)))

    # Where 64 KiB end, a piece ends.
    assert count_elements(b" " * (64 * 1024 - cut) + text, MANY) == count_elements(text, MANY)


HUGE = {
    "objects": b'{"z":[' + b"{}," * 11_000_000 + b"{}]}",
    "arrays": b"[" + b"[]," * 11_000_000 + b"[]]",
    "numbers": b"[" + b"1," * 16_000_000 + b"1]",
    "after a text": b'["' + b"x" * 8_000_000 + b'",' + b"{}," * 8_000_000 + b"{}]",
    "texts": b"[" + b'"",' * 11_000_000 + b'""]',
}


@pytest.mark.parametrize("kind", HUGE)
def test_too_many_values_are_refused_before_they_take_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(json.InvalidJSON, match="more than 300000 values"):
            json.decode(HUGE[kind])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("text", ["[{, " * 300_000, '"[{,\\' * 300_000, '\\"' * 300_000])
def test_a_text_of_brackets_and_commas_is_one_value(text: str) -> None:
    assert json.decode(json.encode([text])) == [text]


def test_the_collector_runs_again_afterwards() -> None:
    for text in (b"[" + b"[]," * 100_000 + b"[]]", b"[" + b"x" * 100_000):
        with contextlib.suppress(json.InvalidJSON):
            json.decode(text)
        assert gc.isenabled()
