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

    def __init__(self, identity: Identity, *, include_usage: bool, forced: bool = False, top_logprobs: int = 0) -> None:
        """``top_logprobs`` of the likeliest tokens are listed at each place, where log probabilities are asked for."""
        super().__init__(identity, include_usage=include_usage, drop=_ENGINE_KEYS)
        self._shown = identity
        self._forced = ForcedCall() if forced else None
        self._top_logprobs = top_logprobs

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
                _clean_logprobs(choice, self._top_logprobs)
            if self._forced is None or self._forced.turn(chunk) is not None:
                turned.append(chunk)
        return turned


def _clean_logprobs(choice: JSONObject, most: int) -> None:
    """Take out of the log probabilities the engine's own numbers of tokens, and what goes beyond ``most`` likeliest."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict) or not isinstance(entries := logprobs.get("content"), list):
        choice["logprobs"] = None
        return
    logprobs["refusal"] = None
    for entry in entries:
        if isinstance(entry, dict):
            entry["top_logprobs"] = (entry.get("top_logprobs") or [])[:most]
        for token in (entry, *entry["top_logprobs"]) if isinstance(entry, dict) else ():
            token.pop("id", None)
