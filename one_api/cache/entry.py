"""One cached answer, as bytes."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from one_api.cache.keys import SCHEMA_VERSION
from one_api.dialects import json
from one_api.dialects.json import Encoded, JSONObject

#: An answer may nest as deep as a request's body; its entry has a level of its own.
_MAX_DEPTH = 70


class InvalidEntry(ValueError):
    """The bytes are not a cache entry, or not the entry of this key."""


class Entry(Struct, frozen=True):
    """A kept answer: a completion in OpenAI's format, encoded. ``stored_at`` is in Unix seconds."""

    encoded: Encoded
    stored_at: float
    #: The deployment that answered: "adapter/upstream model".
    deployment: str | None = None
    #: What was dropped or altered of the request.
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, answer: JSONObject, stored_at: float, deployment: str | None = None, warnings: list[str] | None = None
    ) -> "Entry":
        """Return the entry of an answer."""
        return cls(Encoded(json.encode(answer)), stored_at, deployment, warnings or [])

    @property
    def answer(self) -> JSONObject:
        """Return the answer; raises InvalidEntry when it cannot be decoded."""
        try:
            return json.decode_object(bytes(self.encoded), max_depth=_MAX_DEPTH)
        except json.InvalidJSON as error:
            raise InvalidEntry(str(error)) from None

    def encode(self, key: bytes) -> bytes:
        """Return the bytes to keep under ``key``."""
        whole = {
            "version": SCHEMA_VERSION,
            "key": key.hex(),
            "stored_at": self.stored_at,
            "deployment": self.deployment,
            "warnings": self.warnings,
            "answer": self.encoded,
        }
        return json.encode(whole)

    @classmethod
    def decode(cls, key: bytes, data: bytes) -> "Entry":
        """Read the value found under ``key``; raises InvalidEntry for anything that ``encode`` did not write."""
        try:
            found = _read(data)
            _look_at(found.answer)
            if not data.isascii():
                data.decode()  # what is not decoded was not looked at
        except (json.InvalidJSON, UnicodeDecodeError) as error:
            raise InvalidEntry(str(error)) from None
        if found.version != SCHEMA_VERSION or found.key != key.hex():
            raise InvalidEntry("it is not an answer that was kept here")
        return cls(found.answer, found.stored_at, found.deployment, found.warnings)

    def age_s(self, now: float) -> int:
        """Return its age at Unix time ``now``; a clock that was set back makes it no younger than new."""
        return max(0, int(now - self.stored_at))


class _Kept(Struct):
    """What an entry looks like."""

    version: int
    key: str
    stored_at: float
    deployment: str | None
    warnings: list[str]
    answer: Encoded


class _Message(Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(Struct):
    index: int
    message: _Message


class _Completion(Struct):
    """What has to be in an answer."""

    choices: Annotated[list[_Choice], Meta(min_length=1)]


_read, _look_at = json.reader_of(_Kept), json.reader_of(_Completion)
