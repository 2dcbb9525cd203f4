"""The text of an answer of Anthropic's, as the request wants it: cut, without its fence, or as a call's arguments.

And what belongs to it: citations, and the blocks of the provider's own tools.
"""

from one_api.dialects.anthropic.chunks import ChunkWriter
from one_api.dialects.anthropic.response import ResponseOptions, annotation
from one_api.dialects.anthropic.text import FenceStripper, StopScanner
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import own_call_id


class AnswerText:
    """Makes chunks of the pieces of an answer's text; some of it may be held back until ``end``."""

    def __init__(self, writer: ChunkWriter, options: ResponseOptions) -> None:
        self._writer = writer
        self._options = options
        self._scanner = StopScanner(options.stops)
        self._fence = FenceStripper(options.unfence)
        #: Text that counts only if the tool is not called whose input is the answer.
        self._before_json: list[str] = []

    @property
    def is_cut(self) -> bool:
        """A stop string of ours was met: nothing that follows belongs to the answer."""
        return self._scanner.hit

    @property
    def passes_on(self) -> bool:
        """Text becomes content as it is."""
        options = self._options
        return not (options.stops or options.unfence or options.json_tool or options.forced_tool)

    def add(self, text: str) -> list[JSONObject]:
        """Add a piece."""
        if self._options.json_tool:
            self._before_json.append(text)
            return []
        return self._chunks(self._fence.feed(self._scanner.feed(text)))

    def end(self) -> list[JSONObject]:
        """Return the chunks of what was held back."""
        before = "".join(self._before_json)
        self.drop()
        return self._chunks(before + self._fence.feed(self._scanner.end()) + self._fence.end())

    def drop(self) -> None:
        """Forget the text before the tool whose input is the answer."""
        self._before_json = []

    def _chunks(self, text: str) -> list[JSONObject]:
        name = self._options.forced_tool
        if not text or name is None:
            return self._writer.content(text)
        if self._writer.calls:
            return self._writer.arguments(self._writer.calls[0], text)
        call, chunks = self._writer.call(own_call_id(self._writer.identity.id, 0), name, "function")
        return chunks + self._writer.arguments(call, text)


class Extras:
    """What an answer holds beside text, thinking and calls; a client gets each kind once, before the end."""

    def __init__(self) -> None:
        self.provider_blocks: list[JSONObject] = []
        self._annotations: list[JSONObject] = []
        self._citations: list[JSONObject] = []

    def cite(self, citation: JSONObject, start: int, end: int) -> None:
        """Add a citation of the content from ``start`` to ``end``."""
        found = annotation(citation, start, end)
        (self._annotations if found else self._citations).append(found or citation)

    def chunks(self, writer: ChunkWriter) -> list[JSONObject]:
        """Return the chunks."""
        chunks: list[JSONObject] = []
        if self._annotations:
            chunks += writer.delta({"annotations": self._annotations})
        if self._citations:
            chunks += writer.delta({"citations": self._citations})
        if self.provider_blocks:
            chunks += writer.delta({"provider_specific": {"content": self.provider_blocks}})
        return chunks
