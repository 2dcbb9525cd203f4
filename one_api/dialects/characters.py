"""Characters that came in halves: half of a surrogate pair, or some of the bytes of a UTF-8 sequence.

``json.decode_generously`` returns such text with a lone surrogate for each half (U+D800 to U+DFFF), and with U+DC80 to
U+DCFF for a byte that is no UTF-8 (PEP 383); also halves that were encoded by themselves come as such bytes (CESU-8).
None of these can be sent. Halves that meet are joined, others become U+FFFD.
"""

import re
from collections.abc import Hashable
from typing import Any

#: What stands for a character that cannot be known.
REPLACEMENT = "\ufffd"

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")
#: The three bytes of a half that was encoded by itself.
_ENCODED_HALF = re.compile("\udced([\udca0-\udcbf])([\udc80-\udcbf])")
_HALF = re.compile("[\ud800-\udfff]")
#: The beginning of a character at the end of a text: a first surrogate, or the first bytes of a UTF-8 sequence.
_BEGUN = re.compile(
    "(?:[\ud800-\udbff]|[\udcc2-\udcdf]|[\udce0-\udcef][\udc80-\udcbf]?|[\udcf0-\udcf4][\udc80-\udcbf]{0,2})\\Z"
)


class TextJoiner:
    """Joins the halves of characters over the pieces of a stream's texts, each text known by a key."""

    def __init__(self) -> None:
        #: The beginnings of characters that are kept, by the keys of their texts.
        self.begun: dict[Hashable, str] = {}

    def join(self, key: Hashable, piece: str) -> str:
        """Return the next piece of the text of ``key``; a character that has only begun is kept for the piece after."""
        text = _pairs_joined(self.begun.pop(key, "") + piece)
        if begun := _BEGUN.search(text):
            self.begun[key], text = begun[0], text[: begun.start()]
        return whole(text)

    def rest(self, key: Hashable) -> str:
        """Return what stands for a character of the text of ``key`` that will not be completed; "" if there is none."""
        return REPLACEMENT if self.begun.pop(key, "") else ""


def whole(text: str) -> str:
    """Return ``text`` without halves: joined where they meet, U+FFFD elsewhere."""
    if text.isascii():
        return text
    text = _BYTES.sub(_decoded, _pairs_joined(text))
    return _HALF.sub(REPLACEMENT, text)


def all_whole(value: Any) -> Any:
    """Return a JSON value whose texts and keys are without halves."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict):
        return {whole(key): all_whole(each) for key, each in value.items()}
    return [all_whole(each) for each in value] if isinstance(value, list) else value


def _pairs_joined(text: str) -> str:
    if "\udced" in text:
        text = _ENCODED_HALF.sub(lambda half: chr(0xD000 | (ord(half[1]) & 0x3F) << 6 | ord(half[2]) & 0x3F), text)
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def _decoded(found: re.Match[str]) -> str:
    return found[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
