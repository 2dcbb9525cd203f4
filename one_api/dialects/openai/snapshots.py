"""Chunks of which each holds all of the answer so far, and not a piece of it.

DashScope's own dialect sends such messages unless ``incremental_output`` is set; its OpenAI-compatible API and that of
MiniMax were seen to send such deltas. The texts show which it is: all so far begins with all that came before.
"""

from one_api.dialects.json import JSONObject
from one_api.dialects.payloads import InvalidAnswer

#: From this length on a delta that begins with the one before holds all so far, in characters. "ha" and "haha" may be
#: pieces, and a third one shows which.
_MIN_DELTA = 16
#: Stands at the end of all so far for a character of which only some bytes are known.
_UNKNOWN = "\ufffd"


class Snapshots:
    """The texts of the chunks of one streamed choice; ``in_messages`` says that they stand in messages, not deltas."""

    def __init__(self, *, in_messages: bool = False) -> None:
        #: Each chunk holds all so far; None as long as the texts do not show it.
        self.repeats: bool | None = None
        self.in_messages = in_messages
        #: What came of each text, and was sent.
        self._sent: dict[str, str] = {}
        #: What came after it, and waits until it is known what it is.
        self.held: dict[str, str] = {}

    def leave_new(self, holder: JSONObject, names: tuple[str, ...]) -> None:
        """Leave in the texts of a message or delta what has not come before, in place; ``names`` are the texts' names.

        Raises:
            InvalidAnswer: when it says otherwise than what came before, of which it should be more.
        """
        texts = {name: holder[name] for name in names if isinstance(holder.get(name), str)}
        for name, text in texts.items():
            if self.repeats is None:
                self._compare(name, text, is_blank=not any(texts.values()))
        if self.repeats is False:
            holder |= {name: held + texts.get(name, "") for name, held in self.held.items()}
            self._sent, self.held = {}, {}
            return
        for name, text in texts.items():
            if name not in self.held:
                holder[name] = self._new_in(name, text)
            else:
                holder[name] = ""
        if self.repeats:
            self.held = {}

    def _compare(self, name: str, text: str, *, is_blank: bool) -> None:
        """Note whether a text holds all so far; one that does not show it yet is held back."""
        sent, held = self._sent.get(name, ""), self.held.get(name, "")
        if not sent or (not text and not (is_blank and self.in_messages)):
            return
        if not text.startswith(held.rstrip(_UNKNOWN) or sent) or (text == sent and not self.in_messages):
            self.repeats = False
        elif len(text) > len(sent) and (self.in_messages or held or len(sent) >= _MIN_DELTA):
            self.repeats = True
            self.held.pop(name, None)
        else:
            self.held[name] = held + text if self.in_messages else text

    def _new_in(self, name: str, text: str) -> str:
        sent = self._sent.get(name, "")
        if self.repeats:
            text = text.rstrip(_UNKNOWN)
        if not text:
            return ""
        if not text.startswith(sent):
            raise InvalidAnswer("a message is not more of the one before")
        self._sent[name] = text
        return text[len(sent) :]

    def rest(self, name: str) -> str:
        """Return what still waits of a text at the end: a message that came twice is one, a delta may be a piece."""
        return "" if self.in_messages else self.held.get(name, "")
