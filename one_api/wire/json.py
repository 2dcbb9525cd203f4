"""JSON, in one place: numbers keep their form, nothing that is not JSON passes.

Of duplicate keys the last wins. ``1`` stays ``1``, ``1.0`` stays ``1.0`` and integers of any size stay exact;
``NaN``, ``Infinity``, numbers beyond a double (``1e400``), lone surrogates and a byte-order mark are refused; what an
upstream sent may be read more generously.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

#: A JSON object at the border, where its fields are not ours to know.
JSONObject = dict[str, Any]

#: More keys than this, in all objects together, no request needs.
_MOST_KEYS = 100_000

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode


class InvalidJSON(ValueError):
    """The bytes are not the JSON that was expected; the message says why, without quoting them."""


def decode(data: bytes | bytearray, *, max_depth: int = 64) -> Any:
    """Return the value that ``data`` (UTF-8) holds.

    Raises:
        InvalidJSON: for anything that is not one JSON text, or that nests deeper than ``max_depth``.
    """
    try:
        value = _decode(data)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON(f"it nests deeper than {max_depth} levels") from None
    except msgspec.MsgspecError as error:
        raise InvalidJSON(str(error)) from None
    _check_size(data, value, max_depth)
    return value


def _check_size(data: bytes | bytearray, value: Any, max_depth: int) -> None:
    """Raise InvalidJSON when ``value``, which ``data`` holds, nests too deep or has too many keys."""
    # As many levels need as many brackets: only a text with enough of them is looked at more closely.
    if len(data) > 2 * max_depth and data.count(b"{") + data.count(b"[") > max_depth and _deeper_than(value, max_depth):
        raise InvalidJSON(f"it nests deeper than {max_depth} levels")
    if len(data) > 4 * _MOST_KEYS and data.count(b":") > _MOST_KEYS and _keys(value) > _MOST_KEYS:
        raise InvalidJSON(f"it has more than {_MOST_KEYS} keys")


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
    try:
        value = _generous.decode(data.decode("utf-8-sig", "surrogateescape"))
    except RecursionError:
        raise InvalidJSON(f"it nests deeper than {max_depth} levels") from None
    except ValueError:
        raise InvalidJSON("it is malformed") from None
    _check_size(data, value, max_depth)
    return value


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


def decode_object(data: bytes | bytearray, *, max_depth: int = 64) -> JSONObject:
    """Return the object that ``data`` holds; raises InvalidJSON for any other kind of value too."""
    value = decode(data, max_depth=max_depth)
    if not isinstance(value, dict):
        raise InvalidJSON("it is not an object")
    return value


def encode(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Return compact UTF-8 JSON: keys in their order, non-ASCII as it is."""
    return _encode(value)


def canonical(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Return the one text of ``value``: equal values of equal types give equal bytes, in whatever order keys came.

    Exact otherwise: ``1`` and ``1.0``, null and nothing, and two forms of one character differ.
    """
    return _encode_in_order(value)


def _keys(value: Any) -> int:
    """Return how many keys all objects have together; no deeper than ``decode`` allows."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(child) for child in value.values() if isinstance(child, (dict, list)))
    return sum(_keys(child) for child in value if isinstance(child, (dict, list)))


def _deeper_than(value: Any, levels: int) -> bool:
    """Say whether containers nest deeper than ``levels``; looks at each container once."""
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
