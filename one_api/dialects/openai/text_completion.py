"""The legacy Completions format: text that goes on from a prompt, never made into a chat, which would change it."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from one_api.contract import Kind
from one_api.dialects import usage
from one_api.dialects.finish_reasons import read_finish
from one_api.dialects.frames import Translator
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.chat_request import model_in, stream_in
from one_api.dialects.openai.response import Identity, check_choice, fill
from one_api.dialects.payloads import DONE, InvalidAnswer, feed_all, read_body, read_event
from one_api.dialects.sse import Event
from one_api.errors import InvalidRequest

OBJECT = "text_completion"
#: More choices than this are not counted.
_MAX_CHOICES = 100_000


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for a completion: what we act on, and the body as it came."""

    model: str
    stream: bool
    include_usage: bool
    body: JSONObject

    #: See ``Call``.
    kind: ClassVar[Kind] = "completion"
    repeats: ClassVar[bool] = True

    @classmethod
    def read(cls, body: JSONObject) -> Self:
        """Check what we must understand of ``body``; its prompt is the upstream's to judge. Raises InvalidRequest."""
        model = model_in(body)
        if "messages" in body and "prompt" not in body:
            raise InvalidRequest(
                "`messages` are for POST /v1/chat/completions; here `prompt` is expected.",
                param="prompt",
                code="missing_required_parameter",
            )
        return cls(model, *stream_in(body), body)

    def for_model(self, model: str) -> Self:
        """Return the same request for the model of that name; its body keeps the order of its keys."""
        return replace(self, model=model, body=self.body | {"model": model})

    @property
    def choices(self) -> int:
        """Return how many choices are asked for: ``n`` for each prompt."""
        prompt, n = self.body.get("prompt"), self.body.get("n")
        # An array of token ids is one prompt.
        prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
        return min(prompts * (n if isinstance(n, int) and n > 0 else 1), _MAX_CHOICES)


def prepare(request: TextRequest, *, stream_usage: bool) -> JSONObject:
    """Return the body to send: with ``stream_usage``, a stream is asked for its usage, too."""
    if not (request.stream and stream_usage):
        return request.body
    return request.body | {"stream_options": {**(request.body.get("stream_options") or {}), "include_usage": True}}


def read_answer(data: bytes, identity: Identity, decoded: Any = None) -> JSONObject:
    """Return the completion that the body of an answer holds; ``decoded`` is its value, if it has been decoded already.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it holds no answer.
    """
    answer = read_body(data, decoded)
    if answer is None:
        raise InvalidAnswer("it is not a JSON object")
    _check_choices(answer)
    if not answer["choices"]:
        raise InvalidAnswer("it holds no choices")
    for position, choice in enumerate(answer["choices"]):
        choice.setdefault("index", position)
    fill(answer, identity, OBJECT)
    counts = usage.counts_in(answer)
    answer.pop("usage", None)
    return answer | ({"usage": counts} if counts else {})


class TextStream(Translator):
    """Reads the events of one stream, and returns the chunks to pass on; see ``OpenAIStream``.

    Usage comes last, in a chunk without choices and if it is asked for, wherever the upstream has put it.
    """

    def __init__(self, identity: Identity, *, include_usage: bool, choices: int = 1) -> None:
        self.finished = False
        self.usage: JSONObject | None = None
        self._identity = identity
        self._include_usage = include_usage
        self._asked_for = choices
        #: What all chunks say of themselves; nothing before the first one.
        self._head: JSONObject = {}
        #: The choices that have begun; those of them that have no finish reason yet.
        self._begun: set[int] = set()
        self._open: set[int] = set()

    @property
    def is_complete(self) -> bool:
        """Return whether every choice has its finish reason: only usage and the end mark may follow."""
        return len(self._begun) >= self._asked_for and not self._open

    def feed(self, event: Event) -> list[JSONObject]:
        """Return the chunks that ``event`` amounts to; raises ErrorPayload, InvalidAnswer."""
        if self.finished:
            return []
        try:
            payload = read_event(event)
        except InvalidAnswer as error:
            return feed_all(self.feed, event, error)
        if payload is None:
            return []
        if payload is DONE:
            if not self._begun:
                raise InvalidAnswer("it ends before an answer has begun")
            return self._finish()
        return self._take(payload)

    def _take(self, payload: JSONObject) -> list[JSONObject]:
        has_usage = payload.get("usage") is not None or usage.stands_elsewhere(payload)
        if has_usage and (reported := usage.counts_in(payload)):
            self.usage = usage.merge(self.usage, reported)
        payload.setdefault("choices", [])
        _check_choices(payload)
        for choice in payload["choices"]:
            index = choice.setdefault("index", 0)
            if not isinstance(index, int) or not 0 <= index < _MAX_CHOICES:
                raise InvalidAnswer("the number of a choice is none")
            self._begun.add(index)
            (self._open.discard if choice.get("finish_reason") else self._open.add)(index)
        payload.pop("usage", None)
        fill(payload, self._identity, OBJECT)
        self._head = self._head or {key: payload[key] for key in ("id", "object", "created", "model")}
        if not payload["choices"]:
            return []
        return [payload | {"usage": None} if self._include_usage else payload]

    def end(self) -> list[JSONObject]:
        """Return what is owed when the bytes have ended; ``finished`` stays False when the answer was not complete."""
        return self._finish() if self.is_complete and not self.finished else []

    def _finish(self) -> list[JSONObject]:
        self.finished = True
        return [self._head | {"choices": [], "usage": self.usage}] if self._include_usage and self.usage else []


class TextAssembler:
    """Takes the chunks of one answer, in order, and returns the completion that they amount to."""

    def __init__(self) -> None:
        self._head: JSONObject = {}
        self._usage: Any = None
        #: By index; the texts of each are joined at the end.
        self._choices: dict[int, JSONObject] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, chunk: JSONObject) -> None:
        """Add one chunk, as our streams send them."""
        self._head = self._head or {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        self._usage = chunk.get("usage") or self._usage
        for piece in chunk["choices"]:
            index: int = piece["index"]
            known = self._choices.setdefault(index, {"text": "", "index": index, "logprobs": None})
            self._texts.setdefault(index, []).append(piece["text"])
            known["finish_reason"] = piece.get("finish_reason")
            if isinstance(further := piece.get("logprobs"), dict):
                known["logprobs"] = _joined(known["logprobs"], further)

    def completion(self) -> JSONObject:
        """Return the completion; call it when the stream has ended well."""
        texts = {index: "".join(pieces) for index, pieces in self._texts.items()}
        choices = [choice | {"text": texts[index]} for index, choice in sorted(self._choices.items())]
        return self._head | {"choices": choices} | ({} if self._usage is None else {"usage": self._usage})


def _joined(known: JSONObject | None, further: JSONObject) -> JSONObject:
    """Return the log probabilities of two parts of a text as one."""
    if known is None:
        return further
    return {key: [*value, *further[key]] if isinstance(value, list) else value for key, value in known.items()}


def _check_choices(answer: JSONObject) -> None:
    """Raise when the choices cannot be read, or one reports an error; a missing text is an empty one."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise InvalidAnswer("its choices cannot be read")
    for choice in choices:
        check_choice(choice)
        if choice.get("finish_reason") is not None:
            read_finish(choice, called=False)
        if choice.get("text") is None:
            choice["text"] = ""
        if not isinstance(choice["text"], str):
            raise InvalidAnswer("the text of a choice is none")
