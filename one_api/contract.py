"""What the rooms hand to each other: the types that routing, adapters, cache and doors agree on."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias, get_args

from msgspec import Struct

#: A JSON object at the border, where its fields are not ours to know.
JSONObject: TypeAlias = dict[str, Any]

#: What servers call a model's context window. Model lists have all these names, for clients of any of them.
CONTEXT_NAMES = ("context_window", "context_length", "max_model_len")
#: Keys of a model entry that we set ourselves, or that mean nothing behind a gateway.
_OWN_KEYS = frozenset({"id", "object", "created", "owned_by", "permission", "root", "parent"})
#: What a model may be asked for.
Kind: TypeAlias = Literal[
    "chat", "completion", "embedding", "moderation", "image", "transcription", "translation", "speech", "rerank"
]
#: Where clients ask for it.
DOORS: dict[Kind, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "moderation": "/v1/moderations",
    "image": "/v1/images/generations",
    "transcription": "/v1/audio/transcriptions",
    "translation": "/v1/audio/translations",
    "speech": "/v1/audio/speech",
    "rerank": "/v1/rerank",
}

#: Token counts beyond this are nonsense, whatever server reports them.
_MAX_TOKENS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that asks: the name of its key, never the key."""

    name: str
    #: Lists of model ids and of patterns with ``*``; of each list one has to fit. Without a list any model may be used.
    models: tuple[tuple[str, ...], ...] = ()
    #: What only this gateway knows of the key, the same in every process and after every start.
    secret: bytes = field(default=b"", repr=False, compare=False)
    #: Its own limits, per minute and at a time. None: as configured for all keys; 0: no limit.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def may_use(self, model: str) -> bool:
        """Return whether the key may name a model."""
        return all(any(fnmatchcase(model, pattern) for pattern in each) for each in self.models)


#: Kinds of tokens that have prices of their own, beside text.
Modality: TypeAlias = Literal["audio", "image", "video"]


class Modalities(NamedTuple):
    """Which tokens beside those of text a prompt may have, and a completion."""

    prompt: frozenset[Modality] = frozenset()
    completion: frozenset[Modality] = frozenset()


class ModalityUsage(Struct, frozen=True):
    """The tokens of one modality in an answer; 0 where the upstream has not said."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: Those of the prompt that the upstream had in its cache.
    cached_tokens: int = 0

    def without(self, part: "ModalityUsage") -> "ModalityUsage":
        """Return what is left of these tokens when others, which are part of them, are counted."""
        return ModalityUsage(
            self.prompt_tokens - part.prompt_tokens,
            self.completion_tokens - part.completion_tokens,
            self.cached_tokens - part.cached_tokens,
        )


class Usage(Struct, frozen=True):
    """What an answer took, in tokens, as OpenAI counts.

    ``prompt_tokens`` include those that the upstream had in its cache and those that it put there,
    ``completion_tokens`` include those of reasoning, and both those of ``audio``, ``image`` and ``video``.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio: ModalityUsage = ModalityUsage()
    image: ModalityUsage = ModalityUsage()
    video: ModalityUsage = ModalityUsage()
    #: Those of ``cache_write_tokens`` that stay for an hour, not for minutes.
    cache_write_1h_tokens: int = 0

    @classmethod
    def read(cls, usage: Any) -> "Usage | None":
        """Read an OpenAI ``usage`` object; None when there is none, or nothing in it; absurd counts are clamped.

        For vectors and ranks some upstreams report only the total. Tokens of a modality are never more than the tokens
        that they are part of.
        """
        if not isinstance(usage, dict):
            return None
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if not prompt and usage.get("prompt_tokens") is None:
            if usage.get("total_tokens") is None and usage.get("completion_tokens") is None:
                return None
            prompt = max(0, _count(usage, "total_tokens") - completion)
        if "prompt_tokens_details" not in usage and "completion_tokens_details" not in usage:
            return cls(prompt, completion)
        of_prompt = _details(usage, "prompt_tokens_details")
        of_completion = _details(usage, "completion_tokens_details")
        if not of_prompt and not of_completion:
            return cls(prompt, completion)
        cached = _count(of_prompt, "cached_tokens")
        left, parts = ModalityUsage(prompt, completion, cached), []
        for name in _MODALITY_COUNTS:
            part = _of_modality(name, of_prompt, of_completion, left)
            left = left if part is _NO_TOKENS else left.without(part)
            parts.append(part)
        written, reasoning = _count(of_prompt, "cache_write_tokens"), _count(of_completion, "reasoning_tokens")
        audio, image, video = parts
        for_an_hour = _count(of_prompt, "cache_write_1h_tokens")
        return cls(prompt, completion, cached, written, reasoning, audio, image, video, for_an_hour)


