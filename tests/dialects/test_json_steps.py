"""Large texts decoded in steps: the same values and refusals as in one go, and no step takes long."""

import gc
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.json import InvalidJSON, decode_large, decode_large_value, decode_object, encode_large

#: How long one step may take, in seconds of CPU time.
MAX_STEP_S = 0.1
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def in_steps(text: bytes) -> tuple[Any, float]:
    """Return the value, and how long the longest step took."""
    return run(decode_large(text))


def run(steps: Generator[None, None, Any]) -> tuple[Any, float]:
    """Return what ``steps`` return, and how long the longest of them took."""
    longest = 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as done:
            return done.value, max(longest, time.thread_time() - began)
        longest = max(longest, time.thread_time() - began)


def check_steps(begin: Callable[[], Generator[None, None, Any]], most_s: float) -> Any:
    """Return what the steps return, and compare how long the longest takes.

    What a virtual machine takes away counts as work of the thread that ran, so the calmest of three runs counts.
    """
    longest: list[float] = []
    while not longest or (longest[-1] >= most_s and len(longest) < 3):
        value, longest_s = run(begin())
        longest.append(longest_s)
    assert min(longest) < most_s, longest
    return value


@settings(max_examples=25)
@given(VALUES, st.sampled_from([1, 60, 2_500]))
def test_the_values_and_refusals_are_the_same(value: Any, count: int) -> None:
    """From a few bytes to many steps, and to more keys than are read."""
    text = json.encode({"a": [value] * count, "b": value, "c": {str(key): value for key in range(count)}})
    assert result(lambda: in_steps(text)[0]) == result(lambda: decode_object(text))


def result(read: Callable[[], Any]) -> Any:
    """Return what ``read`` returns, or why it refuses."""
    try:
        return read()
    except InvalidJSON as error:
        return str(error)


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
    assert check_steps(lambda: decode_large(text), MAX_STEP_S) == decode_object(text)


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


# Long strings, which are cut

