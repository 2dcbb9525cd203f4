"""Requests for many embeddings, sent in parts: the answer has all of them, in order, or there is none."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from one_api.contract import JSONObject
from one_api.dialects.openai.embeddings import EmbeddingRequest, RawAnswer, Vector, answer_of, check_length
from one_api.dialects.payloads import InvalidAnswer, UnfitAnswer
from one_api.errors import UpstreamBroken, UpstreamUnfit
from one_api.serving.tasks import stop

#: Sends one part.
Post: TypeAlias = Callable[[EmbeddingRequest], Awaitable[RawAnswer]]

#: The largest answer with vectors, in bytes.
MAX_VECTORS_BYTES = 64 * 1024 * 1024
#: So many vectors are read before others have the loop.
_AT_ONCE = 8


async def embed_in_parts(request: EmbeddingRequest, max_batch: int, post: Post, *, at_once: int = 4) -> JSONObject:
    """Return the answer to ``request``: parts of ``max_batch`` inputs are sent, ``at_once`` at a time.

    Raises:
        UpstreamError: what ``post`` raises for any part; when a vector cannot be read, or has not the length that was
            asked for.
    """
    parts = request.split(max_batch)
    answers = await _all(parts, post, at_once)
    tokens = 0
    for part, answer in zip(parts, answers, strict=True):
        tokens += answer.usage.prompt_tokens if answer.usage is not None else part.estimated_tokens()
    return answer_of(await _vectors(answers, request.dimensions), request.model, tokens)


async def _all(parts: Sequence[EmbeddingRequest], post: Post, at_once: int) -> list[RawAnswer]:
    if len(parts) == 1:
        return [await post(parts[0])]
    room = asyncio.Semaphore(at_once)

    async def send(part: EmbeddingRequest) -> RawAnswer:
        async with room:
            return await post(part)

    sending = [asyncio.ensure_future(send(part)) for part in parts]
    try:
        return await asyncio.gather(*sending)
    finally:
        await stop(*sending)


async def _vectors(answers: Sequence[RawAnswer], dimensions: int | None) -> list[Vector]:
    found: list[Vector] = []
    try:
        for answer in answers:
            for vector in answer.vectors():
                found.append(vector)
                check_length(vector, found[0], dimensions)
                if len(found) % _AT_ONCE == 0:
                    await asyncio.sleep(0)
    except UnfitAnswer as error:
        code = UpstreamBroken.code
        raise UpstreamUnfit(f"The upstream's answer is not what was asked for: {error}.", code=code) from None
    except InvalidAnswer as error:
        raise UpstreamBroken(f"The upstream's answer cannot be used: {error}.") from None
    return found