def _of_modality(name: str, prompt: JSONObject, completion: JSONObject, left: ModalityUsage) -> ModalityUsage:
    """Read the tokens of a modality from the details of a prompt and a completion, of which so many are ``left``."""
    if not prompt.get(name) and not completion.get(name):
        return _NO_TOKENS
    asked = min(_count(prompt, name), left.prompt_tokens)
    answered = min(_count(completion, name), left.completion_tokens)
    cached = min(_count(_details(prompt, "cached_tokens_details"), name), asked, left.cached_tokens)
    return ModalityUsage(asked, answered, cached)


def _details(counts: JSONObject, name: str) -> JSONObject:
    found = counts.get(name)
    return found if isinstance(found, dict) else {}


_NO_TOKENS = ModalityUsage()
#: What upstreams call the tokens of each modality, in the order of ``Usage``.
_MODALITY_COUNTS = tuple(f"{each}_tokens" for each in get_args(Modality))


#: What is paid for otherwise than by tokens.
Unit: TypeAlias = Literal["images", "seconds", "characters", "search_units", "documents"]
#: What has prices beside tokens; each answer is one request.
PricedUnit: TypeAlias = Literal[Unit, "requests"]


class Units(Struct, frozen=True):
    """What an answer took beside tokens: so many ``amount`` of a ``unit``."""

    amount: float
    unit: Unit


def _count(counts: JSONObject, name: str) -> int:
    """Return a plausible count for what an upstream said, if it did."""
    value = counts.get(name)
    if value is None or (type(value) is int and 0 <= value <= _MAX_TOKENS):  # as nearly always
        return value or 0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(min(max(value, 0), _MAX_TOKENS))


class AnswerStream(ABC):
    """An answer that comes in pieces. It ends exactly once; its owner calls ``aclose()``."""

    #: Set once the upstream has sent it.
    usage: Usage | None = None
    #: What it takes beside tokens, as far as is known by now.
    units: Units | None = None
    #: True once ``read`` would return the end without waiting.
    ended: bool = False
    #: What the answer says of itself, once it has: why it ended, its id, and the upstream's name of the model.
    finish_reason: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    #: The longest silence between two events of the upstream, in seconds, where it is shorter than the adapter's own.
    idle_s: float | None = None

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the upstream. May be called at any time, and again."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class ChunkStream(AnswerStream):
    """A streamed answer whose items are objects: OpenAI chunks as dicts.

    A stream of another dialect, for a door of that dialect, has that dialect's events instead: it sets ``is_chat``, and
    says itself what its items hold (``has_content``, ``show_model``).
    """

    #: Its items are chat chunks, so that another stream may go on from what they said.
    is_chat: ClassVar[bool] = True

    @abstractmethod
    async def read(self) -> list[JSONObject]:
        """Wait for the next chunks and return all that are there; an empty list is the end.

        It may be cancelled while it waits, and called again: nothing is lost.

        Raises:
            UpstreamError: when the answer cannot be completed, also when the upstream's bytes stop without
                the upstream having said that it was finished.
        """

    async def read_encoded(self, encode: Callable[[list[JSONObject]], bytes]) -> bytes:
        """Return what ``encode`` makes of the next chunks; may be nothing. Raises as ``read``, which is not used then.

        ``encode`` writes each chunk for itself: a stream may use what it made of an earlier one.
        """
        return encode(await self.read())

    def has_content(self, chunk: JSONObject) -> bool:
        """Return whether an item holds something of the answer: more than a role. It may be of a legacy completion."""
        for choice in chunk.get("choices", ()):
            if choice.get("finish_reason") is not None or choice.get("text"):
                return True
            if any(value for name, value in choice.get("delta", {}).items() if name != "role"):
                return True
        return False

    def show_model(self, chunk: JSONObject, model: str) -> None:
        """Put the model's name that clients are to see into an item."""
        chunk["model"] = model

    async def __aiter__(self) -> AsyncIterator[JSONObject]:
        while chunks := await self.read():
            for chunk in chunks:
                yield chunk


