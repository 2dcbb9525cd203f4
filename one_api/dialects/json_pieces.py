"""How a large value is encoded into pieces of JSON, in steps: what is long of it by itself, what is short together."""

from collections.abc import Callable, Generator, Iterator
from operator import itemgetter
from typing import Any

from one_api.contract import JSONObject
from one_api.dialects.json_steps import STEP_BYTES


class PieceWriter:
    """Encodes a value into pieces: what is long of it by itself, what is short many together."""

    def __init__(self, encoder: Callable[[Any], bytes], *, in_order: bool = False) -> None:
        """``in_order``, the keys of objects are sorted; ``encoder`` does the same."""
        self._encode = encoder
        self._in_order = in_order
        self._pieces: list[bytes] = []

    def write_all(self, value: Any) -> Generator[None, None, list[bytes]]:
        """Return the pieces of the value."""
        if _weight(value) <= STEP_BYTES:
            return [self._encode(value)]
        yield from self._write(value)
        return self._pieces

    def _write(self, value: Any) -> Generator[None, None, None]:
        if isinstance(value, str):
            self._pieces.append(b'"')
            for start in range(0, len(value), STEP_BYTES):
                self._pieces.append(self._encode(value[start : start + STEP_BYTES])[1:-1])
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
            if run and size + weight > STEP_BYTES:
                yield run, False
                run, size = {} if is_object else [], 0
            if is_object:
                run[entry[0]] = entry[1]
            else:
                run.append(entry)
            size += weight
            if weight > STEP_BYTES:
                yield run, True
                run, size = {} if is_object else [], 0
        if run:
            yield run, False


def _weight(value: Any) -> int:
    """Return about how many bytes a value takes once it is encoded; of a long one only that it is longer than a step.

    Whatever is not ASCII, or is escaped, may take six times as much.
    """
    if isinstance(value, str):
        return len(value) + 2
    if not isinstance(value, (dict, list)):
        return 4
    total, rest = 0, [value]
    while rest and total <= STEP_BYTES:
        each = rest.pop()
        total += 2 + 4 * len(each)
        if total > STEP_BYTES:
            break  # to go through many children takes long
        children: Any = each
        if isinstance(each, dict):
            children = each.values()
            total += sum(map(len, each))
        for child in children:
            if type(child) is str:
                total += len(child)
            elif isinstance(child, (dict, list)):
                rest.append(child)
    return total
