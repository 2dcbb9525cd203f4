"""Requests that pass through but for their model, and what of their answers is looked at on the way.

Each is answered by the upstream in its own bytes. What is read of these: whether they are of a type that the door can
have, whether a stream of events came to its own end, and what the upstream says that it took.
"""

import re
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias

from one_api.contract import JSONObject, Kind, Modalities, Units, Usage
from one_api.dialects import json, usage
from one_api.dialects.model_name import renamed
from one_api.dialects.multipart import Field, Form
from one_api.dialects.payloads import InvalidAnswer, check_error

AnswerType: TypeAlias = Literal["json", "events", "text", "html", "binary"]

#: So much of a form is sent at once, in bytes.
_PIECE_BYTES = 64 * 1024
#: An answer in JSON up to this size is read whole before it is passed on.
MAX_READ_BYTES = 1024 * 1024
#: So much of the end of a longer answer is kept for what it says of its usage, in bytes.
_TAIL_BYTES = 4 * 1024

_HTML = re.compile(rb"\s*<(?:!doctype|html|head|body)\b", re.I)
#: The last event of a stream: one that is called so, by its name or its type, or the end mark.
_LAST_EVENT = re.compile(
    rb'\n(?:event:\s*[\w.]+\.(?:completed|done)\b|data:\s*\[DONE\])|"type"\s*:\s*"[\w.]+\.(?:completed|done)"'
)
#: So many of the bytes before are looked at again, because a mark may be cut in two.
_OVERLAP_BYTES = 128
#: It may have details, and these details of cached tokens.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\})')
#: Where subtitles end, in hours, minutes and seconds.
_SUBTITLE = re.compile(rb"--> *(?:(\d{1,3}):)?(\d\d):(\d\d)[.,](\d{3})")
_SEARCH_UNITS = re.compile(rb'"search_units"\s*:\s*([0-9.]{1,20})')
#: An image in an answer in JSON, and the event that brings one.
_IMAGE = re.compile(rb'"(?:b64_json|url)"\s*:\s*"')
_IMAGE_EVENT = re.compile(rb'"type"\s*:\s*"[\w.]+\.completed"')
#: More of anything than this no answer takes.
_MAX_UNITS = 1e9
_TEXT = Modalities()
_BY_MODALITY = frozenset({"text_tokens", "audio_tokens", "image_tokens", "video_tokens"})


@dataclass(frozen=True, slots=True)
class Door:
    """One address that passes through."""

    kind: Kind
    #: Below ``/v1`` here, and below the base URL of an upstream.
    path: str
    answers: frozenset[AnswerType]
    #: How long the first byte of an answer may take where no limit is set, in seconds.
    first_byte_s: float = 120.0
    #: Each answer is paid for: a request whose answer did not come in time is not sent again.
    is_paid_each: bool = False
    #: The fields of an answer in JSON by which it is known not to be an error.
    fields: frozenset[str] = frozenset()
    #: A list without which an answer says nothing, and clients would read it as one that does.
    required: str | None = None
    #: Tokens are of these where an answer does not say of which they are.
    modalities: Modalities = _TEXT


_JSON: frozenset[AnswerType] = frozenset({"json"})
_IMAGES: frozenset[AnswerType] = frozenset({"json", "events"})
_WORDS: frozenset[AnswerType] = frozenset({"json", "events", "text"})
_SOUND: frozenset[AnswerType] = frozenset({"binary", "events"})

MODERATIONS = Door("moderation", "/moderations", _JSON, fields=frozenset({"results"}), required="results")
IMAGES = Door(
    "image", "/images/generations", _IMAGES, 300.0, is_paid_each=True, fields=frozenset({"data"}),
    modalities=Modalities(completion=frozenset({"image"})),
)  # fmt: skip
IMAGE_EDITS = replace(
    IMAGES, path="/images/edits", modalities=Modalities(prompt=frozenset({"image"}), completion=frozenset({"image"}))
)
TRANSCRIPTIONS = Door(
    "transcription", "/audio/transcriptions", _WORDS, fields=frozenset({"text", "segments"}),
    modalities=Modalities(prompt=frozenset({"audio"})),
)  # fmt: skip
TRANSLATIONS = replace(TRANSCRIPTIONS, kind="translation", path="/audio/translations")
SPEECH = Door(
    "speech", "/audio/speech", _SOUND, is_paid_each=True, modalities=Modalities(completion=frozenset({"audio"}))
)
RERANK = Door("rerank", "/rerank", _JSON, fields=frozenset({"results"}))


