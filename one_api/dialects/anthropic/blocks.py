"""The content blocks of a streamed message: which are under way, and what becomes of one when it has ended."""

from dataclasses import dataclass, field

from one_api.dialects import json
from one_api.dialects.anthropic.chunks import Call
from one_api.dialects.anthropic.events import opened
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import Arguments
from one_api.dialects.payloads import InvalidAnswer

#: More blocks than this are not under way at once: then the oldest is taken for one that was never closed.
_MAX_OPEN = 64
#: The kind of a delta -> the type of the blocks that it belongs to.
_HOLDERS = {"text": "text", "citation": "text", "thinking": "thinking", "signature": "thinking", "input": "tool_use"}


@dataclass(slots=True, eq=False)
class Block:
    """A content block under way: what it started as, and the pieces since."""

    start: JSONObject
    #: Characters of content when it began.
    at: int
    number: int | None = None
    pieces: list[str] = field(default_factory=list)
    #: Of a call: what of its pieces is new.
    reader: Arguments = field(default_factory=Arguments)
    signature: str | None = None
    citations: list[JSONObject] = field(default_factory=list)
    call: Call | None = None
    #: A delta has named its number.
    is_numbered: bool = False
    #: A delta of its text has come.
    has_deltas: bool = False
    #: The pieces of its input are passed on as they come. None: nothing has come yet; False: they are no object, but
    #: perhaps an object's JSON text within a text.
    is_plain: bool | None = None
    #: As the upstream takes it back, once it has ended.
    kept: JSONObject | None = None

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.start["type"])

    @property
    def length(self) -> int:
        """How many characters its pieces have."""
        return sum(map(len, self.pieces))

    @property
    def input(self) -> JSONObject | str:
        """The input of a call: an object, or a text that holds none."""
        text = "".join(self.pieces)
        return opened(text if text.strip() else self.start.get("input"))

    @property
    def arguments(self) -> str:
        """The input of a call, as text."""
        if self.is_plain:
            return "".join(self.pieces)
        return self.input if isinstance(self.input, str) else json.encode(self.input).decode()

    def after_start(self, text: str) -> str:
        """Return what of a piece its start has not said: MiniMax was seen to say the first piece twice."""
        said = "" if self.has_deltas else self.start.get(self.kind)
        self.has_deltas = True
        return text.removeprefix(said) if isinstance(said, str) else text

    def add_input(self, piece: str) -> str:
        """Add a piece of a call's input; returns what of it may be passed on already."""
        piece = self.reader.add(piece)
        self.pieces.append(piece)
        if self.is_plain is None and piece.strip():
            self.is_plain = piece.lstrip()[0] == "{"
            piece = "".join(self.pieces)
        return piece if self.is_plain else ""


class OpenBlocks:
    """The blocks that have begun and not ended. Numbers can be missing, repeated or wrong."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []

    def add(self, block: Block) -> Block | None:
        """Add a block; returns the one that it takes the place of, which was never closed."""
        self._blocks.append(block)
        ended = self.at(block.number, before=block)
        return ended or (self._blocks[0] if len(self._blocks) > _MAX_OPEN else None)

    def at(self, number: int | None, before: Block | None = None) -> Block | None:
        """Return the latest block with this number."""
        if number is None:
            return None
        return next((each for each in reversed(self._blocks) if each.number == number and each is not before), None)

    def holder(self, number: int | None, kind: str) -> Block | None:
        """Return the block that a delta of this kind belongs to: that of its number, else the latest that fits.

        Raises:
            InvalidAnswer: when it is a piece of the input of a call that is not under way.
        """
        named, wanted = self.at(number), _HOLDERS[kind]
        if named is not None and (_fits(named, wanted) or named.kind not in _HOLDERS.values()):
            named.is_numbered = True
            return named
        fitting = (each for each in reversed(self._blocks) if _fits(each, wanted))
        found = next((each for each in fitting if number is None or not each.is_numbered), None)
        if found is None and kind == "input":
            raise InvalidAnswer("a piece of input belongs to no open tool call")
        return found

    def same_call(self, start: JSONObject) -> Block | None:
        """Return the call under way that ``start`` says again; one whose input is whole is another."""
        same = (each for each in self._blocks if each.kind == "tool_use" and each.start["id"] == start["id"])
        found = next(same, None) if start["id"] else None
        if found is None or found.start["name"] != start["name"] or (isinstance(found.input, dict) and found.input):
            return None
        return found

    def remove(self, block: Block) -> None:
        """Take out a block that ends."""
        self._blocks.remove(block)

    def all(self) -> list[Block]:
        """Return the blocks, in the order in which they began."""
        return list(self._blocks)


def _fits(block: Block, wanted: str) -> bool:
    return block.kind == wanted or (wanted == "tool_use" and block.kind.endswith("tool_use"))


def whole(block: Block) -> JSONObject | None:
    """Return a block as the upstream takes it back; None when its input is no object."""
    text = "".join(block.pieces)
    if block.kind == "text":
        found: JSONObject = {"type": "text", "text": text}
        return found | {"citations": block.citations} if block.citations else found
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": block.signature or block.start.get("signature", "")}
    if not block.kind.endswith("tool_use") or (block.kind != "tool_use" and not text):
        return block.start
    return {**block.start, "input": block.input} if isinstance(block.input, dict) else None
