"""Vectors that are kept, one for each input: a request asks upstreams only for those that are not there."""

import asyncio
import hashlib
import struct
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TypeAlias

from one_api.cache.answers import Answers, CacheRules
from one_api.cache.keys import CacheRoute
from one_api.contract import Usage
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.embeddings import EmbeddingRequest, Input, Vector, answer_of, as_float32, from_float32
from one_api.records import CallContext
from one_api.serving.fairness import in_turns

#: Has a request answered by upstreams.
Ask: TypeAlias = Callable[[EmbeddingRequest, CallContext], Awaitable[JSONObject]]

#: Values that are looked up at a time.
_AT_ONCE = 64
#: Before each vector stands when it was kept, in Unix seconds.
_STORED_AT = struct.Struct("<d")


class KeptVectors:
    """Runs before the attempt loop, as ``Answers`` does, whose store, settings and keys these are."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def run(self, route: CacheRoute, asked: EmbeddingRequest, context: CallContext, ask: Ask) -> JSONObject:
        """Return the answer to ``asked``. Its usage is that of the inputs that ``ask`` asked upstreams for.

        Raises:
            GatewayError: what asking raises.
        """
        rules = self._answers.rules(route, context)
        if rules is None:
            return await ask(asked, context)
        # All but the inputs is gone through once, however many they are.
        common = await rules.key(_without_inputs(asked), is_short=context.is_short)
        keys = [await in_turns(_key_of(common, each)) for each in asked.inputs]
        found: list[Vector | None] = [None] * len(keys) if rules.directives.no_cache else await self._find(keys, rules)
        missing, joined = _missing(found), False
        if missing and rules.may_share:
            joined = await self._answers.pending.wait([keys[index] for index in missing], self._answers.join_wait_s)
        if joined:
            found = await self._find(keys, rules)
            missing = _missing(found)
        context.record.cache = _status(len(keys), len(missing), bypassed=rules.directives.no_cache, joined=joined)
        if not missing:
            context.record.free = True
            return answer_of([each for each in found if each is not None], asked.model, 0)
        part = asked if len(missing) == len(keys) else asked.of([asked.inputs[index] for index in missing])
        claim = self._answers.pending.claim([keys[index] for index in missing] if rules.may_share else [])
        try:
            answer = await ask(part, context)
            for index, entry in zip(missing, answer["data"], strict=True):
                vector = found[index] = entry["embedding"]
                await self._keep(keys[index], vector, rules)
        finally:
            claim.release()
        usage = Usage.read(answer["usage"])
        vectors = [each for each in found if each is not None]
        return answer_of(vectors, answer["model"], usage.prompt_tokens if usage is not None else 0)

    async def _find(self, keys: Sequence[bytes], rules: CacheRules) -> "list[Vector | None]":
        found: list[Vector | None] = []
        for at in range(0, len(keys), _AT_ONCE):
            values = await asyncio.gather(*map(self._answers.store.get, keys[at : at + _AT_ONCE]))
            found += [self._read(value, rules) for value in values]
        return found

    def _read(self, value: bytes | None, rules: CacheRules) -> "Vector | None":
        """Return the vector that a value holds; None when it is too old, or was not made here."""
        size = _STORED_AT.size
        if value is None or len(value) <= size or (len(value) - size) % 4:
            return None
        (stored_at,) = _STORED_AT.unpack_from(value)
        return from_float32(value[size:]) if rules.accepts(stored_at, self._answers.now()) else None

    async def _keep(self, key: bytes, vector: Vector, rules: CacheRules) -> None:
        value = _STORED_AT.pack(self._answers.now()) + as_float32(vector)
        if len(value) <= self._answers.max_bytes:
            await self._answers.store.put(key, value, rules.policy.ttl_s)


def _without_inputs(asked: EmbeddingRequest) -> JSONObject:
    """Return what makes the vectors beside the inputs; the encoding is only how they are sent."""
    return {name: value for name, value in asked.body.items() if name not in ("encoding_format", "input")}


def _key_of(common: bytes, one: Input) -> Generator[None, None, bytes]:
    """Return the key of the vector of one input, in steps none of which takes long."""
    digest = hashlib.sha256(common)
    for piece in (yield from json.canonical_large([one])):
        digest.update(piece)
    return digest.digest()


def _missing(found: "list[Vector | None]") -> list[int]:
    return [index for index, vector in enumerate(found) if vector is None]


def _status(inputs: int, missing: int, *, bypassed: bool, joined: bool) -> str:
    if bypassed:
        return "bypass"
    if not missing:
        return "joined" if joined else "hit"
    return "miss" if missing == inputs else f"hit {inputs - missing}/{inputs}"
