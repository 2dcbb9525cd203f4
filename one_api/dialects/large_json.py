"""Large JSON, in steps none of which takes long: other work can go on in between. Small JSON see ``json``."""

import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from one_api.dialects.characters import all_whole
from one_api.dialects.elements import Elements, Span, count_in_steps
from one_api.dialects.json import (
    MAX_VALUES,
    InvalidJSON,
    JSONObject,
    check_measure,
    check_size,
    collector_paused,
    only_object,
    raw_decode,
    raw_decode_as_written,
    raw_decode_fields,
    raw_decode_items,
    raw_decode_text,
    raw_encode,
    raw_encode_in_order,
    repair,
    repair_text,
)

#: What decodes in steps, and returns what it has decoded.
Steps: TypeAlias = Generator[None, None, Any]

#: Of a text with more values than this, numbers lose the form that they were written in: to keep it takes long.
_MANY_VALUES = 20_000
#: How much is decoded in one step where there are many values, in bytes; and how much of long strings is decoded or
#: encoded in one step. The values of a text up to that size are decoded in one go, unless there are many.
_STEP_BYTES, _LONG_STEP_BYTES = 64 * 1024, 1024 * 1024
#: A longer text is not read generously in steps, its long strings aside, in bytes: it is done in one.
_MAX_REPAIRED_BYTES = 8 * 1024 * 1024
#: How many containers around one another may be longer than a step: each is gone through from its beginning.
_MAX_LONG_LEVELS = 20
#: How many values are looked through in one step.
_STEP_VALUES = 20_000
_FIRST_OF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")


def decode_object(data: bytes | bytearray, *, max_depth: int = 64) -> Steps:
    """Decode an object as ``json.decode_object`` does, in steps none of which takes long.

    The caller lets other work go on in between. Numbers keep the form that they were written in, unless there are
    many values.

    Raises:
        InvalidJSON: as ``decode`` does.
    """
    return only_object((yield from decode(data, max_depth=max_depth, as_written=True)))