#: How long one step over long strings may take, in seconds of CPU time.
MAX_STRING_STEP_S = 0.05
LARGE = 30_000_000
UNITS = {
    "line ends": rb"\n",
    "quotes": rb"\"",
    "backslashes": rb"\\",
    "letters as escapes": rb"\u0041",
    "other letters as escapes": rb"\u4e2d",
    "pairs as escapes": rb"\ud83d\ude00",
    "pairs after backslashes": rb"\\\uD83D\uDE00",
    "escapes that look like pairs": rb"\\ud83d\\ude00",
    "plain": b"x",
    "two bytes": "\u00e9".encode(),
    "three bytes": "\u4e2d".encode(),
    "four bytes": "\U0001f600".encode(),
    "mixed": "\\n\U0001f600\\ud83d\\ude00x\u00e9".encode(),
}
SHAPES = {"a value": b'{"a":"%b","b":[1.50]}', "a key": b'{"b":[1.50],"%b":1}', "both": b'{"%b":{"c":["%b"]},"d":1}'}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", UNITS)
def test_long_strings_are_the_same_wherever_they_are_cut(unit: str, shape: str) -> None:
    """Cut at each place of a unit, by what stands before."""
    for before in range(13):
        string = b"y" * before + UNITS[unit] * (300_000 // len(UNITS[unit]))
        text = SHAPES[shape].replace(b"%b", string)
        value = in_steps(text)[0]
        assert value == decode_object(text)
        assert list(value) == list(decode_object(text))
        assert b"".join(run(encode_large(value))[0]) == json.encode(value)


@pytest.mark.parametrize("shape", [*SHAPES, "many"])
@pytest.mark.parametrize("unit", UNITS)
def test_no_step_over_long_strings_takes_long(unit: str, shape: str) -> None:
    if shape == "many":
        count, form = 500, b'{"z":[%b1]}' % (b'"%b",' * 500)
    else:
        count, form = SHAPES[shape].count(b"%b"), SHAPES[shape]
    text = form.replace(b"%b", UNITS[unit] * (LARGE // count // len(UNITS[unit])))
    value = check_steps(lambda: decode_large(text), MAX_STRING_STEP_S)
    check_steps(lambda: encode_large(value), MAX_STRING_STEP_S)


SPOILT = {
    "a lone surrogate": rb"\ud83d",
    "no escape": rb"\x41",
    "half an escape": rb"\u00",
    "a control character": b"\n",
    "no UTF-8": b"\xff",
    "half a character": "\u4e2d".encode()[:2],
}


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("name", SPOILT)
def test_long_strings_are_refused_like_short_ones(name: str, place: int) -> None:
    string = b"x" * place + SPOILT[name] + b"x" * (300_000 - place)
    for form in SHAPES.values():
        with pytest.raises(InvalidJSON):
            in_steps(form.replace(b"%b", string))


def test_a_string_without_its_end_is_refused_before_it_is_decoded() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidJSON):
        in_steps(b'{"a":"' + rb"\n" * (LARGE // 2))
    assert time.thread_time() - began < 0.5


def test_long_strings_are_repaired_in_steps() -> None:
    text = b'{"a":NaN,"b":"%b\xff","c":"\xf0\x9f\x98\x80\\ud83d%b"}' % (b"x" * 200_000, "\U0001f600".encode() * 50_000)
    value, _ = run(decode_large_value(text, generously=True))
    assert value == {"a": None, "b": "x" * 200_000 + "\ufffd", "c": "\U0001f600\ufffd" + "\U0001f600" * 50_000}


def test_of_two_equal_long_keys_the_last_wins() -> None:
    key = b"k" * 200_000
    assert in_steps(b'{"%b":1,"a":2,"%b":3}' % (key, key))[0] == {"k" * 200_000: 3, "a": 2}


def test_long_containers_around_one_another_are_bounded() -> None:
    """Each of them is gone through from its beginning."""
    inside = b'"%b",' % (b"x" * 6_000) * 400
    deep = b'{"z":%b%b1%b}' % (b"[" * 30, inside, b"]" * 30)
    with pytest.raises(InvalidJSON, match="levels"):
        in_steps(deep)
    assert in_steps(deep.replace(b"[" * 30, b"[" * 10).replace(b"]" * 30, b"]" * 10))[0]


@settings(max_examples=25)
@given(VALUES, st.sampled_from([1, 60, 2_500]))
def test_what_is_encoded_in_steps_is_the_same(value: Any, count: int) -> None:
    whole = {"a": [value] * count, "b": value, "c": {str(key): value for key in range(count)}}
    assert b"".join(run(encode_large(whole))[0]) == json.encode(whole)


@pytest.mark.parametrize("name", FULL)
def test_no_step_takes_long_when_much_is_encoded(name: str) -> None:
    value = decode_object(b'{"z":[%b1]}' % FULL[name])
    assert b"".join(check_steps(lambda: encode_large(value), MAX_STEP_S)) == json.encode(value)


# The collector


@pytest.fixture
def thawed() -> Generator[None]:
    """Leave the collector as it was."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize("decoder", [lambda text: in_steps(text)[0], decode_object], ids=["in steps", "in one go"])
def test_the_collector_never_sees_what_many_containers_were_decoded(decoder: Any) -> None:
    text = b'{"z":[%b{"last":[1]}]}' % (b'{"a":[]},' * 12_000)
    value = decoder(text)
    seen = {id(each) for each in gc.get_objects()}
    assert not seen & {id(value), id(value["z"]), id(value["z"][0]), id(value["z"][0]["a"]), id(value["z"][-1])}
    assert gc.isenabled()


class Node:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.other = self


@pytest.mark.usefixtures("thawed")
def test_garbage_is_not_frozen_with_what_was_decoded() -> None:
    """Frozen, it would stay for minutes, with all that it holds."""
    gc.collect()
    left = weakref.ref(Node())
    assert left() is not None
    decode_object(b'{"z":[%b1]}' % (b'{"a":[]},' * 12_000))
    assert left() is None


@pytest.mark.usefixtures("thawed")
def test_the_collector_goes_on_with_what_few_containers_were_decoded() -> None:
    frozen = gc.get_freeze_count()
    value = decode_object(b'{"a":[{"b":"%b"}]}' % (b"x" * 100_000))
    assert gc.get_freeze_count() <= frozen
    assert id(value["a"]) in {id(each) for each in gc.get_objects()}
