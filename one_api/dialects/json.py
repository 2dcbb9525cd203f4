"""JSON, in one place: numbers keep their form, nothing that is not JSON passes.

Of duplicate keys the last wins. ``1`` stays ``1``, ``1.0`` stays ``1.0`` and integers of any size stay exact;
``NaN``, ``Infinity``, numbers beyond a double (``1e400``), lone surrogates and a byte-order mark are refused; what an
upstream sent may be read more generously.
"""

import gc
import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec

from one_api.contract import JSONObject as JSONObject
from one_api.dialects.characters import all_whole, whole
from one_api.dialects.elements import Elements, count_elements, count_in_steps, is_deeper
from one_api.dialects.elements import InvalidJSON as InvalidJSON
from one_api.dialects.elements import TooMuchJSON as TooMuchJSON
from one_api.dialects.json_pieces import PieceWriter
from one_api.dialects.json_steps import (
    LONG_STEP_BYTES,
    StepDecoder,
    Steps,
    long_strings,
    put_in,
    without_long_strings,
)

#: More keys than this, in all objects together, no request needs.
_MAX_KEYS = 100_000
#: More values than this no text may hold: each takes up to a hundred bytes of memory once it is decoded.
MAX_VALUES = 300_000
#: Of a text with more values than this, numbers lose the form that they were written in: to keep it takes long.
_MANY_VALUES = 20_000
#: A longer text is not read generously in steps, its long strings aside, in bytes: it is done in one.
_MAX_REPAIRED_BYTES = 8 * 1024 * 1024
#: While a longer text than this is decoded, the collector waits: it would go through all that is new, again and again.
_LONG_BYTES = 64 * 1024
#: Of a text with more containers than this the collector never sees what was decoded.
_MANY_CONTAINERS = 5_000


class WrittenFloat(float):
    """A number with a fraction or an exponent that is encoded as it was written: ``1.0``, ``0.10``, ``1e2``."""

    __slots__ = ("written",)

    written: str


def _written_float(written: str) -> WrittenFloat:
    """Read a number (a hook of msgspec)."""
    number = WrittenFloat(written)
    number.written = written
    if number - number != 0:  # infinite
        raise InvalidJSON("Number out of range")
    return number


def _as_written(value: Any) -> Any:
    """Return how a number goes into a text (a hook of msgspec)."""
    if isinstance(value, WrittenFloat):
        return msgspec.Raw(value.written.encode())
    raise TypeError(f"{type(value).__name__} is no JSON")


def _as_float(value: Any) -> Any:
    """Return a number without the form that it was written in (a hook of msgspec)."""
    if isinstance(value, WrittenFloat):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


#: A value that is encoded already: it goes into a text as it is.
Encoded: TypeAlias = msgspec.Raw

T = TypeVar("T")
_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_as_written = msgspec.json.Decoder(float_hook=_written_float).decode
_encode = msgspec.json.Encoder(enc_hook=_as_written).encode
_encode_in_order = msgspec.json.Encoder(enc_hook=_as_float, order="deterministic").encode


def decode(data: bytes | bytearray, *, max_depth: int = 64, as_written: bool = False) -> Any:
    """Return the value that ``data`` (UTF-8) holds; ``as_written`` keeps the form of numbers, see ``WrittenFloat``.

    Raises:
        InvalidJSON: for anything that is not one JSON text, that nests deeper than ``max_depth``, or that holds more
            than ``MAX_VALUES`` values.
    """
    # A short text holds at most as many values and keys as bytes.
    held = None if len(data) <= _LONG_BYTES else _measure(data, max_depth)
    decoder = _decode_as_written if as_written else _decode
    try:
        if held is None:
            value = decoder(data)
        else:
            with _collector_paused(held):
                value = decoder(data)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise TooMuchJSON(f"it nests deeper than {max_depth} levels") from None
    except msgspec.MsgspecError as error:
        raise InvalidJSON(str(error)) from None
    # As many levels need as many brackets: only a text with enough of them is looked at more closely.
    if held is None and len(data) > 2 * max_depth and data.count(b"{") + data.count(b"[") > max_depth:
        _check_depth(value, max_depth)
    return value


def _check_depth(value: Any, max_depth: int) -> None:
    if is_deeper(value, max_depth):
        raise TooMuchJSON(f"it nests deeper than {max_depth} levels")


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_generous = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite)


