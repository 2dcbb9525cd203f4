"""Several answers as the choices of one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from one_api.contract import ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.serving.tasks import stop


class ChoicesStream(ChunkStream):
    """Streams of one choice each, sent as choices 0, 1, 2... of one stream.

    They answer one prompt, or several ``prompts`` with as many choices each. What a prompt took is counted once in the
    client's usage. With ``pays_each`` every choice has paid for it: what was paid stands beside that count, and in
    ``usage``.
    """

    def __init__(
        self, streams: Sequence[ChunkStream], *, include_usage: bool, pays_each: bool = False, prompts: int = 1
    ) -> None:
        self._streams = streams
        self._per_prompt = len(streams) // prompts
        self._include_usage = include_usage
        self._pays_each = pays_each
        self._reading: dict[int, asyncio.Task[list[JSONObject]]] = {}
        self._begun = 0
        self._head: JSONObject = {}
        #: What the first choice reported, if it has.
        self._reported: JSONObject = {}

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        chunks: list[JSONObject] = []
        while not chunks and not self.ended:
            for index, stream in enumerate(self._streams):
                if index not in self._reading and not stream.ended:
                    stream.idle_s = self.idle_s
                    self._reading[index] = asyncio.ensure_future(stream.read())
            await self._wait()
            for index in sorted(self._reading):
                # Clients expect choices to appear in order: the next one begins when all before it have.
                if index <= self._begun and self._reading[index].done():
                    chunks += self._take(index, self._reading.pop(index).result())
                    self._begun = max(self._begun, index + 1)
            self.usage = self._used()
            if not self._reading and all(stream.ended for stream in self._streams):
                self.ended = True
                chunks += self._usage_chunk()
        return chunks

    async def _wait(self) -> None:
        """Wait for a choice that has begun, or is the next to begin."""
        reading = [task for index, task in self._reading.items() if index <= self._begun]
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)

    def _take(self, index: int, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return the chunks of one choice under the head of all, without its usage."""
        taken = []
        for chunk in chunks:
            self._head = self._head or {key: chunk[key] for key in ("id", "object", "created", "model")}
            if not chunk["choices"]:
                self._reported = self._reported or chunk["usage"]
                continue
            for choice in chunk["choices"]:
                choice["index"] = index
            taken.append(chunk | self._head)
        return taken

    def _used(self) -> Usage | None:
        """Return what has been used so far."""
        known = self._known()
        prompt = sum(each.prompt_tokens for each in known) if self._pays_each else self._prompt_tokens()
        return Usage(prompt, sum(each.completion_tokens for each in known)) if known else None

    def _known(self) -> list[Usage]:
        return [stream.usage for stream in self._streams if stream.usage is not None]

    def _prompt_tokens(self) -> int:
        """Return what the prompts took, each counted once."""
        counts = [0 if stream.usage is None else stream.usage.prompt_tokens for stream in self._streams]
        return sum(max(counts[at : at + self._per_prompt]) for at in range(0, len(counts), self._per_prompt))

    def _usage_chunk(self) -> list[JSONObject]:
        if not self._include_usage or self.usage is None:
            return []
        prompt, completion = self._prompt_tokens(), self.usage.completion_tokens
        usage = self._reported | {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if self._pays_each:
            usage["total_tokens_paid"] = self.usage.prompt_tokens + completion
        if "completion_tokens_details" in usage:
            thought = sum(each.reasoning_tokens for each in self._known())
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        return [{**self._head, "choices": [], "usage": usage}]

    async def aclose(self) -> None:
        """Close all streams."""
        self.ended = True
        reading, self._reading = list(self._reading.values()), {}
        await stop(*reading)
        await asyncio.gather(*(stream.aclose() for stream in self._streams))


class OpenedLater(ChunkStream):
    """A stream that is opened when it is first read, as soon as ``turns`` allows; it keeps its turn until its end."""

    def __init__(self, open_: Callable[[], Awaitable[ChunkStream]], turns: asyncio.Semaphore) -> None:
        self._open = open_
        self._turns = turns
        self._stream: ChunkStream | None = None

    async def start(self) -> ChunkStream:
        """Open the stream and return it; raises what keeps it from opening."""
        await self._turns.acquire()
        try:
            self._stream = await self._open()
        except BaseException:
            self._turns.release()
            raise
        return self._stream

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        if self.ended:
            return []
        stream = self._stream or await self.start()
        stream.idle_s = self.idle_s
        chunks = await stream.read()
        self.usage = stream.usage
        if stream.ended:
            await self.aclose()
        return chunks

    async def aclose(self) -> None:
        """Close the stream, and give up the turn."""
        self.ended = True
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                await stream.aclose()
            finally:
                self._turns.release()
