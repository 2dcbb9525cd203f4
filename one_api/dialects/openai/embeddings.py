"""Embeddings: the request, how a large one is split, and vectors in whichever encoding they come and are wanted.

Official clients ask for base64 unasked, and read a list of floats in its place as something else: the answer is always
in the encoding that the request asks for. Inside, a vector is an array of numbers.
"""

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias

from one_api.contract import Kind, Usage
from one_api.dialects import json
from one_api.dialects.checks import missing, wrong_type
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import model_in
from one_api.dialects.payloads import InvalidAnswer, UnfitAnswer, check_error
from one_api.dialects.usage import PLACES, counts_in
from one_api.errors import InvalidRequest

#: A text, or the ids of its tokens.
Input: TypeAlias = str | list[int]
Encoding: TypeAlias = Literal["float", "base64"]
#: Numbers of 8 bytes as they were written in JSON, or of 4 as they came in base64.
Vector: TypeAlias = "array[float]"

MAX_INPUTS = 2048
#: Of a request whose upstream reports no count.
_BYTES_PER_TOKEN = 4
#: The largest error that is looked for in an answer, in bytes.
_MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked request; ``body`` is as it came, but for ``model`` and ``input`` where they were replaced."""

    model: str
    inputs: Sequence[Input]
    encoding: Encoding
    #: How many numbers each vector must have; None leaves it to the model.
    dimensions: int | None
    body: JSONObject

    #: See ``Call``.
    kind: ClassVar[Kind] = "embedding"
    stream: ClassVar[bool] = False
    repeats: ClassVar[bool] = True

    @classmethod
    def read(cls, body: JSONObject) -> Self:
        """Check ``body``; raises InvalidRequest with ``param`` and ``code``."""
        model = model_in(body)
        inputs = _inputs_in(body)
        encoding = body.get("encoding_format")
        if encoding not in (None, "float", "base64"):
            raise InvalidRequest(
                "Invalid value for `encoding_format`: supported values are float and base64.",
                param="encoding_format",
                code="invalid_value",
            )
        dimensions = body.get("dimensions")
        if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
            raise wrong_type("dimensions", "an integer", dimensions)
        if dimensions is not None and dimensions < 1:
            raise InvalidRequest(
                "Invalid value for `dimensions`: it must be at least 1.", param="dimensions", code="invalid_value"
            )
        return cls(model, inputs, encoding or "float", dimensions, body)

    @property
    def has_token_ids(self) -> bool:
        """Return whether an input is made of token ids, which mean nothing to a model with another tokenizer."""
        return any(not isinstance(each, str) for each in self.inputs)

    def for_model(self, model: str) -> Self:
        """Return the same request for the model of that name."""
        return replace(self, model=model, body=self.body | {"model": model})

    def in_encoding(self, encoding: Encoding) -> Self:
        """Return the same request, asking for vectors in another encoding."""
        return replace(self, encoding=encoding, body=self.body | {"encoding_format": encoding})

    def of(self, inputs: Sequence[Input]) -> Self:
        """Return the same request for these inputs alone."""
        return replace(self, inputs=inputs, body=self.body | {"input": list(inputs)})

    def split(self, max_batch: int) -> list[Self]:
        """Return requests with at most ``max_batch`` inputs each, in order; this one alone if it is small enough."""
        if len(self.inputs) <= max_batch:
            return [self]
        return [self.of(self.inputs[at : at + max_batch]) for at in range(0, len(self.inputs), max_batch)]

    def estimated_tokens(self) -> int:
        """Return about how many tokens the inputs have."""
        sizes = (math.ceil(len(each.encode()) / _BYTES_PER_TOKEN) if isinstance(each, str) else len(each)
                 for each in self.inputs)  # fmt: skip
        return sum(sizes)


def _inputs_in(body: JSONObject) -> list[Input]:
    """Return what is to be embedded, one entry for each vector."""
    value = body.get("input")
    if value is None:
        raise missing("input")
    if isinstance(value, str):
        inputs: list[Any] = [value]
    elif isinstance(value, list):
        inputs = [value] if value and _is_token_id(value[0]) else value
    else:
        raise wrong_type("input", "a string or an array", value)
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(
            f"`input` has {len(inputs)} entries: at most {MAX_INPUTS} are possible.",
            param="input",
            code="invalid_value",
        )
    if not inputs or any(each == "" or each == [] for each in inputs):
        raise InvalidRequest(
            "`input` cannot be empty, nor can one of its entries.", param="input", code="invalid_value"
        )
    if not (all(isinstance(each, str) for each in inputs) or all(map(_is_token_ids, inputs))):
        raise InvalidRequest(
            "Invalid type for `input`: expected a string, strings, token ids, or arrays of token ids.",
            param="input",
            code="invalid_type",
        )
    return inputs


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_token_id, value))


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An upstream's answer before its vectors are read: one at a time, because together they may take long."""

    #: By the order of the inputs, still encoded.
    encoded: Sequence[memoryview]
    usage: Usage | None

    @classmethod
    def read(cls, data: bytes, inputs: int) -> Self:
        """Read the answer to a request with so many ``inputs``.

        Raises:
            ErrorPayload: when it reports an error.
            InvalidAnswer: when it is not the answer, or holds another number of vectors.
        """
        try:
            fields = json.fields_in(data)
            if len(data) <= _MAX_ERROR_BYTES or "data" not in fields or "error" in fields:
                check_error({name: json.decode(bytes(raw)) for name, raw in fields.items() if name != "data"})
            if "data" not in fields:
                raise InvalidAnswer("it holds no embeddings")
            entries = [json.fields_in(raw) for raw in json.items_in(fields["data"])]
            counts = counts_in({name: json.decode(bytes(raw)) for name, raw in fields.items() if name in PLACES})
        except json.InvalidJSON as error:
            raise InvalidAnswer(f"it is not JSON: {error}") from None
        if len(entries) != inputs:
            raise InvalidAnswer(f"it holds {len(entries)} embeddings for {inputs} inputs")
        if not all("embedding" in entry for entry in entries):
            raise InvalidAnswer("an entry holds no embedding")
        return cls([entry["embedding"] for entry in _in_order(entries)], Usage.read(counts))

    def vectors(self) -> Iterator[Vector]:
        """Yield the vectors in the order of the inputs; raises InvalidAnswer when one cannot be read."""
        return map(_vector, self.encoded)