def decode_generously(data: bytes | bytearray, *, max_depth: int = 64) -> Any:
    """Return the value that ``data`` holds where ``decode`` refuses it for its characters or numbers only.

    Numbers that are none become null; control characters may stand in texts. Lone surrogates stay, and bytes that are
    no UTF-8 become some: see ``characters``, which makes such text whole.

    Raises:
        InvalidJSON: for anything else, as ``decode`` does.
    """
    _measure(data, max_depth)
    try:
        value = _decode_all_generously(data)
    except RecursionError:
        raise TooMuchJSON(f"it nests deeper than {max_depth} levels") from None
    return value


def _decode_piece_generously(piece: bytes) -> str:
    return whole(_decode_all_generously(piece))


def _decode_all_generously(data: bytes | bytearray) -> Any:
    text = data.decode("utf-8-sig", "surrogateescape")
    try:
        return _generous.decode(text)
    except ValueError:
        pass
    try:
        return _generous.decode(_TEXT_OR_NO_NUMBER.sub(_null_for_number, text))
    except ValueError:
        raise InvalidJSON("it is malformed") from None


#: A text, or a number that is none as C writes it: ``nan``, ``-inf``.
_TEXT_OR_NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|[+-]?\b(?:nan|inf(?:inity)?)\b', re.DOTALL | re.IGNORECASE)


