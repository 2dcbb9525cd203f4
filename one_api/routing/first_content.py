"""Where a stream begins for the client: at its first content. Until then another deployment may take its place."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from one_api.contract import ChunkStream
from one_api.dialects.json import JSONObject
from one_api.settings.sections import HoldBackConfig

#: Is called, perhaps more than once, when a stream has content.
OnFirstContent: TypeAlias = Callable[[], None]
#: More chunks without content than this are passed on as they come.
_MAX_CHUNKS_WITHOUT_CONTENT = 1000


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
        with_content += sum(map(stream.has_content, came))
        chunks += came
    on_first_content()
    if hold_back is None:
        return chunks
    with suppress(TimeoutError):
        async with asyncio.timeout(hold_back.ms / 1000):
            while with_content < hold_back.tokens and not stream.ended:
                came = await stream.read()
                with_content += sum(map(stream.has_content, came))
                chunks += came
    return chunks