def decode(
    data: bytes | bytearray, *, max_depth: int = 64, as_written: bool = False, generously: bool = False
) -> Steps:
    """Decode as ``json.decode`` does, or as ``json.decode_generously``, in steps none of which takes long.

    What was decoded generously is made whole, see ``characters``.

    Raises:
        InvalidJSON: as these do, and for integers beyond a double, whose digits take too long to read.
    """
    held = yield from count_in_steps(data, MAX_VALUES)
    check_measure(held)
    if held.has_endless_number:
        raise InvalidJSON("Number out of range")
    if held.is_cut:
        raise InvalidJSON("it is malformed")
    yield
    try:
        with collector_paused(held):
            short, spans = _without_long_strings(data, held)
            if generously:
                if len(short) > _MAX_REPAIRED_BYTES:
                    raise InvalidJSON("it is malformed")
                value = all_whole(repair(short))
            elif held.values <= _MANY_VALUES and len(short) <= _LONG_STEP_BYTES:
                value = (raw_decode_as_written if as_written else raw_decode)(short)
            else:
                decoder = raw_decode_as_written if as_written and held.values <= _MANY_VALUES else raw_decode
                value = yield from _in_steps(memoryview(short), decoder, _MAX_LONG_LEVELS)
            yield
            if spans:
                read = repair_text if generously else raw_decode_text
                strings = yield from _long_strings(data, spans, read)
                value = yield from _put_in(value, strings)
    except UnicodeDecodeError:
        raise InvalidJSON("it is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON(f"it nests deeper than {max_depth} levels") from None
    except msgspec.MsgspecError:
        raise InvalidJSON("it is malformed") from None  # the place would be one in a slice
    yield
    check_size(held, value, max_depth)
    return value


def _without_long_strings(data: bytes | bytearray, held: Elements) -> tuple[bytes, dict[str, Span]]:
    """Return the text with a name in the place of each long string, and where the string of each name stands.

    A client cannot guess the names: they are random, of one length, and new each time.
    """
    if not held.long_strings:
        return bytes(data), {}
    parts: list[bytes] = []
    spans: dict[str, Span] = {}
    secret, at = secrets.token_hex(16), 0
    for start, end in held.long_strings:
        name = f"{secret}{len(spans):08}"
        spans[name] = start, end
        parts += [bytes(data[at:start]), b'"%b"' % name.encode()]
        at = end
    return b"".join([*parts, bytes(data[at:])]), spans


def _long_strings(data: bytes | bytearray, spans: Mapping[str, Span], decoder: Callable[[bytes], str]) -> Steps:
    """Return the string of each name."""
    found: dict[str, str] = {}
    for name, (start, end) in spans.items():
        # It grows in place: to join its pieces would take the system long to find the memory, all in one step.
        text = ""
        at, last, steps = start + 1, end - 1, 0
        while at < last:
            piece = bytes(data[at : min(at + _STEP_BYTES, last)])
            if at + len(piece) < last:
                piece = _cut(piece)
            text += decoder(b'"%b"' % piece)
            at += len(piece)
            steps += 1
            if steps % (_LONG_STEP_BYTES // _STEP_BYTES) == 0:
                yield
        found[name] = text
        yield
    return found


def _cut(piece: bytes) -> bytes:
    """Return the beginning of a string up to where it can be cut: not in an escape, a pair of them, or a character."""
    if _begins_escape(piece, at := piece.rfind(b"\\", max(0, len(piece) - 6))):
        piece = piece[:at]
        if _FIRST_OF_PAIR.fullmatch(piece[-6:]) and _begins_escape(piece, len(piece) - 6):
            piece = piece[:-6]
    for back in range(1, 5):
        if piece[-back] >= 0xC0:
            return piece[:-back]
        if piece[-back] < 0x80:
            break
    return piece


def _begins_escape(piece: bytes, at: int) -> bool:
    """Return whether an escape begins with the backslash at that place, if there is one: not the second of two."""
    before = piece[: at + 1]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _put_in(value: Any, strings: Mapping[str, str]) -> Steps:
    """Put the long strings in the place of their names, in values and keys, and return the value."""
    if isinstance(value, str):
        return strings.get(value, value)
    size, seen, rest = len(next(iter(strings))), 0, [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            if any(len(key) == size and key in strings for key in each):
                items = [(strings.get(key, key), child) for key, child in each.items()]
                each.clear()
                each.update(items)
            children: Any = each.items()
        elif isinstance(each, list):
            children = enumerate(each)
        else:
            continue
        for place, child in children:
            seen += 1
            if isinstance(child, str):
                if len(child) == size and child in strings:
                    each[place] = strings[child]
            elif isinstance(child, (dict, list)):
                rest.append(child)
            if seen % _STEP_VALUES == 0:
                yield
    return value


def _in_steps(text: memoryview, decoder: Callable[[Any], Any], levels: int) -> Steps:
    """Return the value of a JSON text whose long containers nest no deeper than ``levels``.

    Raises:
        msgspec.MsgspecError, RecursionError: when it cannot be decoded.
    """
    if len(text) <= _STEP_BYTES:
        return decoder(text)
    if not levels:
        raise InvalidJSON(f"{_MAX_LONG_LEVELS} levels of it are longer than {_STEP_BYTES} bytes each")
    first = bytes(text[:_STEP_BYTES]).lstrip()[:1]
    if first == b"{":
        return (yield from _object_in_steps(text, decoder, levels - 1))
    if first == b"[":
        return (yield from _array_in_steps(text, decoder, levels - 1))
    yield
    return decoder(text)


def _object_in_steps(text: memoryview, decoder: Callable[[Any], Any], levels: int) -> Steps:
    yield
    found: dict[str, Any] = {}
    size = 0
    for name, raw in raw_decode_fields(text).items():
        long = len(raw) > _STEP_BYTES
        found[name] = (yield from _in_steps(memoryview(raw), decoder, levels)) if long else decoder(raw)
        size += len(name) + len(raw)
        if size > _STEP_BYTES:
            size = 0
            yield
    return found


def _array_in_steps(text: memoryview, decoder: Callable[[Any], Any], levels: int) -> Steps:
    yield
    found: list[Any] = []
    step: list[Any] = []
    size = 0
    for raw in raw_decode_items(text):
        if len(raw) > _STEP_BYTES:
            found += decoder(b"[" + b",".join(step) + b"]")
            found.append((yield from _in_steps(memoryview(raw), decoder, levels)))
            step, size = [], 0
            continue
        step.append(raw)
        size += len(raw) + 1
        if size > _STEP_BYTES:
            found += decoder(b"[" + b",".join(step) + b"]")
            step, size = [], 0
            yield
    found += decoder(b"[" + b",".join(step) + b"]")
    return found


def encode(value: Mapping[str, Any] | list[Any]) -> Generator[None, None, list[bytes]]:
    """Encode as ``json.encode`` does, into pieces, in steps none of which takes long; a short value in one go."""
    return (yield from _Writer(raw_encode).write_all(value))


def _weight(value: Any) -> int:
    """Return about how many bytes a value takes once it is encoded; of a long one only that it is longer than a step.

    Whatever is not ASCII, or is escaped, may take six times as much.
    """
    if isinstance(value, str):
        return len(value) + 2
    if not isinstance(value, (dict, list)):
        return 4
    total, rest = 0, [value]
    while rest and total <= _STEP_BYTES:
        each = rest.pop()
        children: Any = each
        if isinstance(each, dict):
            children = each.values()
            total += sum(map(len, each))
        total += 2 + 4 * len(each)
        for child in children:
            if type(child) is str:
                total += len(child)
            elif isinstance(child, (dict, list)):
                rest.append(child)
    return total


class _Writer:
    """Encodes a value into pieces: what is long of it by itself, what is short many together."""

    def __init__(self, encoder: Callable[[Any], bytes], *, in_order: bool = False) -> None:
        """``in_order``, the keys of objects are sorted; ``encoder`` does the same."""
        self._encode = encoder
        self._in_order = in_order
        self._pieces: list[bytes] = []

    def write_all(self, value: Any) -> Generator[None, None, list[bytes]]:
        """Return the pieces of the value."""
        if _weight(value) <= _STEP_BYTES:
            return [self._encode(value)]
        yield from self._write(value)
        return self._pieces

    def _write(self, value: Any) -> Generator[None, None, None]:
        if isinstance(value, str):
            self._pieces.append(b'"')
            for start in range(0, len(value), _STEP_BYTES):
                self._pieces.append(self._encode(value[start : start + _STEP_BYTES])[1:-1])
                yield
            self._pieces.append(b'"')
        elif isinstance(value, (dict, list)):
            self._pieces.append(b"{" if isinstance(value, dict) else b"[")
            for position, (run, is_long) in enumerate(self._runs(value)):
                if position:
                    self._pieces.append(b",")
                if is_long:
                    yield from self._write_entry(run)
                else:
                    self._pieces.append(self._encode(run)[1:-1])
                    yield
            self._pieces.append(b"}" if isinstance(value, dict) else b"]")
        else:
            self._pieces.append(self._encode(value))

    def _write_entry(self, run: JSONObject | list[Any]) -> Generator[None, None, None]:
        """Write the one entry of a container, without its brackets."""
        if isinstance(run, dict):
            ((key, child),) = run.items()
            yield from self._write(key)
            self._pieces.append(b":")
        else:
            (child,) = run
        yield from self._write(child)

    def _runs(self, value: JSONObject | list[Any]) -> Iterator[tuple[JSONObject | list[Any], bool]]:
        """Yield the entries of a container: several short ones, or one that is long, and which it is."""
        is_object = isinstance(value, dict)
        entries: Any = value.items() if isinstance(value, dict) else value
        if is_object and self._in_order:
            entries = sorted(entries, key=itemgetter(0))
        run: Any = {} if is_object else []
        size = 0
        for entry in entries:
            weight = len(entry[0]) + _weight(entry[1]) if is_object else _weight(entry)
            if run and size + weight > _STEP_BYTES:
                yield run, False
                run, size = {} if is_object else [], 0
            if is_object:
                run[entry[0]] = entry[1]
            else:
                run.append(entry)
            size += weight
            if weight > _STEP_BYTES:
                yield run, True
                run, size = {} if is_object else [], 0
        if run:
            yield run, False


def canonical(value: Mapping[str, Any] | list[Any]) -> Generator[None, None, list[bytes]]:
    """Return the text of ``json.canonical`` in pieces, in steps none of which takes long; a short one in one go."""
    return (yield from _Writer(raw_encode_in_order, in_order=True).write_all(value))
