"""What is done to an answer's text on its way: stop strings that the upstream refuses, and JSON only asked for."""

import re

from one_api.dialects import json

_FENCED = re.compile(r"\s*```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```\s*", re.DOTALL)
#: A model may nest as deeply as it likes; this is what can be read.
_DEEPEST = 500


def is_json_object(text: str) -> bool:
    """Return whether a whole text is one JSON object."""
    try:
        json.decode_object(text.encode(), max_depth=_DEEPEST)
    except json.InvalidJSON:
        return False
    return True


class StopScanner:
    """Cuts a text at the first of some strings; what may be the beginning of one is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        #: The stop string that was met; None before that. Nothing that follows belongs to the text.
        self.stop: str | None = None

    @property
    def hit(self) -> bool:
        """Return whether a stop string was met."""
        return self.stop is not None

    def feed(self, text: str) -> str:
        """Return the text that may be passed on."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.stop = min(found)
            self._held = ""
            return text[:place]
        held = self._suspect(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _suspect(self, text: str) -> int:
        """Return how many characters at the end may begin a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held


class FenceStripper:
    """Takes away a Markdown fence around a whole text; a text that begins with one is held back to its end."""

    def __init__(self, active: bool) -> None:
        #: None once the text is known to have no fence.
        self._held: list[str] | None = [] if active else None
        self._fenced = False

    def feed(self, text: str) -> str:
        """Return the text that may be passed on."""
        if self._held is None:
            return text
        self._held.append(text)
        if self._fenced:
            return ""
        text = "".join(self._held)
        start = text.lstrip()
        if start in ("", "`", "``") or start.startswith("```"):
            self._fenced = start.startswith("```")
            return ""
        self._held = None
        return text

    def end(self) -> str:
        """Return what was held back, without its fence."""
        text, self._held = "".join(self._held or ()), None
        fenced = _FENCED.fullmatch(text)
        return fenced[1] if fenced else text
