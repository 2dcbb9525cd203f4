"""Large texts decoded in steps: the same values and refusals as in one go, and no step takes long."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.json import InvalidJSON, decode_large, decode_object

#: How long one step may take, in seconds of CPU time.
MAX_STEP_S = 0.1
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def in_steps(text: bytes) -> tuple[Any, float]:
    """Return the value, and how long the longest step took."""
    steps, longest = decode_large(text), 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as done:
            return done.value, max(longest, time.thread_time() - began)
        longest = max(longest, time.thread_time() - began)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.sampled_from([1, 60, 2_500]))
def test_the_values_are_the_same(value: Any, count: int) -> None:
    """From a few bytes to many steps."""
    text = json.encode({"a": [value] * count, "b": value, "c": {str(key): value for key in range(count)}})
    assert in_steps(text)[0] == decode_object(text)


@pytest.mark.parametrize("outer", [b'{"z":[%b]}', b'{"y":{"z":[%b]},"x":1}', b' {"z": [[%b], 1 , {"a":[%b]}]}'])
def test_containers_that_hold_much_are_cut_at_any_level(outer: bytes) -> None:
    text = outer.replace(b"%b", b' {"k": "\\u00e9,]}"} ,' * 15_000 + b"1")
    assert in_steps(text)[0] == decode_object(text)


FULL = {
    "objects": b"{}," * 149_000,
    "lists of lists": b"[[]]," * 99_000,
    "keys": b'{"a":[]},' * 74_000,
    "fractions": b"1.5," * 299_000,
    "texts": b'"ab",' * 299_000,
}


@pytest.mark.parametrize("name", FULL)
def test_no_step_takes_long_at_the_bound(name: str) -> None:
    text = b'{"z":[%b1]}' % FULL[name]
    value, longest = in_steps(text)
    assert value == decode_object(text)
    assert longest < MAX_STEP_S


REFUSED = {
    "too many values": b'{"z":[%b1]}' % (b"1," * 300_000),
    "too many keys": b'{"z":[%b1]}' % (b'{"a":1},' * 100_001),
    "too deep": b'{"z":%b%b,"y":[%b1]}' % (b"[" * 100, b"]" * 100, b"1," * 50_000),
    "much too deep": b'{"z":[%b%b' % (b"1," * 50_000, b"[" * 50_000),
    "cut": b'{"z":[%b' % (b"1," * 50_000),
    "a number too many digits": b'{"z":[%b%b]}' % (b"1," * 50_000, b"9" * 310),
    "no UTF-8": b'{"z":[%b"\xff"]}' % (b"1," * 50_000),
    "bytes after it": b'{"z":[%b1]} x' % (b"1," * 50_000),
    "no object": b"[%b1]" % (b"1," * 50_000),
    "infinity": b'{"z":[%b1e400]}' % (b"1," * 50_000),
    "two values without a comma": b'{"z":[%b1 1]}' % (b"1," * 50_000),
    "a comma too many": b'{"z":[%b]}' % (b"1," * 50_000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(InvalidJSON):
        in_steps(REFUSED[name])


def test_numbers_of_a_text_with_few_values_keep_their_form() -> None:
    text = b'{"a":1.50,"b":"%b"}' % (b"x" * 100_000)
    assert json.encode(in_steps(text)[0]) == text


def test_many_long_numbers_are_refused_before_they_are_read() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidJSON):
        in_steps(b'{"z":[%b1]}' % (b"%b," % (b"9" * 4000) * 8_000))
    assert time.thread_time() - began < 1
