"""Answers of rerank models that are kept: an upstream's own bytes, as a whole."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from one_api.cache.answers import Answers, CacheRules
from one_api.cache.keys import CacheRoute
from one_api.cache.pending_keys import Claim
from one_api.contract import ByteStream, WholeBytes
from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.passthrough import JSONBody, PassthroughRequest
from one_api.records import CallContext, CallRecord

#: Has a request answered by upstreams.
Ask: TypeAlias = Callable[[PassthroughRequest, CallContext], Awaitable[ByteStream]]


class KeptRerankings:
    """Runs before the attempt loop, as ``Answers`` does, whose store, settings and keys these are."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def run(self, route: CacheRoute, asked: PassthroughRequest, context: CallContext, ask: Ask) -> ByteStream:
        """Return the answer to ``asked``, and write to the call's record where it came from.

        Requests for anything but a ranking are passed on.

        Raises:
            GatewayError: what asking raises.
        """
        if asked.kind != "rerank" or not isinstance(asked.body, JSONBody):
            return await ask(asked, context)
        rules = self._answers.rules(route, context)
        if rules is None:
            return await ask(asked, context)
        # Fields of a request for embeddings may have the same names.
        key, record = await rules.key({"rerank": asked.body.fields}), context.record
        if (kept := await self._served(key, rules, record)) is not None:
            return kept
        record.cache = "bypass" if rules.directives.no_cache else "miss"
        claim = self._answers.pending.claim([key] if rules.may_share else [])
        try:
            stream = await ask(asked, context)
        except BaseException:
            claim.release()
            raise
        # The answer of a fallback is not kept: the model that was asked for may soon be back.
        if not route.is_target(record.deployment):
            claim.release()
            return stream
        head = {"at": self._answers.now(), "type": stream.content_type, "deployment": record.deployment}
        return _KeepingBytes(stream, self._answers, claim, key, json.encode(head) + b"\n", rules.policy.ttl_s)

    async def _served(self, key: bytes, rules: CacheRules, record: CallRecord) -> ByteStream | None:
        """Return a kept answer, waiting for one that is being asked for, and note in ``record`` that it is free."""
        if rules.directives.no_cache:
            return None
        kept, where_from = await self._find(key, rules), "hit"
        if kept is None and rules.may_share and await self._answers.pending.wait([key], self._answers.join_wait_s):
            kept, where_from = await self._find(key, rules), "joined"
        if kept is None:
            return None
        head, data = kept
        record.cache, record.free = where_from, True
        record.cache_age_s = max(0, int(self._answers.now() - head["at"])) if where_from == "hit" else None
        record.deployment = head.get("deployment")
        return WholeBytes(data, head["type"])

    async def _find(self, key: bytes, rules: CacheRules) -> tuple[JSONObject, bytes] | None:
        """Return what is known of a kept answer, and its bytes; None when it is too old, or was not made here."""
        head, _, data = (await self._answers.store.get(key) or b"").partition(b"\n")
        try:
            known = json.decode_object(head)
        except json.InvalidJSON:
            return None
        if not isinstance(known.get("at"), (int, float)) or not isinstance(known.get("type"), str):
            return None
        return (known, data) if rules.accepts(known["at"], self._answers.now()) else None


class _KeepingBytes(ByteStream):
    """An answer on its way to the client, that is kept once all of it has come."""

    def __init__(
        self, stream: ByteStream, answers: Answers, claim: Claim, key: bytes, head: bytes, ttl_s: float
    ) -> None:
        self.status, self.content_type, self.disposition = stream.status, stream.content_type, stream.disposition
        self.units = stream.units
        self._stream = stream
        self._answers = answers
        self._claim = claim
        self._key = key
        self._ttl_s = ttl_s
        #: What has come so far; nothing any more once it is too much.
        self._pieces: list[bytes] = [head]
        self._size = len(head)

    async def read(self) -> bytes:
        """See ``ByteStream``."""
        piece = await self._stream.read()
        self.usage, self.units, self.ended = self._stream.usage, self._stream.units, self._stream.ended
        self._size += len(piece)
        if self._size > self._answers.max_bytes:
            self._pieces.clear()
            self._claim.release()
            return piece
        self._pieces.append(piece)
        if self.ended:
            await self._answers.store.put(self._key, b"".join(self._pieces), self._ttl_s)
            self._claim.release()
        return piece

    async def aclose(self) -> None:
        """See ``ByteStream``."""
        self._claim.release()
        await self._stream.aclose()
