"""How a message of Anthropic's Messages API ends, as far as its events have said it."""

import logging
from typing import Any

from one_api.dialects.anthropic.events import stop_details_of, stop_of
from one_api.dialects.anthropic.response import (
    check_stop,
    ends_of_itself,
    finish_reason,
    known_stop,
    merge_usage,
    sum_usage,
    usage_of,
)
from one_api.dialects.json import JSONObject

logger = logging.getLogger(__name__)


class Ending:
    """Why a message stops, and what it took. Events may say either in pieces, and again."""

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self._details: Any = None
        self._reported: JSONObject = {}
        #: OpenAI's, of the messages that this one continues.
        self._earlier_usage: JSONObject | None = None

    def count(self, reported: JSONObject) -> JSONObject:
        """Take over a report of usage; return OpenAI's, as far as it is known."""
        merge_usage(self._reported, reported)
        usage = usage_of(self._reported)
        return sum_usage(self._earlier_usage, usage) if self._earlier_usage else usage

    def read_stop(self, payload: JSONObject) -> bool:
        """Take over the stop reason in an event, and return whether there is one."""
        reason = stop_of(payload)
        if reason is not None:
            check_stop(reason)
        self.stop_reason = reason or self.stop_reason
        self._details = stop_details_of(payload) or self._details
        return reason is not None

    def cut(self, tokens: int) -> JSONObject:
        """End at a stop string of ours, after so many tokens, roughly: the upstream's count will never be known."""
        self.stop_reason = "stop_sequence"
        return {**self.count({"output_tokens": tokens}), "estimated": True}

    def resume(self) -> None:
        """Go on with the message that continues this one."""
        self._earlier_usage, self._reported = self.count({}), {}
        self.stop_reason, self._details = None, None

    @property
    def is_natural(self) -> bool:
        """Whether the model had said all that it wanted to."""
        return ends_of_itself(self.stop_reason)

    def finish_reason(self, called: str | None) -> str:
        """Return OpenAI's word; ``called`` is the word for an answer that ends with calls, or None."""
        if self.stop_reason is None or not known_stop(self.stop_reason):
            logger.warning("an upstream ended a message with the stop reason %r: sent on as `stop`", self.stop_reason)
        return finish_reason(self.stop_reason, called)

    @property
    def explanation(self) -> str | None:
        """Why the model, or its provider, refuses to go on, if that is said."""
        explanation = self._details.get("explanation") if isinstance(self._details, dict) else None
        return explanation if isinstance(explanation, str) else None