class Body(Protocol):
    """The body of a request, which may be sent several times."""

    @property
    def content_type(self) -> str:
        """Return the header of that name."""

    @property
    def size(self) -> int:
        """Return how many bytes it has."""

    def for_model(self, model: str) -> "Body":
        """Return the same body, naming that model."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield its bytes, from the beginning each time."""


class JSONBody:
    """An object, in the client's own bytes as far as they are certain; numbers are as they were written in any case."""

    content_type = "application/json"

    def __init__(self, fields: JSONObject, data: bytes | None = None) -> None:
        """``data`` are the bytes of ``fields``, where somebody has written them."""
        self.fields = fields
        self._pieces = None if data is None else [data]

    def encode(self) -> Generator[None, None, list[bytes]]:
        """Return what is sent, encoded once, in steps none of which takes long."""
        if self._pieces is None:
            self._pieces = yield from json.encode_large(self.fields)
        return self._pieces

    @property
    def size(self) -> int:
        """See ``Body``."""
        return sum(map(len, self._encoded))

    @property
    def _encoded(self) -> list[bytes]:
        return [json.encode(self.fields)] if self._pieces is None else self._pieces

    def for_model(self, model: str) -> "JSONBody":
        """See ``Body``."""
        if self.fields.get("model") == model:
            return self
        named = self.fields | {"model": model}
        return JSONBody(named, None if self._pieces is None else renamed(b"".join(self._pieces), model))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._encoded:
            for at in range(0, len(piece), _PIECE_BYTES):
                yield piece[at : at + _PIECE_BYTES]


@dataclass(frozen=True, slots=True)
class FormBody:
    """A form of several parts as it came, with the value of ``field`` replaced by ``model``."""

    form: Form
    field: Field
    content_type: str
    model: bytes
    #: How many images it asks for.
    n: int = 1

    @property
    def size(self) -> int:
        """See ``Body``."""
        return len(self.form) - (self.field.end - self.field.start) + len(self.model)

    def for_model(self, model: str) -> Self:
        """See ``Body``."""
        return replace(self, model=model.encode())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces(0, self.field.start):
            yield piece
        yield self.model
        for piece in self._pieces(self.field.end, len(self.form)):
            yield piece

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, _PIECE_BYTES):
            yield self.form[at : min(at + _PIECE_BYTES, end)]


@dataclass(frozen=True, slots=True)
class PassthroughRequest:
    """A request that passes through a ``door``."""

    door: Door
    model: str
    body: Body
    #: Another deployment may be asked also when the answer of the first did not come in time.
    repeats: bool = True

    #: Its answer is no stream of chunks, however it comes: it is answered when its first bytes are there.
    stream: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """Return what is asked for."""
        return self.door.kind

    def for_model(self, model: str) -> Self:
        """Return the same request for the model of that name."""
        return replace(self, model=model, body=self.body.for_model(model))


def type_of(label: str, start: bytes, door: Door) -> AnswerType:
    """Return what an answer is, by its content type and how it begins."""
    label = label.partition(";")[0].strip().lower()
    if label == "text/html" or _HTML.match(start):
        return "html"
    if label == "text/event-stream":
        return "events"
    is_json = label == "application/json" or label.endswith("+json")
    if is_json or ("text" not in door.answers and start.lstrip()[:1] in (b"{", b"[")):
        return "json"
    # Subtitles have labels of their own.
    return "text" if label.startswith("text/") or "text" in door.answers else "binary"


def read_json(data: bytes, door: Door) -> Any:
    """Return the value of a whole answer in JSON.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it is no JSON, or says nothing.
    """
    try:
        value = json.decode(data)
    except json.InvalidJSON as error:
        raise InvalidAnswer(f"it is not JSON: {error}") from None
    if value is None or value == {}:
        raise InvalidAnswer("it says nothing")
    if isinstance(value, dict) and door.fields.isdisjoint(value):
        check_error(value)
    if door.required is not None:
        found = value.get(door.required) if isinstance(value, dict) else None
        if not isinstance(found, list) or not found:
            raise InvalidAnswer(f"it has no `{door.required}`")
    return value


