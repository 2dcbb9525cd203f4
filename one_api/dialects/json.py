"""JSON, in one place: numbers keep their form, nothing that is not JSON passes.

Of duplicate keys the last wins. ``1`` stays ``1``, ``1.0`` stays ``1.0`` and integers of any size stay exact;
``NaN``, ``Infinity``, numbers beyond a double (``1e400``), lone surrogates and a byte-order mark are refused; what an
upstream sent may be read more generously.
"""

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from one_api.contract import JSONObject as JSONObject
from one_api.dialects.characters import whole
from one_api.dialects.elements import Elements, count_elements

#: More keys than this, in all objects together, no request needs.
_MAX_KEYS = 100_000
#: More values than this no text may hold: each takes up to a hundred bytes of memory once it is decoded.
MAX_VALUES = 300_000
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


#: msgspec's own codecs, which raise its own errors: for ``decode`` and ``encode``, and for ``large_json``.
raw_decode = msgspec.json.Decoder().decode
raw_decode_text = msgspec.json.Decoder(str).decode
raw_decode_as_written = msgspec.json.Decoder(float_hook=_written_float).decode
raw_encode = msgspec.json.Encoder(enc_hook=_as_written).encode
raw_encode_in_order = msgspec.json.Encoder(enc_hook=_as_float, order="deterministic").encode


class InvalidJSON(ValueError):
    """The bytes are not the JSON that was expected; the message says why, without quoting them."""


def decode(data: bytes | bytearray, *, max_depth: int = 64, as_written: bool = False) -> Any:
    """Return the value that ``data`` (UTF-8) holds; ``as_written`` keeps the form of numbers, see ``WrittenFloat``.

    Raises:
        InvalidJSON: for anything that is not one JSON text, that nests deeper than ``max_depth``, or that holds more
            than ``MAX_VALUES`` values.
    """
    # A short text holds at most as many values and keys as bytes.
    return _decode_held(data, None if len(data) <= _LONG_BYTES else _measure(data), max_depth, as_written)


def _decode_held(data: bytes | bytearray, held: Elements | None, max_depth: int, as_written: bool) -> Any:
    """Decode a text of which ``held`` was counted; None is a short one."""
    decoder = raw_decode_as_written if as_written else raw_decode
    try:
        if held is None:
            value = decoder(data)
        else:
            with collector_paused(held):
                value = decoder(data)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON(f"it nests deeper than {max_depth} levels") from None
    except msgspec.MsgspecError as error:
        raise InvalidJSON(str(error)) from None
    # As many levels need as many brackets: only a text with enough of them is looked at more closely.
    if held is not None:
        check_size(held, value, max_depth)
    elif len(data) > 2 * max_depth and data.count(b"{") + data.count(b"[") > max_depth:
        _check_depth(value, max_depth)
    return value


def _check_depth(value: Any, max_depth: int) -> None:
    if _deeper_than(value, max_depth):
        raise InvalidJSON(f"it nests deeper than {max_depth} levels")


def check_size(held: Elements, value: Any, max_depth: int) -> None:
    """Raise InvalidJSON when ``value``, of whose text ``held`` was counted, nests too deep or has too many keys."""
    if held.containers > max_depth:
        _check_depth(value, max_depth)
    if held.keys > _MAX_KEYS and _keys(value) > _MAX_KEYS:
        raise InvalidJSON(f"it has more than {_MAX_KEYS} keys")


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
    held = _measure(data)
    try:
        value = repair(data)
    except RecursionError:
        raise InvalidJSON(f"it nests deeper than {max_depth} levels") from None
    check_size(held, value, max_depth)
    return value


def repair_text(piece: bytes) -> str:
    """Return the text of a JSON string, as ``repair`` reads it, without halves of characters."""
    return whole(repair(piece))


def repair(data: bytes | bytearray) -> Any:
    """Decode as ``decode_generously`` does, whatever the size; raises InvalidJSON, RecursionError."""
    try:
        return _generous.decode(data.decode("utf-8-sig", "surrogateescape"))
    except ValueError:
        raise InvalidJSON("it is malformed") from None


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


def only_object(value: Any) -> JSONObject:
    """Return ``value`` if it is an object; raises InvalidJSON otherwise."""
    if not isinstance(value, dict):
        raise InvalidJSON("it is not an object")
    return value


raw_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
raw_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode


def fields_in(data: bytes | memoryview) -> dict[str, memoryview]:
    """Return the fields of the object in ``data``, each still encoded; for texts too long for ``decode``.

    Raises:
        InvalidJSON: when it is no object. What is inside of the fields has been looked at as far as its form goes.
    """
    return {name: memoryview(raw) for name, raw in _typed(raw_decode_fields, data).items()}


def items_in(data: bytes | memoryview) -> list[memoryview]:
    """Return the items of the array in ``data``, as ``fields_in`` does those of an object."""
    return [memoryview(raw) for raw in _typed(raw_decode_items, data)]


def numbers_in(data: bytes | memoryview) -> list[float]:
    """Return the numbers of the array in ``data``; raises InvalidJSON when it holds anything else."""
    numbers: list[float] = _typed(_decode_numbers, data)
    return numbers


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
    return raw_encode(value)


def decode_text(data: bytes) -> str | None:
    """Return the text that a JSON string (UTF-8, quotes included) holds; None when it is anything else."""
    try:
        return raw_decode_text(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def encode_text(text: str) -> bytes:
    """Return a text as a JSON string, the way that ``encode`` writes it."""
    return raw_encode(text)


def canonical(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Return the one text of ``value``: equal values of equal types give equal bytes, in whatever order keys came.

    Exact otherwise: ``1`` and ``1.0``, null and nothing, and two forms of one character differ.
    """
    return raw_encode_in_order(value)


def _measure(data: bytes | bytearray) -> Elements:
    """Return what ``data`` may hold; raises InvalidJSON when that is too much to be decoded."""
    if len(data) <= _LONG_BYTES:  # at most as many values as bytes
        return Elements(0, data.count(b"{") + data.count(b"["), 0)
    held = count_elements(data, MAX_VALUES)
    check_measure(held)
    return held


def check_measure(held: Elements) -> None:
    """Raise InvalidJSON when a text holds too many values."""
    if held.values > MAX_VALUES:
        raise InvalidJSON(f"it holds more than {MAX_VALUES} values")


@contextmanager
def collector_paused(held: Elements) -> Iterator[None]:
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


def _keys(value: Any) -> int:
    """Return how many keys all objects have together; no deeper than ``decode`` allows."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(child) for child in value.values() if isinstance(child, (dict, list)))
    return sum(_keys(child) for child in value if isinstance(child, (dict, list)))


def _deeper_than(value: Any, levels: int) -> bool:
    """Return whether containers nest deeper than ``levels``; looks at each container once."""
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not layer:
            return False
    return True


def kind_of(value: Any) -> str:
    """Name a JSON value's type the way a client's author would."""
    if value is None:
        return "null"
    kinds = (
        (bool, "a boolean"), (int, "an integer"), (float, "a number"), (str, "a string"), (list, "an array")
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")
