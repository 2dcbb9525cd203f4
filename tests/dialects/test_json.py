"""JSON keeps what it is given, and refuses what is not JSON with one error and no other."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.json import InvalidJSON

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)

#: A class of bytes that no JSON text has -> examples of it, written for this test after the classes of RFC 8259.
NOT_JSON: dict[str, list[bytes]] = {
    "nothing": [b"", b" ", b"\t\r\n"],
    "not a number": [b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"[nan]", b'{"a":inf}', b"1#QNAN"],
    "beyond a double": [b"1e400", b"-1e400", b"[1.8e308]", b'{"a":1e99999999999}', b"9" * 400 + b".0"],
    "malformed number": [b"01", b"-01", b"1.", b".5", b"+1", b"-", b"1e", b"1e+", b"0x10", b"1_000", b"1,5", b"--1"],
    "too many digits": [b"9" * 4301, b"[-" + b"1" * 5000 + b"]"],
    "lone surrogate": [b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\ud800"', b'"\\ud800x"', b'{"\\udfff":1}'],
    "byte-order mark": [b"\xef\xbb\xbf{}", b"\xef\xbb\xbf"],
    "another encoding": ['{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-16-be"), '"ä"'.encode("latin-1")],
    "not UTF-8": [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'{"\xe2\x82":1}', b'"\xf0\x9f"'],
    "trailing bytes": [b"{} {}", b"1 2", b"[]x", b"null\x00", b'{"a":1}}', b"{}\xef\xbb\xbf", b"1;", b'{}"'],
    "cut short": [b"{", b"[", b'"', b'{"a"', b'{"a":', b'{"a":1', b"[1", b"[1,", b"tru", b"nul", b'"\\', b'"\\u12'],
    "bad structure": [b"[1,]", b"[,1]", b"[1 2]", b'{"a" 1}', b'{"a":1,}', b"{,}", b'{"a":1 "b":2}', b"]", b"}", b"[}"],
    "bad key": [b"{a:1}", b"{1:1}", b"{null:1}", b"{'a':1}", b"{[]:1}"],
    "bad string": [b"'a'", b'"\x00"', b'"\x1f"', b'"a\nb"', b'"\\x41"', b'"\\u00zz"', b'"\\a"'],
    "bad word": [b"True", b"NULL", b"undefined", b"nul1"],
    "comment": [b"// c\n1", b"/* c */ 1", b"[1] # c"],
    "foreign white space": [b"\x0c1", b"\x0b1", b"\xa01", "\u20281".encode()],
    "deep": [b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 100_000, b'[{"a":' * 50_000],
}


@pytest.mark.parametrize("kind", NOT_JSON)
def test_what_is_not_json_is_refused_with_one_error_and_what_is_too_much_with_its_own(kind: str) -> None:
    for raw in NOT_JSON[kind]:
        with pytest.raises(InvalidJSON) as caught:
            json.decode(raw)
        assert type(caught.value) is (json.TooMuchJSON if kind == "deep" else InvalidJSON)
        assert str(caught.value)


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_value_or_invalid_json(raw: bytes) -> None:
    try:
        value = json.decode(raw)
    except InvalidJSON:
        return

    assert json.decode(json.encode([value])) == [value]


def test_the_message_of_an_error_quotes_nothing() -> None:
    for raw in (b'{"api_key": sk-secret}', b'{"a": "sk-secret\x00"}', b'"sk-secret" sk-secret', b'["sk-secret'):
        with pytest.raises(InvalidJSON) as caught:
            json.decode(raw)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None


# What is JSON


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b" \t\r\n[ ] ", []),
        (b"null", None),
        (b'"\\u0000\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\"\\\\"', '\0😀/\b\f\n\r\t"\\'),
        ('"ä\x7f\u2028😀\uffff"'.encode(), "ä\x7f\u2028😀\uffff"),
        (b'{"":0,"\\u0061":1}', {"": 0, "a": 1}),
        (b"[1E2,1e-2,-0.0,0e0]", [100.0, 0.01, -0.0, 0.0]),
        (b"1e-400", 0.0),
        (b"9" * 4300, 10**4300 - 1),
    ],
)
def test_every_legal_form_is_read(raw: bytes, value: Any) -> None:
    if isinstance(value, int) and value > 10**100:
        assert json.decode(raw) % 10**30 == value % 10**30
    else:
        assert json.decode(raw) == value


@pytest.mark.parametrize(
    "number",
    ["1", "1.0", "0", "-1", "0.1", "1e-7", "12345678901234567890", "-9223372036854775809", "1" + "0" * 100, "-0.0"],
)
def test_a_number_keeps_its_form(number: str) -> None:
    raw = f'{{"n":[{number}]}}'.encode()

    assert json.encode(json.decode(raw)) == raw


def test_an_integer_stays_one_and_a_float_too() -> None:
    one, point, big = json.decode(b"[1, 1.0, 18446744073709551617]")

    assert type(one) is int
    assert type(point) is float
    assert big == 2**64 + 1


def test_of_duplicate_keys_the_last_wins() -> None:
    assert json.decode(b'{"model":"a","x":1,"model":"b"}') == {"model": "b", "x": 1}


def test_keys_keep_their_order_and_text_is_not_escaped() -> None:
    raw = '{"z":"ä","a":"😀","m":"</script>"}'.encode()

    assert json.encode(json.decode(raw)) == raw


@given(VALUES)
def test_what_was_encoded_decodes_to_the_same(value: Any) -> None:
    assert same(json.decode(json.encode([value])), [value])


def same(left: Any, right: Any) -> bool:
    """Equal, with the same types and the sign of zero."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_any_buffer_is_read(kind: type) -> None:
    assert json.decode(kind(b'{"a":[1]}')) == {"a": [1]}


# Depth


@pytest.mark.parametrize("levels", [1, 2, 5, 64])
def test_containers_may_nest_as_deep_as_the_bound_and_no_deeper(levels: int) -> None:
    for opener, closer in ((b"[", b"]"), (b'{"a":', b"}")):
        inner = b"" if opener == b"[" else b"1"
        json.decode(opener * levels + inner + closer * levels, max_depth=levels)
        with pytest.raises(InvalidJSON, match=f"deeper than {levels} levels"):
            json.decode(opener * (levels + 1) + inner + closer * (levels + 1), max_depth=levels)


def test_width_and_brackets_in_text_are_no_depth() -> None:
    assert len(json.decode(b"[" + b"[{}]," * 1000 + b"[]]")) == 1001
    assert json.decode(b'"%b"' % (b"[{" * 1000)) == "[{" * 1000


# Objects


@pytest.mark.parametrize("raw", [b"[]", b"1", b"null", b'"{}"', b"true"])
def test_a_value_that_is_no_object_is_refused_where_one_is_needed(raw: bytes) -> None:
    with pytest.raises(InvalidJSON, match="not an object"):
        json.decode_object(raw)


def test_an_object_is_read_with_its_depth_bound() -> None:
    assert json.decode_object(b'{"a":{}}', max_depth=2) == {"a": {}}
    for raw, levels in ((b'{"a":{}}', 1), (b'{"a":' * 65 + b"1" + b"}" * 65, 64)):
        with pytest.raises(InvalidJSON, match="deeper"):
            json.decode_object(raw, max_depth=levels)