class ByteStream(AnswerStream):
    """An answer of any type, as bytes that pass through unread; the first of them are there."""

    status: int = 200
    content_type: str = "application/octet-stream"
    #: The header ``Content-Disposition``, where the upstream sent one.
    disposition: str | None = None

    @property
    def has_events(self) -> bool:
        """Return whether it is a stream of server-sent events."""
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"

    @abstractmethod
    async def read(self) -> bytes:
        """Wait for the next bytes; none are the end. May be cancelled and called again, and raises as chunks do."""


class WholeChunks(ChunkStream):
    """A stream of chunks that are all there."""

    def __init__(self, chunks: list[JSONObject], usage: Usage | None = None) -> None:
        self.usage = usage
        self._chunks = chunks

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks, self._chunks, self.ended = self._chunks, [], True
        return chunks

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self._chunks, self.ended = [], True


class WholeBytes(ByteStream):
    """An answer that is there as a whole."""

    def __init__(
        self,
        data: bytes,
        content_type: str = "application/json",
        usage: Usage | None = None,
        units: Units | None = None,
    ) -> None:
        self.content_type, self.usage, self.units = content_type, usage, units
        self._data = data

    async def read(self) -> bytes:
        """See ``ByteStream``."""
        data, self._data, self.ended = self._data, b"", True
        return data

    async def aclose(self) -> None:
        """See ``ByteStream``."""
        self.ended = True


#: A whole answer in OpenAI's format, or one that comes in pieces.
Answer: TypeAlias = JSONObject | ChunkStream | ByteStream


class Call(Protocol):
    """What a client asks for, as far as it matters for the choice of a deployment."""

    @property
    def kind(self) -> Kind:
        """Return what is asked for."""

    @property
    def model(self) -> str:
        """Return the name of the model: the client's, or in an attempt the upstream's."""

    @property
    def stream(self) -> bool:
        """Return whether the answer is to come as chunks."""

    @property
    def repeats(self) -> bool:
        """Return whether another deployment may be asked when one did not answer in time: perhaps both are paid for."""

    def for_model(self, model: str) -> Self:
        """Return the same request for the model of that name."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an adapter knows of a model. ``created`` is in Unix seconds; ``context_window`` in tokens."""

    id: str
    owned_by: str
    created: int = 0
    context_window: int | None = None
    max_output_tokens: int | None = None
    #: What it may be asked for; None when it is not known.
    kinds: tuple[Kind, ...] | None = None
    #: What else the upstream said of it.
    extra: JSONObject = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Any, owner: str = "") -> "ModelInfo | None":
        """Read an entry of a model list in OpenAI's format, or an id alone; None for what has none.

        ``owner`` stands for an owner that is not named.
        """
        if isinstance(entry, cls):
            return entry
        if isinstance(entry, str):
            return cls(entry, owner)
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            return None
        window = next((entry[key] for key in CONTEXT_NAMES if entry.get(key)), None)
        created, owned_by, most = entry.get("created"), entry.get("owned_by"), entry.get("max_output_tokens")
        return cls(
            id=entry["id"],
            owned_by=owned_by if isinstance(owned_by, str) else owner,
            created=created if isinstance(created, int) else 0,
            context_window=window if isinstance(window, int) else None,
            max_output_tokens=most if isinstance(most, int) else None,
            extra={key: value for key, value in entry.items() if key not in _OWN_KEYS},
        )

    def to_openai(self, model_id: str) -> JSONObject:
        """Return the entry for the model list, under the id that clients use."""
        entry: JSONObject = {"id": model_id, "object": "model", "created": self.created, "owned_by": self.owned_by}
        if self.context_window is not None:
            entry |= dict.fromkeys(CONTEXT_NAMES, self.context_window)
        if self.max_output_tokens is not None:
            entry["max_output_tokens"] = self.max_output_tokens
        return entry | {key: value for key, value in self.extra.items() if key not in entry}
