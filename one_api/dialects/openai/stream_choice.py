"""One choice of a streamed answer: what it has said so far, and its chunks in OpenAI's form."""

from collections.abc import Callable, Collection

from one_api.dialects.characters import TextJoiner
from one_api.dialects.finish_reasons import read_finish
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import CallReader
from one_api.dialects.openai.reasoning_names import name_in
from one_api.dialects.openai.response import CUTS, check_choice
from one_api.dialects.openai.shapes import MESSAGES, has_words, message_in, shape_texts
from one_api.dialects.openai.snapshots import Snapshots
from one_api.dialects.openai.strict import shape_annotations, strict_logprobs
from one_api.dialects.payloads import ErrorPayload

#: Texts of a delta that may hold halves of characters.
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
#: Keys of a choice for which more has to be done than for a delta.
OTHER_SHAPES = frozenset({*MESSAGES, "error", "usage"})
#: Fields of a delta that are no content of an answer.
_NO_CONTENT = frozenset({"role", "reasoning_content", "reasoning_details", "thinking_blocks"})


class StreamChoice:
    """Mends the pieces of one choice, one after the other.

    ``tools`` are the names of the tools that there are; ``on_reasoning_name`` is called once, with the name under which
    the upstream sends reasoning; ``role_said`` says that the client has been sent its role.
    """

    __slots__ = (
        "_legacy", "_on_reasoning_name", "_reasoned", "_role_said", "_tools", "by_delta", "calls", "ending", "finished",
        "is_annotated", "reported", "said", "snapshots",
    )  # fmt: skip

    def __init__(
        self, tools: Collection[str], on_reasoning_name: Callable[[str], None] | None, *, role_said: bool = False
    ) -> None:
        self.calls = CallReader(tools)
        self.finished = False
        #: Words have come in deltas.
        self.by_delta = False
        #: It holds more than a role and reasoning.
        self.said = False
        #: The upstream has annotated its text.
        self.is_annotated = False
        #: The chunk with its finish reason, kept until the end of the stream: words may follow.
        self.ending: JSONObject | None = None
        #: The usage that its last piece has reported.
        self.reported: JSONObject | None = None
        #: What has come of it in deltas, or in messages.
        self.snapshots = Snapshots()
        self._tools = tools
        self._on_reasoning_name = on_reasoning_name
        self._role_said = role_said
        #: It calls a function in the deprecated form.
        self._legacy = False
        #: Reasoning has come as a text of its own: what else holds it repeats it.
        self._reasoned = False

    def mend(self, choice: JSONObject, answer_id: str) -> None:
        """Mend a piece in place.

        Raises:
            ErrorPayload: when it reports an error, or a finish reason that means one; it is mended all the same.
        """
        delta = choice.get("delta")
        if not isinstance(delta, dict) or not OTHER_SHAPES.isdisjoint(choice):
            delta = self._in_another_shape(choice)
        elif not self.by_delta:
            self.by_delta = has_words(delta)
        if isinstance(reported := delta.pop("usage", None), dict):
            self.reported = reported
        if "error" in delta:
            choice["error"] = delta.pop("error")
        if delta.get("annotations") is not None:
            shape_annotations(delta)
            self.is_annotated = self.is_annotated or bool(delta["annotations"])
        if choice.get("logprobs") is not None:
            choice["logprobs"] = strict_logprobs(choice["logprobs"])
        if self._role_said:
            delta.pop("role", None)
        else:
            delta["role"] = "assistant"
            self._role_said = True
        if self._on_reasoning_name is not None and (name := name_in(delta)) is not None:
            self._on_reasoning_name(name)
            self._on_reasoning_name = None
        self._reasoned = shape_texts(delta, with_details=not self._reasoned) or self._reasoned
        if self.snapshots.repeats is not False:
            self.snapshots.leave_new(delta, TEXTS)
        if isinstance(call := delta.get("function_call"), dict):
            del delta["function_call"]
            if not delta.get("tool_calls"):
                self._legacy = self._legacy or not self._tools
                delta["tool_calls"] = [{"index": 0, "function": call}]
        if "tool_calls" in delta:
            self._mend_calls(delta, answer_id)
        if (not self.said or self.finished) and any(delta[name] for name in delta.keys() - _NO_CONTENT):
            self.said = True
            self.finished, self.ending = False, None  # if there was an end, it was none
        if choice.get("finish_reason") is not None or "error" in choice:
            self._read_end(choice)
        else:
            choice["finish_reason"] = None

    def _read_end(self, choice: JSONObject) -> None:
        """Read the finish reason of a choice, or its error."""
        try:
            check_choice(choice)
            read_finish(choice, called=self.called)
        except ErrorPayload:
            choice["finish_reason"] = None
            raise
        self.finished = self.finished or choice["finish_reason"] is not None

    def _in_another_shape(self, choice: JSONObject) -> JSONObject:
        """Return the delta of a choice that has none, or that holds more than one; it gets its place there."""
        if isinstance(reported := choice.pop("usage", None), dict):
            self.reported = reported
        self.by_delta = self.by_delta or (isinstance(delta := choice.get("delta"), dict) and has_words(delta))
        message = choice.get("message")
        choice["delta"] = delta = message_in(choice, with_delta=self.by_delta) or {}
        if message and delta and not (self.by_delta or self.snapshots.in_messages):
            self.snapshots = Snapshots(in_messages=True)
        return delta

    def _mend_calls(self, delta: JSONObject, answer_id: str) -> None:
        entries = delta.pop("tool_calls")
        if isinstance(entries, dict):
            entries = [entries] if entries else []
        if isinstance(entries, list) and (mended := self.calls.read(entries, answer_id)):
            delta.pop("function_call", None)
            delta |= self._told(mended)
        self.said = self.said or bool(self.calls.count)  # also where it waits for its name

    def _told(self, entries: list[JSONObject]) -> JSONObject:
        """Return how a client is told of pieces of calls: in the deprecated form there is one call, without an id."""
        if not self._legacy:
            return {"tool_calls": entries}
        pieces = [entry["function"] for entry in entries if entry["index"] == 0]
        return {"function_call": pieces[0]} if pieces else {}

    @property
    def called(self) -> bool | None:
        """Whether it calls tools, as ``read_finish`` takes it: None is a call in the deprecated form."""
        return None if self._legacy else bool(self.calls.count)

    @property
    def is_cut(self) -> bool:
        """Return whether its end came in the middle."""
        return self.ending is not None and self.ending["choices"][0]["finish_reason"] in CUTS

    def close(self, index: int, delta: JSONObject, joiner: TextJoiner) -> JSONObject:
        """Return the delta that is owed before its end: the empty object for calls without arguments.

        What stands for the rest of a character is added to ``delta``, that of the chunk with its end.
        """
        opened_here = {entry["index"]: entry for entry in delta.get("tool_calls", ()) if "id" in entry}
        pieces: list[JSONObject] = []
        for call in self.calls.empty():
            if call.index in opened_here:
                opened_here[call.index]["function"]["arguments"] = "{}"
            else:
                pieces.append({"index": call.index, "function": {"arguments": "{}"}})
        for name in TEXTS if self.snapshots.held or joiner.begun else ():
            if rest := self.snapshots.rest(name) + joiner.rest((index, name)):
                delta[name] = (delta.get(name) or "") + rest
        return self._told(pieces) if pieces else {}
