"""A stream that broke goes on elsewhere: what the client has so far, and what of another answer it still lacks.

No text is sent twice, and none is left out: another answer is taken only if it begins with exactly the text that was
sent, or if its deployment goes on from that text itself (``prefill``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.routing.first_content import OnFirstContent

#: A field of deltas, and its text up to the next change of fields.
Run: TypeAlias = tuple[str, str]
#: The fields of a delta that are text; any other content ends what can be resumed.
_TEXTS = ("content", "reasoning_content")
#: A longer answer is not kept for this, in characters.
_MAX_SENT = 2_000_000


class Diverged(Exception):
    """Another answer does not begin with the text that was sent."""


def resumable(body: JSONObject) -> bool:
    """Return whether an answer to ``body`` could go on elsewhere: a single text, of no given form, without logprobs."""
    form = body.get("response_format")
    plain = not isinstance(form, dict) or form.get("type") == "text"
    return plain and body.get("n") in (None, 1) and not body.get("logprobs")


@dataclass(slots=True)
class Sent:
    """What has been sent to the client, as runs of (field, text)."""

    #: False once something was sent that cannot be matched by another answer.
    whole: bool = True
    runs: list[tuple[str, list[str]]] = field(default_factory=list)
    #: Events with content: about as many tokens.
    events: int = 0
    #: What is the same in every chunk of a stream.
    envelope: JSONObject = field(default_factory=dict)
    _size: int = 0

    def add(self, chunk: JSONObject) -> None:
        """Note a chunk that goes to the client."""
        if not self.envelope:
            self.envelope = {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        for choice in chunk.get("choices", ()):
            if self.whole:
                self.whole = self._note(choice)

    def _note(self, choice: JSONObject) -> bool:
        """Keep the text of one choice; False when there is more to it than text."""
        delta = choice.get("delta", {})
        texts = [(name, delta[name]) for name in _TEXTS if delta.get(name)]
        others = any(value for name, value in delta.items() if name not in _TEXTS and name != "role")
        for name, text in texts:
            if not isinstance(text, str):
                return False
            if not self.runs or self.runs[-1][0] != name:
                self.runs.append((name, []))
            self.runs[-1][1].append(text)
            self._size += len(text)
        self.events += bool(texts)
        plain = not others and choice.get("index") == 0 and choice.get("finish_reason") is None
        return plain and not choice.get("logprobs") and self._size <= _MAX_SENT

    @property
    def said(self) -> list[Run]:
        """The runs, each text in one."""
        return [(name, "".join(texts)) for name, texts in self.runs]

    @property
    def text(self) -> str | None:
        """The text sent; None when more than content was sent."""
        return self.said[0][1] if [name for name, _ in self.runs] == ["content"] else None

    def prefilled(self, body: JSONObject, text: str) -> JSONObject:
        """Return ``body`` with ``text``, the beginning of what was sent, as its last message, to go on from."""
        longer = body | {"messages": [*body["messages"], {"role": "assistant", "content": text}]}
        for limit in ("max_tokens", "max_completion_tokens"):
            if isinstance(longer.get(limit), int):
                longer[limit] = max(1, longer[limit] - self.events)
        return longer

    def changes_model(self) -> None:
        """Note that what follows is another model's: its chunks keep their own model name."""
        self.envelope.pop("model", None)

    def as_continuation(self, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return chunks of another stream as parts of this one: under its envelope, without a second opening."""
        found = []
        for chunk in chunks:
            for choice in chunk.get("choices", ()):
                choice.get("delta", {}).pop("role", None)
            empty = [not choice.get("delta") and not choice.get("finish_reason") for choice in chunk["choices"]]
            if not empty or not all(empty):
                found.append(chunk | self.envelope)
        return found


async def after_the_same(
    stream: ChunkStream, on_first_content: OnFirstContent, sent: Sequence[Run]
) -> list[JSONObject]:
    """Read ``stream`` past what was sent, and return what follows it, as far as it has come.

    Raises:
        Diverged: when its text is another one.
        UpstreamError: when it fails before that.
    """
    left = list(sent)
    chunks: list[JSONObject] = []
    while left:
        # An answer that came at once has ended before any of it is read.
        chunks = await stream.read()
        if stream.ended and not chunks:
            raise Diverged
        if any(map(stream.has_content, chunks)):
            on_first_content()
        while left and chunks:
            if _strip(chunks[0], left):
                break
            chunks.pop(0)
    return chunks


def _strip(chunk: JSONObject, left: list[Run]) -> bool:
    """Take what was sent out of a chunk; return whether anything of the chunk is left then."""
    for choice in chunk["choices"]:
        delta = choice.get("delta", {})
        for name in _TEXTS:
            if text := delta.get(name):
                delta[name] = _rest(name, text, left)
        more = any(value for name, value in delta.items() if name != "role")
        ends = choice.get("finish_reason") is not None
        if left and (more or ends or choice.get("index") != 0):
            raise Diverged
        if more or ends:
            return True
    return False


def _rest(name: str, text: str, left: list[Run]) -> str:
    """Return what of ``text`` goes beyond what was sent."""
    while text and left:
        expected_name, expected = left[0]
        size = min(len(text), len(expected))
        if name != expected_name or text[:size] != expected[:size]:
            raise Diverged
        text = text[size:]
        left[:] = [(name, expected[size:]), *left[1:]] if size < len(expected) else left[1:]
    return text
