"""Requests for embeddings and their answers: what is refused, how batches are split, and vectors in both encodings."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.contract import Usage
from one_api.dialects.openai.embeddings import (
    MAX_INPUTS,
    EmbeddingRequest,
    RawAnswer,
    answer_of,
    as_float32,
    check_length,
    from_float32,
    written,
)
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer, UnfitAnswer
from one_api.errors import InvalidRequest


def request(value: Any = "hello", **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest.read({"model": "m", "input": value, **fields})


def packed(*numbers: float) -> str:
    """Numbers as base64 carries them, little-endian whatever the machine."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def answer(*entries: Any, **fields: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(entries)]
    return json.dumps({"object": "list", "data": data, "model": "up", **fields}).encode()


def vectors(data: bytes, inputs: int, dimensions: int | None = None) -> list[list[float]]:
    found = list(RawAnswer.read(data, inputs).vectors())
    for each in found:
        check_length(each, found[0], dimensions)
    return [list(each) for each in found]


# Requests


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_shape_of_an_input(value: Any, inputs: list[Any]) -> None:
    read = request(value)

    assert list(read.inputs) == inputs
    assert read.has_token_ids is not isinstance(inputs[0], str)
    assert read.body["input"] is value


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": [[1], []]}, "input", "invalid_value"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input", "invalid_value"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": {"text": "a"}}, "input", "invalid_type"),
        ({"input": ["a", 1]}, "input", "invalid_type"),
        ({"input": [1, "a"]}, "input", "invalid_type"),
        ({"input": [1, 2.5]}, "input", "invalid_type"),
        ({"input": [True]}, "input", "invalid_type"),
        ({"input": [-1]}, "input", "invalid_type"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"dimensions": "256"}, "dimensions", "invalid_type"),
        ({"dimensions": True}, "dimensions", "invalid_type"),
        ({"model": 7}, "model", "invalid_type"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EmbeddingRequest.read({"model": "m", "input": "a", **fields})

    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("given", "encoding"),
    [({}, "float"), ({"encoding_format": None}, "float"), ({"encoding_format": "base64"}, "base64")],
)
def test_floats_are_meant_where_nothing_is_said(given: dict[str, Any], encoding: str) -> None:
    assert request(**given).encoding == encoding


def test_a_large_request_is_split_in_order() -> None:
    parts = request(["a", "b", "c", "d", "e"], user="u").split(2)

    assert [part.body["input"] for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert all(part.body["user"] == "u" for part in parts)


def test_a_request_that_is_small_enough_goes_as_it_came() -> None:
    asked = request("a")

    assert asked.split(1) == [asked]
    assert asked.split(1)[0].body["input"] == "a"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=50), st.integers(1, 60))
def test_no_input_is_lost_when_a_request_is_split(inputs: list[str], most: int) -> None:
    parts = request(inputs).split(most)

    assert [each for part in parts for each in part.inputs] == inputs
    assert all(1 <= len(part.inputs) <= most for part in parts)


# Answers


def test_numbers_and_base64_are_read_alike() -> None:
    assert vectors(answer([0.5, -1.0], packed(0.5, -1.0)), 2) == [[0.5, -1.0], [0.5, -1.0]]


def test_vectors_come_in_the_order_of_their_indices() -> None:
    data = json.dumps({"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]}).encode()

    assert vectors(data, 2) == [[0.0], [1.0]]


def test_where_there_are_no_indices_the_order_counts() -> None:
    data = json.dumps({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}).encode()

    assert vectors(data, 2) == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        (answer([1.0]), 2),
        (answer([1.0], [2.0]), 1),
        (answer([]), 1),
        (answer("AAA="), 1),
        (answer("not base64"), 1),
        (answer(["a"]), 1),
        (answer(None), 1),
        (answer({"a": 1}), 1),
        (answer(packed(float("nan"))), 1),
        (answer(packed(float("inf"))), 1),
        (b'{"data":[{"index":0,"embedding":[NaN]}]}', 1),
        (b'{"data":[{"index":0,"embedding":[1.0]},{"index":0,"embedding":[1.0]}]}', 2),
        (b'{"data":[{"index":1,"embedding":[1.0]},{"index":2,"embedding":[1.0]}]}', 2),
        (b'{"data":[{"index":0}]}', 1),
        (b'{"data":null}', 1),
        (b'{"object":"list"}', 1),
        (b"[]", 1),
        (b"<html>", 1),
        (answer([1.0])[:-9], 1),
        (b"", 1),
    ],
)
def test_what_is_no_answer(data: bytes, inputs: int) -> None:
    with pytest.raises(InvalidAnswer):
        vectors(data, inputs)


@pytest.mark.parametrize("report", [{"error": {"message": "no"}}, {"message": "no such model", "code": 404}])
def test_an_error_in_place_of_an_answer(report: dict[str, Any]) -> None:
    with pytest.raises(ErrorPayload) as caught:
        vectors(json.dumps(report).encode(), 1)

    assert caught.value.payload == report


def test_vectors_of_another_length_than_asked_for_are_unfit() -> None:
    with pytest.raises(UnfitAnswer, match="3 numbers, and 2 were asked for"):
        vectors(answer([1.0, 2.0, 3.0]), 1, dimensions=2)


def test_vectors_of_different_lengths_are_unfit() -> None:
    with pytest.raises(UnfitAnswer):
        vectors(answer([1.0, 2.0], [1.0]), 2)


def test_the_usage_of_an_answer() -> None:
    assert RawAnswer.read(answer([1.0], usage={"prompt_tokens": 7, "total_tokens": 7}), 1).usage == Usage(7, 0)
    assert RawAnswer.read(answer([1.0]), 1).usage is None


# What the client gets

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=5), st.booleans())
def test_either_encoding_says_the_same(numbers: list[list[float]], as_base64: bool) -> None:
    came = answer(*(packed(*each) if as_base64 else each for each in numbers))
    read = list(RawAnswer.read(came, len(numbers)).vectors())

    floats = json.loads(b"".join(written(answer_of(read, "m", 3), "float")))
    base = json.loads(b"".join(written(answer_of(read, "m", 3), "base64")))

    assert [entry["embedding"] for entry in floats["data"]] == numbers
    assert [list(struct.unpack("<3f", base64.b64decode(entry["embedding"]))) for entry in base["data"]] == numbers
    assert floats | {"data": None} == base | {"data": None}
    assert [entry["index"] for entry in floats["data"]] == list(range(len(numbers)))


def test_numbers_come_back_as_exactly_as_they_were_written() -> None:
    read = list(RawAnswer.read(answer([0.1, -0.006929283495992422]), 1).vectors())

    data = json.loads(b"".join(written(answer_of(read, "m", 3), "float")))["data"]

    assert data == [{"object": "embedding", "index": 0, "embedding": [0.1, -0.006929283495992422]}]


@given(st.lists(finite, min_size=1))
def test_what_is_kept_is_found_again(numbers: list[float]) -> None:
    (vector,) = RawAnswer.read(answer(packed(*numbers)), 1).vectors()

    assert list(from_float32(as_float32(vector))) == numbers