def units_asked(request: PassthroughRequest) -> Units | None:
    """Return what a request takes by itself, where its answer does not say; None when that is nothing but a request."""
    fields = request.body.fields if isinstance(request.body, JSONBody) else {}
    given, documents = fields.get("input"), fields.get("documents")
    n = request.body.n if isinstance(request.body, FormBody) else fields.get("n")
    match request.kind:
        case "speech" if isinstance(given, str):
            return Units(len(given), "characters")
        case "rerank" if isinstance(documents, list):
            return Units(len(documents), "documents")
        case "image":
            return Units(n if type(n) is int and 0 < n <= _MAX_UNITS else 1, "images")
    return None


def units_told(answer: Any) -> Units | None:
    """Return what a whole answer in JSON, or its ``usage``, says that it took beside tokens."""
    if not isinstance(answer, dict):
        return None
    meta, usage = answer.get("meta"), answer.get("usage")
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    if isinstance(billed, dict) and (searches := _amount(billed.get("search_units"))) is not None:
        return Units(searches, "search_units")
    seconds = _amount(usage.get("seconds")) if isinstance(usage, dict) else None
    if seconds is None and "text" in answer:
        seconds = _amount(answer.get("duration"))
    return None if seconds is None else Units(seconds, "seconds")


def _amount(value: Any) -> float | None:
    """Return a plausible amount; some servers write it as a text."""
    try:
        amount = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return amount if 0 <= amount <= _MAX_UNITS else None


class Watcher:
    """Looks at the bytes of an answer as they pass: at its end it knows whether it is whole, and what it took."""

    def __init__(self, answer_type: AnswerType, door: Door | None = None) -> None:
        self._has_events = answer_type == "events"
        self._has_text = answer_type == "text"
        self._reads = answer_type in ("events", "json", "text")
        counts_images = door is not None and door.kind == "image"
        self._image = (_IMAGE_EVENT if self._has_events else _IMAGE) if counts_images else None
        self._modalities = _TEXT if door is None else door.modalities
        self._images = 0
        #: As if a line had ended before the first one.
        self._tail = b"\n"
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Look at what comes next."""
        if not self._reads:
            return
        if self._image is not None:
            held = self._tail[-_OVERLAP_BYTES:]
            self._images += sum(found.end() > len(held) for found in self._image.finditer(held + piece))
        if self._has_events and not self._ended:
            self._ended = _LAST_EVENT.search(self._tail[-_OVERLAP_BYTES:] + piece) is not None
        self._tail = piece[-_TAIL_BYTES:] if len(piece) >= _TAIL_BYTES else (self._tail + piece)[-_TAIL_BYTES:]

    @property
    def is_complete(self) -> bool:
        """Return whether the bytes so far may be all: a stream of events has a last one."""
        return self._ended or not self._has_events

    @property
    def usage(self) -> Usage | None:
        """Return what the answer took, as far as its end says."""
        return usage_of(self._reported, self._modalities)

    @property
    def units(self) -> Units | None:
        """Return what it took beside tokens, as far as its end says, or its images are counted."""
        if self._images:
            return Units(self._images, "images")
        if (searches := _SEARCH_UNITS.findall(self._tail)) and (amount := _amount(searches[-1].decode())) is not None:
            return Units(amount, "search_units")
        if self._has_text:
            return self._subtitled()
        return units_told({"usage": self._reported})

    def _subtitled(self) -> Units | None:
        """Return how long a recording is whose subtitles these are: not less than the last one of them lasts."""
        if not (times := _SUBTITLE.findall(self._tail)):
            return None
        hours, minutes, seconds, thousandths = (int(part or 0) for part in times[-1])
        return Units(hours * 3600 + minutes * 60 + seconds + thousandths / 1000, "seconds")

    @property
    def _reported(self) -> Any:
        found = _USAGE.findall(self._tail)
        try:
            return json.decode(found[-1]) if found else None
        except json.InvalidJSON:
            return None


def usage_of(reported: Any, modalities: Modalities = _TEXT) -> Usage | None:
    """Read a ``usage`` object in any of the words for it; None when it counts no tokens.

    Tokens are of ``modalities`` where it does not say of which they are.
    """
    if not isinstance(reported, dict):
        return None
    counts = dict(usage.merge(None, reported))
    for side, kinds in zip(("prompt", "completion"), modalities, strict=True):
        tokens, name = counts.get(f"{side}_tokens"), f"{side}_tokens_details"
        known = details if isinstance(details := counts.get(name), dict) else {}
        if _BY_MODALITY.isdisjoint(known):
            counts[name] = known | {f"{kind}_tokens": tokens for kind in kinds}
    return Usage.read(counts)
