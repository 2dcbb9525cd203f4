"""Several answers as the choices of one."""

import asyncio
from collections.abc import Sequence

from one_api.contract import ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.serving.tasks import stop


class SeveralChoices(ChunkStream):
    """Streams of one choice each, told as choices 0, 1, 2... of one stream.

    What the prompt took is counted once in the client's usage; what was paid stands beside it, and in ``usage``.
    """

    def __init__(self, streams: Sequence[ChunkStream], *, include_usage: bool) -> None:
        self._streams = streams
        self._include_usage = include_usage
        self._reading: dict[int, asyncio.Task[list[JSONObject]]] = {}
        self._opened = 0
        self._head: JSONObject = {}
        self._usages: dict[int, JSONObject] = {}

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
                # Clients expect choices to appear in order: the next one opens when all before it have.
                if index <= self._opened and self._reading[index].done():
                    chunks += self._take(index, self._reading.pop(index).result())
                    self._opened = max(self._opened, index + 1)
            self.usage = self._paid()
            if not self._reading and all(stream.ended for stream in self._streams):
                self.ended = True
                chunks += self._usage_chunk()
        return chunks

    async def _wait(self) -> None:
        """Wait for a choice that may speak."""
        speaking = [task for index, task in self._reading.items() if index <= self._opened]
        await asyncio.wait(speaking, return_when=asyncio.FIRST_COMPLETED)

    def _take(self, index: int, chunks: list[JSONObject]) -> list[JSONObject]:
        """Return the chunks of one choice under the head of all, without its usage."""
        taken = []
        for chunk in chunks:
            self._head = self._head or {key: chunk[key] for key in ("id", "created", "model")}
            if not chunk["choices"]:
                self._usages[index] = chunk["usage"]
                continue
            for choice in chunk["choices"]:
                choice["index"] = index
            taken.append(chunk | self._head)
        return taken

    def _usage_chunk(self) -> list[JSONObject]:
        if not self._include_usage:
            return []
        first, *others = (self._usages[index] for index in sorted(self._usages))
        completion = first["completion_tokens"] + sum(each["completion_tokens"] for each in others)
        paid = sum(each["total_tokens"] for each in (first, *others))
        usage = first | {
            "completion_tokens": completion,
            "total_tokens": first["prompt_tokens"] + completion,
            "total_tokens_paid": paid,
        }
        thought = [each["completion_tokens_details"]["reasoning_tokens"] for each in (first, *others)]
        usage["completion_tokens_details"] = {"reasoning_tokens": sum(thought)}
        return [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}]

    def _paid(self) -> Usage:
        known = [stream.usage for stream in self._streams if stream.usage is not None]
        return Usage(sum(each.prompt_tokens for each in known), sum(each.completion_tokens for each in known))

    async def aclose(self) -> None:
        """Let go of all."""
        self.ended = True
        reading, self._reading = list(self._reading.values()), {}
        await stop(*reading)
        await asyncio.gather(*(stream.aclose() for stream in self._streams))
