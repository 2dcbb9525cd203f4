"""Several choices for one request, each an answer of its own, as one stream: of a chat, or of legacy completions."""

import asyncio
from collections.abc import Awaitable, Callable

from one_api.contract import ChunkStream, Usage
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.response import Identity
from one_api.serving.tasks import stop

CHAT_CHUNK = "chat.completion.chunk"
#: The most batches of chunks that wait to be read; beyond that the engine streams wait.
_MAX_BATCHES = 8

Open = Callable[[int], Awaitable[ChunkStream]]


class ChoicesStream(ChunkStream):
    """Merges the streams of ``n`` choices. Each prompt counts once, the answers add up."""

    def __init__(
        self,
        identity: Identity,
        n: int,
        at_once: int,
        open_one: Open,
        *,
        include_usage: bool,
        prompts: int = 1,
        kind: str = CHAT_CHUNK,
    ) -> None:
        """``open_one`` opens the stream of a choice; ``at_once`` of them are open at a time.

        The choices answer several ``prompts``, as many each, in order; ``kind`` is what their chunks are called.
        """
        self._identity = identity
        self._kind = kind
        self._per_prompt = n // prompts
        self._include_usage = include_usage
        self._open = open_one
        self._ready: asyncio.Queue[tuple[int, list[JSONObject] | Exception]] = asyncio.Queue(_MAX_BATCHES)
        self._left = n
        self._completion_tokens = 0
        #: By prompt.
        self._prompt_tokens = [0] * prompts
        self._first: list[JSONObject] = [
            self._chunk([{"index": index, "delta": {"role": "assistant", "content": None}, "logprobs": None,
                          "finish_reason": None}])
            for index in range(n if kind == CHAT_CHUNK else 0)
        ]  # fmt: skip
        turns = asyncio.Semaphore(at_once)
        self._tasks = [asyncio.create_task(self._choice(index, turns)) for index in range(n)]

    async def wait_for_first(self) -> None:
        """Wait for the first event of any choice, and keep it for ``read``; raises what keeps it from coming."""
        try:
            self._first += self._accept(*await self._ready.get())
        except BaseException:
            await self.aclose()
            raise

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``."""
        found, self._first = self._first, []
        while not found and not self.ended:
            found = self._accept(*await self._ready.get())
        return found

    async def _choice(self, index: int, turns: asyncio.Semaphore) -> None:
        """Read one choice to its end; an empty batch is the end."""
        try:
            async with turns, await self._open(index) as stream:
                stream.idle_s = self.idle_s
                while chunks := await stream.read():
                    await self._ready.put((index, chunks))
                self._count(index // self._per_prompt, stream)
            await self._ready.put((index, []))
        except Exception as error:  # raised by ``read``, whichever it is
            await self._ready.put((index, error))

    def _count(self, prompt: int, stream: ChunkStream) -> None:
        if stream.usage is not None:
            self._prompt_tokens[prompt] = max(stream.usage.prompt_tokens, self._prompt_tokens[prompt])
            self._completion_tokens += stream.usage.completion_tokens
            self.usage = Usage(sum(self._prompt_tokens), self._completion_tokens)

    def _accept(self, index: int, batch: "list[JSONObject] | Exception") -> list[JSONObject]:
        """Return what a batch of one choice adds to the whole."""
        if isinstance(batch, Exception):
            raise batch
        if batch:
            return [chunk for chunk in batch if self._is_shown(chunk, index)]
        self._left -= 1
        self.ended = not self._left
        if not self.ended or self.usage is None or not self._include_usage:
            return []
        usage = {"prompt_tokens": self.usage.prompt_tokens, "completion_tokens": self.usage.completion_tokens}
        return [self._chunk([]) | {"usage": usage | {"total_tokens": sum(usage.values())}}]

    def _is_shown(self, chunk: JSONObject, index: int) -> bool:
        """Give the choices of a chunk their number; drop their roles (already sent) and usage (already counted)."""
        for choice in chunk["choices"]:
            choice["index"] = index
            choice.get("delta", {}).pop("role", None)
        return bool(chunk["choices"])

    def _chunk(self, choices: list[JSONObject]) -> JSONObject:
        identity = self._identity
        chunk: JSONObject = {
            "id": identity.id, "object": self._kind, "created": identity.created, "model": identity.model,
            "choices": choices,
        }  # fmt: skip
        return chunk | {"usage": None} if self._include_usage else chunk

    async def aclose(self) -> None:
        """See ``ChunkStream``."""
        self.ended = True
        await stop(*self._tasks)
