"""What our own adapters are: they take a request as one object, and speak the article's verb on top of that."""

from abc import abstractmethod
from typing import Any, Literal, overload

from one_api.models.adapters.base import BaseModelAdapter, ChunkStream
from one_api.schema import ChatRequest
from one_api.wire.json import JSONObject


class RequestAdapter(BaseModelAdapter):
    """An adapter that is handed the request as one object: what it does not touch stays as the client sent it."""

    @abstractmethod
    async def complete(self, request: ChatRequest) -> JSONObject:
        """See ``BaseModelAdapter``."""

    @abstractmethod
    async def stream(self, request: ChatRequest) -> ChunkStream:
        """See ``BaseModelAdapter``."""

    @overload
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        *,
        stream: Literal[True],
        **kwargs: Any,
    ) -> ChunkStream: ...

    @overload
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: Literal[False] | None = False,
        **kwargs: Any,
    ) -> JSONObject: ...

    @overload
    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: bool | None = False,
        **kwargs: Any,
    ) -> JSONObject | ChunkStream: ...

    async def generate_completion(
        self,
        /,
        model: str,
        messages: list[JSONObject],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stream: bool | None = False,
        **kwargs: Any,
    ) -> JSONObject | ChunkStream:
        """See ``BaseModelAdapter``: for callers in Python, over ``complete`` and ``stream``."""
        named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stream": stream or None}
        given = {key: value for key, value in named.items() if value is not None}
        request = ChatRequest.of({"model": model, "messages": messages, **given, **kwargs})
        return await (self.stream(request) if stream else self.complete(request))
