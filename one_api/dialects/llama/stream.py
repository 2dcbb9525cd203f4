"""A streamed answer of the local engine, made to look as OpenAI's own does."""

from one_api.dialects.json import JSONObject
from one_api.dialects.llama.forced_calls import ForcedCall
from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.sse import Event

#: Keys of the engine's answers that are no part of OpenAI's format.
_ENGINE_KEYS = frozenset({"timings", "__verbose"})


class LocalStream(OpenAIStream):
    """Reads the engine's events: all chunks carry ``identity``, and a forced call becomes a tool call."""

    def __init__(self, identity: Identity, *, include_usage: bool, forced: bool = False) -> None:
        super().__init__(identity, include_usage=include_usage, drop=_ENGINE_KEYS)
        self._shown = identity
        self._forced = ForcedCall() if forced else None

    def feed(self, event: Event) -> list[JSONObject]:
        """See ``OpenAIStream``."""
        return self._turned(super().feed(event))

    def text_in(self, payload: JSONObject) -> str | None:
        """See ``OpenAIStream``: the text of a forced call is turned."""
        return super().text_in(payload) if self._forced is None else None

    def end(self) -> list[JSONObject]:
        """See ``OpenAIStream``."""
        return self._turned(super().end())

    def _turned(self, chunks: list[JSONObject]) -> list[JSONObject]:
        turned = []
        for chunk in chunks:
            chunk["id"], chunk["created"], chunk["model"] = self._shown.id, self._shown.created, self._shown.model
            for choice in chunk["choices"]:
                _drop_token_ids(choice)
            if self._forced is None or self._forced.turn(chunk) is not None:
                turned.append(chunk)
        return turned


def _drop_token_ids(choice: JSONObject) -> None:
    """Take the engine's own numbers of tokens out of the log probabilities."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict) or not isinstance(entries := logprobs.get("content"), list):
        choice["logprobs"] = None
        return
    logprobs["refusal"] = None
    for entry in entries:
        for token in (entry, *(entry.get("top_logprobs") or ())) if isinstance(entry, dict) else ():
            token.pop("id", None)
