"""Where a stream begins for the client: at its first content. Until then another deployment may take its place."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.settings.sections import HoldBackConfig

#: Is called, perhaps more than once, when a stream has content.
OnFirstContent: TypeAlias = Callable[[], None]
#: More chunks without content than this are passed on as they come.
_MAX_CHUNKS_WITHOUT_CONTENT = 1000


def has_content(chunk: JSONObject) -> bool:
    """Say whether a chunk holds something of the answer: more than a role, or an end."""
    for choice in chunk.get("choices", ()):
        if choice.get("finish_reason") is not None:
            return True
        if any(value for name, value in choice.get("delta", {}).items() if name != "role"):
            return True
    return False


async def read_to_first_content(
    stream: ChunkStream, on_first_content: OnFirstContent, hold_back: HoldBackConfig | None = None
) -> list[JSONObject]:
    """Read ``stream`` up to its first content, or as far as ``hold_back`` says, and return what has come.

    Raises:
        UpstreamError: when it fails before that.
    """
    chunks: list[JSONObject] = []
    with_content = 0
    while not with_content and not stream.ended and len(chunks) < _MAX_CHUNKS_WITHOUT_CONTENT:
        came = await stream.read()
        with_content += _count(came)
        chunks += came
    on_first_content()
    if hold_back is None:
        return chunks
    with suppress(TimeoutError):
        async with asyncio.timeout(hold_back.ms / 1000):
            while with_content < hold_back.tokens and not stream.ended:
                came = await stream.read()
                with_content += _count(came)
                chunks += came
    return chunks


def _count(chunks: Iterable[JSONObject]) -> int:
    return sum(map(has_content, chunks))
