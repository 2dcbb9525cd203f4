"""A buffer of chunks. When it holds many, neighbours that only add text are joined."""

from itertools import groupby
from typing import Any, TypeAlias

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import HEAD, PADDING, has_only

#: From this many waiting chunks on, neighbours are joined.
_JOIN_FROM = 64
#: Fields of a delta that are text, in pieces.
_TEXTS = frozenset({"content", "reasoning_content", "refusal"})
#: Fields of a chunk, and of its choice, of which one stands for those of all its neighbours.
_CHUNK = frozenset({"object", "choices", *HEAD, *PADDING})
_CHOICE = frozenset({"index", "delta"})

#: Where a chunk adds text: the choice, the field, and in a tool call its number, kind and field.
Slot: TypeAlias = tuple[int, str] | tuple[int, str, int, str, str]


class ChunkBuffer:
    """Chunks of one stream in their order. Its size follows the text in the chunks, not their number.

    Chunks are shared with other buffers, and never changed.
    """

    def __init__(self) -> None:
        self._chunks: list[JSONObject] = []
        self._join_at = _JOIN_FROM
        #: The size of all chunks as JSON.
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def copy(self) -> "ChunkBuffer":
        """Return a buffer with the same chunks."""
        other = ChunkBuffer()
        other._chunks, other._join_at, other.size_bytes = list(self._chunks), self._join_at, self.size_bytes
        return other

    def add(self, chunk: JSONObject, size_bytes: int) -> None:
        """Add the next chunk, of the given size as JSON."""
        self._chunks.append(chunk)
        self.size_bytes += size_bytes
        if len(self._chunks) >= self._join_at:
            self._chunks = join(self._chunks)
            self._join_at = 2 * len(self._chunks) + _JOIN_FROM
            self.size_bytes = sum(len(json.encode(each)) for each in self._chunks)

    def take(self) -> list[JSONObject]:
        """Return and remove all chunks."""
        taken, self._chunks = self._chunks, []
        self.size_bytes, self._join_at = 0, _JOIN_FROM
        return taken

    def peek(self) -> list[JSONObject]:
        """Return all chunks without removing them."""
        return list(self._chunks)


def join(chunks: list[JSONObject]) -> list[JSONObject]:
    """Return chunks that amount to the same, with runs that add text in one place as one chunk each."""
    joined: list[JSONObject] = []
    for (slot, _), group in groupby(chunks, key=lambda chunk: (_slot(chunk), _head(chunk))):
        run = list(group)
        if slot is None or len(run) == 1:
            joined += run
        else:
            joined.append(_with_text(run[0], slot, "".join(_text(chunk, slot) for chunk in run)))
    return joined


def _slot(chunk: JSONObject) -> Slot | None:
    """Return where a chunk adds text; None if it does anything else."""
    if len(chunk["choices"]) != 1 or not has_only(_CHUNK, chunk) or not has_only(_CHOICE, chunk["choices"][0]):
        return None
    choice = chunk["choices"][0]
    fields = [(name, value) for name, value in choice["delta"].items() if value is not None]
    if len(fields) != 1:
        return None
    ((name, value),) = fields
    if name in _TEXTS and isinstance(value, str):
        return choice["index"], name
    if name == "tool_calls" and len(value) == 1 and len(value[0]) == 2:
        # A piece of arguments: the number of the call, and one text under its kind.
        kind = next((key for key in value[0] if key != "index"), "")
        body = value[0][kind]
        if isinstance(body, dict) and len(body) == 1 and next(iter(body)) in ("arguments", "input"):
            return choice["index"], name, value[0]["index"], kind, next(iter(body))
    return None


def _head(chunk: JSONObject) -> list[Any]:
    return [chunk.get(name) for name in HEAD]


def _text(chunk: JSONObject, slot: Slot) -> str:
    value = chunk["choices"][0]["delta"][slot[1]]
    text: str = value if len(slot) == 2 else value[0][slot[3]][slot[4]]
    return text


def _with_text(chunk: JSONObject, slot: Slot, text: str) -> JSONObject:
    """Return a chunk like ``chunk`` that adds ``text``."""
    value = text if len(slot) == 2 else [{"index": slot[2], slot[3]: {slot[4]: text}}]
    return {**chunk, "choices": [{**chunk["choices"][0], "delta": {slot[1]: value}}]}
