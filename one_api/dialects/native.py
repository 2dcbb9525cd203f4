"""A request as it came through a door of another dialect than OpenAI's chat, for adapters that speak that dialect."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest, UpstreamUnsuitable


@dataclass(frozen=True, slots=True)
class NativeRequest:
    """A request in its own dialect; every attempt that speaks it starts from this, untouched."""

    #: The dialect, as adapters call it: ``messages`` or ``responses``.
    api: str
    #: The body, as the client sent it.
    data: bytes
    #: What it holds; it is not changed in place.
    body: JSONObject
    #: The client's headers that belong to the dialect.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: ``body`` has other items than the client's request, as where a conversation goes on.
    counts_otherwise: bool = False
    #: Why it cannot be said in OpenAI's chat format; None when it can.
    refusal: InvalidRequest | None = None
    #: What of it is dropped or altered where it is said so.
    warnings: tuple[str, ...] = ()
    #: How much the model shall think, in chat's word: only for models that know such a word.
    effort: str | None = None

    def refuse_translation(self) -> None:
        """Raise UpstreamUnsuitable when only an upstream that speaks this dialect can serve the request."""
        if self.refusal is not None:
            found = self.refusal
            raise UpstreamUnsuitable(found.message, param=found.param, code=found.code)
