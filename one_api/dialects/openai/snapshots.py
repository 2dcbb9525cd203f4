"""Chunks that hold messages in place of deltas: pieces of the answer, or each time all of it so far.

DashScope's own dialect sends all of it unless ``incremental_output`` is set, Ollama's sends pieces. The texts tell
which it is: all of it begins with all that came before.
"""

from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import InvalidAnswer


class Snapshots:
    """The texts of the messages of one streamed choice."""

    def __init__(self) -> None:
        #: Each message holds all so far; None as long as the texts do not tell.
        self._repeats: bool | None = None
        #: What came of each text.
        self._said: dict[str, str] = {}
        #: What came a second time of each text: the text so far, or a piece that is like the first one.
        self._again: dict[str, str] = {}

    def leave_new(self, message: JSONObject, names: tuple[str, ...]) -> None:
        """Leave in the texts of ``message`` what has not come before, in place; ``names`` are those of the texts.

        Raises:
            InvalidAnswer: when a message says otherwise than the one before, of which it should be more.
        """
        texts = {name: message[name] for name in names if isinstance(message.get(name), str)}
        if self._repeats is None:
            self._repeats = self._tell(texts)
        if self._repeats is False:
            for name, held in self._again.items():
                message[name] = held + texts.get(name, "")
            self._said, self._again = {}, {}
            return
        for name, text in texts.items():
            said = self._said.get(name, "")
            if not text.startswith(said):
                if text:
                    raise InvalidAnswer("a message is not more of the one before")
                continue
            if text == said and self._repeats is None:
                self._again[name] = self._again.get(name, "") + text
            message[name], self._said[name] = text[len(said) :], text

    def _tell(self, texts: dict[str, str]) -> bool | None:
        """Return whether ``texts`` hold what came before, if one of them tells."""
        before = [(text, self._said[name]) for name, text in texts.items() if self._said.get(name)]
        if not before:
            return None
        if not any(texts.values()) or any(text and not text.startswith(said) for text, said in before):
            return False
        return True if any(len(text) > len(said) for text, said in before) else None