def check_length(vector: Vector, first: Vector, dimensions: int | None) -> None:
    """Raise UnfitAnswer when a vector is not as long as was asked for, or not as long as the first one."""
    length = len(first) if dimensions is None else dimensions
    if len(vector) != length:
        wanted = "were asked for" if dimensions is not None else "are in another one"
        raise UnfitAnswer(f"a vector has {len(vector)} numbers, and {length} {wanted}")


def _in_order(entries: list[dict[str, memoryview]]) -> list[dict[str, memoryview]]:
    """Return the entries by their indices; where not all have one, as they came."""
    if not all("index" in entry for entry in entries):
        return entries
    by_index = {bytes(entry["index"]): entry for entry in entries}
    try:
        return [by_index[str(index).encode()] for index in range(len(entries))]
    except KeyError as error:
        raise InvalidAnswer(f"the embedding of input {error.args[0].decode()} is missing") from None


def _vector(raw: memoryview) -> Vector:
    try:
        if bytes(raw[:1]) == b'"':
            vector = array("f", base64.b64decode(json.decode(bytes(raw)), validate=True))
            if sys.byteorder == "big":
                vector.byteswap()
        else:
            vector = array("d", json.numbers_in(raw))
    except (json.InvalidJSON, binascii.Error, ValueError, OverflowError):
        raise InvalidAnswer("an embedding is neither numbers nor base64 of such") from None
    if not vector or not math.isfinite(sum(vector)):
        raise InvalidAnswer("an embedding is empty, or holds what is no number")
    return vector


def as_float32(vector: Vector) -> bytes:
    """Return a vector as base64 carries it: numbers of four bytes, the lowest first."""
    short = array("f", vector)
    if sys.byteorder == "big":
        short.byteswap()
    return short.tobytes()


def from_float32(data: bytes) -> Vector:
    """Return the vector that ``as_float32`` made ``data`` of."""
    vector = array("f", data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def answer_of(vectors: Sequence[Vector], model: str, prompt_tokens: int) -> JSONObject:
    """Return OpenAI's answer, with the vectors as arrays; see ``written``."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }


def written(answer: JSONObject, encoding: Encoding) -> Iterator[bytes]:
    """Yield the text of ``answer`` piece by piece, one for each vector."""
    yield b'{"object":"list","data":['
    for position, entry in enumerate(answer["data"]):
        vector: Any = base64.b64encode(as_float32(entry["embedding"])).decode() if encoding == "base64" else (
            entry["embedding"].tolist()
        )  # fmt: skip
        yield b"," * (position > 0) + json.encode(entry | {"embedding": vector})
    yield b"]," + json.encode({"model": answer["model"], "usage": answer["usage"]})[1:]