def _null_for_number(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else "null"


def split(data: bytes) -> list[bytes]:
    """Return the objects that stand in ``data`` one after the other, still encoded; none if there is anything else."""
    text, at = data.decode("utf-8", "surrogateescape").strip(), 0
    found: list[bytes] = []
    try:
        while at < len(text):
            if text[at] != "{":
                return []
            _, end = _generous.raw_decode(text, at)
            found.append(text[at:end].encode("utf-8", "surrogateescape"))
            at = end
            while text[at : at + 1].isspace():
                at += 1
    except (ValueError, RecursionError):
        return []
    return found


def decode_object(data: bytes | bytearray, *, max_depth: int = 64, as_written: bool = False) -> JSONObject:
    """Return the object that ``data`` holds; raises InvalidJSON for any other kind of value too."""
    return only_object(decode(data, max_depth=max_depth, as_written=as_written))


def decode_large(data: bytes | bytearray, *, max_depth: int = 64) -> Steps:
    """Decode an object as ``decode_object`` does, in steps none of which takes long.

    The caller lets other work go on in between. Numbers keep the form that they were written in, unless there are
    many values.

    Raises:
        InvalidJSON: as ``decode_large_value`` does.
    """
    return only_object((yield from decode_large_value(data, max_depth=max_depth, as_written=True)))


def decode_large_value(
    data: bytes | bytearray, *, max_depth: int = 64, as_written: bool = False, generously: bool = False
) -> Steps:
    """Decode as ``decode`` does, or as ``decode_generously``, in steps none of which takes long.

    What was decoded generously is made whole, see ``characters``.

    Raises:
        InvalidJSON: as these do, and for integers beyond a double, whose digits take too long to read.
    """
    held = yield from count_in_steps(data, MAX_VALUES)
    _check_measure(held, max_depth)
    if held.has_endless_number:
        raise InvalidJSON("Number out of range")
    if held.is_cut:
        raise InvalidJSON("it is malformed")
    yield
    try:
        with _collector_paused(held):
            short, spans = without_long_strings(data, held)
            if generously:
                if len(short) > _MAX_REPAIRED_BYTES:
                    raise InvalidJSON("it is malformed")
                value = all_whole(_decode_all_generously(short))
            elif held.values <= _MANY_VALUES and len(short) <= LONG_STEP_BYTES:
                value = (_decode_as_written if as_written else _decode)(short)
            else:
                decoder = _decode_as_written if as_written and held.values <= _MANY_VALUES else _decode
                value = yield from StepDecoder(decoder, _decode_fields, _decode_items).decode(short)
            yield
            if spans:
                read = _decode_piece_generously if generously else _decode_text
                strings = yield from long_strings(data, spans, read)
                value = yield from put_in(value, strings)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise TooMuchJSON(f"it nests deeper than {max_depth} levels") from None
    except msgspec.MsgspecError:
        raise InvalidJSON("it is malformed") from None  # the place would be one in a slice
    yield
    return value


def only_object(value: Any) -> JSONObject:
    """Return ``value`` if it is an object; raises InvalidJSON otherwise."""
    if not isinstance(value, dict):
        raise InvalidJSON("it is not an object")
    return value


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode


def fields_in(data: bytes | memoryview) -> dict[str, memoryview]:
    """Return the fields of the object in ``data``, each still encoded; for texts too long for ``decode``.

    Raises:
        InvalidJSON: when it is no object. What is inside of the fields has been looked at as far as its form goes.
    """
    return {name: memoryview(raw) for name, raw in _typed(_decode_fields, data).items()}


def items_in(data: bytes | memoryview) -> list[memoryview]:
    """Return the items of the array in ``data``, as ``fields_in`` does those of an object."""
    return [memoryview(raw) for raw in _typed(_decode_items, data)]


def numbers_in(data: bytes | memoryview) -> list[float]:
    """Return the numbers of the array in ``data``; raises InvalidJSON when it holds anything else."""
    numbers: list[float] = _typed(_decode_numbers, data)
    return numbers


def reader_of(kind: type[T]) -> Callable[[bytes | memoryview], T]:
    """Return what reads a text in the form of ``kind``, a struct; it raises InvalidJSON for any other."""
    return partial(_typed, msgspec.json.Decoder(kind).decode)


def _typed(decoder: Callable[[bytes | memoryview], Any], data: bytes | memoryview) -> Any:
    try:
        return decoder(data)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON("it nests too deep") from None
    except msgspec.MsgspecError as error:
        raise InvalidJSON(str(error)) from None


def encode(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Return compact UTF-8 JSON: keys in their order, non-ASCII as it is."""
    return _encode(value)


def encode_large(value: Mapping[str, Any] | list[Any] | Encoded) -> Generator[None, None, list[bytes]]:
    """Encode as ``encode`` does, into pieces, in steps none of which takes long; a short value in one go."""
    return (yield from PieceWriter(_encode).write_all(value))


def decode_text(data: bytes) -> str | None:
    """Return the text that a JSON string (UTF-8, quotes included) holds; None when it is anything else."""
    try:
        return _decode_text(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def encode_text(text: str) -> bytes:
    """Return a text as a JSON string, the way that ``encode`` writes it."""
    return _encode(text)


def canonical(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Return the one text of ``value``: equal values of equal types give equal bytes, in whatever order keys came.

    Exact otherwise: ``1`` and ``1.0``, null and nothing, and two forms of one character differ.
    """
    return _encode_in_order(value)


def canonical_large(value: Mapping[str, Any] | list[Any]) -> Generator[None, None, list[bytes]]:
    """Return the text of ``canonical`` in pieces, in steps none of which takes long; a short one in one go."""
    return (yield from PieceWriter(_encode_in_order, in_order=True).write_all(value))


def _measure(data: bytes | bytearray, max_depth: int) -> Elements:
    """Return what ``data`` may hold; raises InvalidJSON when that is too much to be decoded."""
    held = count_elements(data, MAX_VALUES)
    _check_measure(held, max_depth)
    return held


def _check_measure(held: Elements, max_depth: int) -> None:
    if held.values > MAX_VALUES:
        raise TooMuchJSON(f"it holds more than {MAX_VALUES} values")
    if held.keys > _MAX_KEYS:
        raise TooMuchJSON(f"it has more than {_MAX_KEYS} keys")
    if held.is_deeper(max_depth):
        raise TooMuchJSON(f"it nests deeper than {max_depth} levels")


@contextmanager
def _collector_paused(held: Elements) -> Iterator[None]:
    """Let nothing be collected while a text that holds so much is decoded.

    Many containers are frozen, as all that lives then: the collector would go through them several times, for 0.1 us
    each, and JSON holds no cycles. The worker thaws what is frozen every few minutes; young garbage would stay until
    then, and goes before.
    """
    paused = gc.isenabled()
    if paused and held.containers > _MANY_CONTAINERS:
        gc.collect(1)
    if paused:
        gc.disable()
    try:
        yield
    finally:
        if held.containers > _MANY_CONTAINERS:
            gc.freeze()
        if paused:
            gc.enable()


def kind_of(value: Any) -> str:
    """Name a JSON value's type the way a client's author would."""
    if value is None:
        return "null"
    kinds = (
        (bool, "a boolean"), (int, "an integer"), (float, "a number"), (str, "a string"), (list, "an array")
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")
