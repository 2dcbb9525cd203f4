"""The items of a streamed answer, each with the events that open, fill and close it."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from one_api.dialects import json
from one_api.dialects.custom_input import CustomInput
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import ValueScanner
from one_api.dialects.responses.request import Shown
from one_api.dialects.responses.response import (
    Identity,
    annotations_of,
    call_item,
    call_prefix,
    carried,
    image_item,
    message_item,
    reasoning_item,
    text_part,
)
from one_api.dialects.responses.tools import Tool

#: The type of an event, and its fields but for type and number.
Event: TypeAlias = tuple[str, JSONObject]


class OutputItem(ABC):
    """One item: what comes of it waits until its turn, then ``events`` returns what is new."""

    def __init__(self) -> None:
        #: The item as it is in the end.
        self.item: JSONObject = {}
        self._added = False

    @property
    def is_whole(self) -> bool:
        """Return whether something else that has begun means that this one is over."""
        return True

    def events(self, identity: Identity, index: int) -> Iterator[Event]:
        """Give the events that are due now; the item is number ``index`` of the output."""
        if not self._is_known:
            return
        if not self._added:
            self._added = True
            self.item = self._begun(identity, index)
            yield "response.output_item.added", {"output_index": index, "item": self.item}
        at = {"item_id": self.item["id"], "output_index": index}
        yield from self._news(at)

    def end(self, identity: Identity, index: int, status: str) -> Iterator[Event]:
        """Give the events that are still due but for the last; ``item`` is whole then."""
        self._settle()
        yield from self.events(identity, index)
        at = {"item_id": self.item["id"], "output_index": index}
        yield from self._closing(at)
        self.item = self._whole(status)

    @property
    def _is_known(self) -> bool:
        """Return whether enough has come to open the item."""
        return True

    def _settle(self) -> None:
        """Take note that nothing more will come."""
        return

    @abstractmethod
    def _begun(self, identity: Identity, index: int) -> JSONObject: ...

    @abstractmethod
    def _news(self, at: JSONObject) -> Iterator[Event]: ...

    @abstractmethod
    def _closing(self, at: JSONObject) -> Iterator[Event]: ...

    @abstractmethod
    def _whole(self, status: str) -> JSONObject: ...


class ReasoningItem(OutputItem):
    """What the model thought, in the form in which it is shown; what is not shown may still be sealed."""

    def __init__(self, model: str, shown: Shown, seal: Callable[[JSONObject], str] | None) -> None:
        super().__init__()
        #: Claude's own form of it, for the carrier.
        self.blocks: list[JSONObject] = []
        self._model = model
        self._shown = shown
        self._is_summary = shown == "summary"
        self._seal = seal
        self._new: deque[str] = deque()
        self._told: list[str] = []

    def add_text(self, text: str) -> None:
        """Add a piece."""
        self._new.append(text)

    def _begun(self, identity: Identity, index: int) -> JSONObject:
        return {"id": identity.item("rs", index), "type": "reasoning", "summary": [], "status": "in_progress"}

    @property
    def _kind(self) -> str:
        """What the events of the text are called."""
        return "response.reasoning_summary_text" if self._is_summary else "response.reasoning_text"

    @property
    def _part_kind(self) -> str:
        """What the events of the part are called that holds the text."""
        return "response.reasoning_summary_part" if self._is_summary else "response.content_part"

    def _part(self, text: str) -> JSONObject:
        return {"type": "summary_text" if self._is_summary else "reasoning_text", "text": text}

    def _place(self, at: JSONObject) -> JSONObject:
        return at | {"summary_index" if self._is_summary else "content_index": 0}

    def _news(self, at: JSONObject) -> Iterator[Event]:
        if self._shown == "nothing":
            self._told += self._new
            self._new.clear()
        if self._new and not self._told:
            yield f"{self._part_kind}.added", self._place(at) | {"part": self._part("")}
        while self._new:
            self._told.append(self._new.popleft())
            yield f"{self._kind}.delta", self._place(at) | {"delta": self._told[-1]}

    def _closing(self, at: JSONObject) -> Iterator[Event]:
        if not self._told or self._shown == "nothing":
            return
        text = "".join(self._told)
        yield f"{self._kind}.done", self._place(at) | {"text": text}
        yield f"{self._part_kind}.done", self._place(at) | {"part": self._part(text)}

    def _whole(self, status: str) -> JSONObject:
        text = "".join(self._told)
        sealed = self._seal(carried(self._model, text, self.blocks)) if self._seal is not None else None
        return reasoning_item(self.item["id"], text, self._shown, sealed) | {"status": status}


class ImageItem(OutputItem):
    """An image that the model made, which comes as a whole."""

    def __init__(self, image: str) -> None:
        """``image`` is in base64."""
        super().__init__()
        self._image = image

    def _begun(self, identity: Identity, index: int) -> JSONObject:
        return image_item(identity.item("ig", index), "in_progress", None)

    def _news(self, at: JSONObject) -> Iterator[Event]:
        yield from ()

    def _closing(self, at: JSONObject) -> Iterator[Event]:
        yield "response.image_generation_call.completed", at

    def _whole(self, status: str) -> JSONObject:
        return image_item(self.item["id"], status, self._image)


class MessageItem(OutputItem):
    """What the model said: text, a refusal, or one after the other."""

    def __init__(self) -> None:
        super().__init__()
        #: Pieces that are not sent yet: the kind of part, and text, logprobs or annotations.
        self._new: deque[tuple[str, Any, list[Any]]] = deque()
        self._parts: list[JSONObject] = []
        self._open: str | None = None
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._annotations: list[JSONObject] = []
        #: How the event of a further piece begins while a part of text is open; else nothing.
        self.frame = b""

    def write_text(self, text: str) -> bytes:
        """Return the event of a further piece but for its number: what ``events`` gives, in a fifth of the time."""
        self._texts.append(text)
        return b'%b%b,"logprobs":[],' % (self.frame, json.encode([text])[1:-1])

    def add_text(self, text: str, logprobs: list[Any]) -> None:
        """Add a piece of text; ``logprobs`` are chat's."""
        self._new.append(("output_text", text, logprobs))

    def add_refusal(self, text: str) -> None:
        """Add a piece of a refusal."""
        self._new.append(("refusal", text, []))

    def add_annotations(self, annotations: Any) -> None:
        """Add chat's annotations of the text."""
        for each in annotations_of(annotations):
            self._new.append(("annotation", each, []))

    def _begun(self, identity: Identity, index: int) -> JSONObject:
        return message_item(identity.item("msg", index), [], "in_progress")

    def _news(self, at: JSONObject) -> Iterator[Event]:
        while self._new:
            kind, value, logprobs = self._new.popleft()
            yield from self._enter("output_text" if kind == "annotation" else kind, at)
            place = at | {"content_index": len(self._parts)}
            if kind == "annotation":
                fields = {"annotation_index": len(self._annotations), "annotation": value}
                self._annotations.append(value)
                yield "response.output_text.annotation.added", place | fields
                continue
            self._texts.append(value)
            self._logprobs += logprobs
            more = {"logprobs": logprobs} if kind == "output_text" else {}
            yield f"response.{kind}.delta", place | {"delta": value} | more

    def _enter(self, kind: str, at: JSONObject) -> Iterator[Event]:
        """Open a part of this kind, unless it is open."""
        if self._open == kind:
            return
        yield from self._leave(at)
        self._open = kind
        if kind == "output_text":
            self.frame = _frame(at | {"content_index": len(self._parts)})
        part = text_part("", [], []) if kind == "output_text" else {"type": "refusal", "refusal": ""}
        yield "response.content_part.added", at | {"content_index": len(self._parts), "part": part}

    def _leave(self, at: JSONObject) -> Iterator[Event]:
        """Close the part that is open."""
        self.frame = b""
        if self._open is None:
            return
        text, place = "".join(self._texts), at | {"content_index": len(self._parts)}
        part: JSONObject = {"type": "refusal", "refusal": text}
        if self._open == "output_text":
            part = text_part(text, self._annotations, self._logprobs)
            yield "response.output_text.done", place | {"text": text, "logprobs": self._logprobs}
        else:
            yield "response.refusal.done", place | {"refusal": text}
        yield "response.content_part.done", place | {"part": part}
        self._parts.append(part)
        self._open, self._texts, self._logprobs, self._annotations = None, [], [], []

    def _closing(self, at: JSONObject) -> Iterator[Event]:
        if self._open is None:
            yield from self._enter("output_text", at)
        yield from self._leave(at)

    def _whole(self, status: str) -> JSONObject:
        return message_item(self.item["id"], self._parts, status)


def _frame(at: JSONObject) -> bytes:
    """Return how the event of a piece of text begins, up to the text."""
    kind = "response.output_text.delta"
    return b'event: %b\ndata: %b,"delta":' % (kind.encode(), json.encode({"type": kind, **at})[:-1])


class CallItem(OutputItem):
    """The call of a tool, in the form in which the client declared it."""

    def __init__(self, call_id: str, find: Callable[[str], Tool]) -> None:
        super().__init__()
        self._call_id = call_id
        self._find = find
        self._names: list[str] = []
        self._new: deque[str] = deque()
        self._told: list[str] = []
        self._scanner = ValueScanner()
        self._input = CustomInput()
        self._settled = False

    def add(self, name: str, arguments: str) -> None:
        """Add a piece: of the name before the first of the arguments."""
        if name:
            self._names.append(name)
        if arguments:
            self._new.append(arguments)
            self._scanner.add(arguments)

    @property
    def is_whole(self) -> bool:
        """See ``OutputItem``: a call is over when its arguments are."""
        return self._scanner.is_whole

    @property
    def _is_known(self) -> bool:
        # A name may come in pieces; it is over when arguments come.
        return self._added or self._settled or bool(self._new)

    @property
    def _tool(self) -> Tool:
        return self._find("".join(self._names))

    def _begun(self, identity: Identity, index: int) -> JSONObject:
        return call_item(identity.item(call_prefix(self._tool), index), self._call_id, self._tool, "", "in_progress")

    def _settle(self) -> None:
        self._settled = True
        if not self._told and not self._new and self._tool.kind != "custom":
            self._new.append("{}")

    def _news(self, at: JSONObject) -> Iterator[Event]:
        kind = self._tool.kind
        while self._new:
            piece = self._new.popleft()
            if kind == "custom":
                piece = self._input.feed(piece)
            if piece:
                yield from self._delta(piece, at)

    def _delta(self, piece: str, at: JSONObject) -> Iterator[Event]:
        self._told.append(piece)
        kind = self._tool.kind
        if kind != "tool_search":
            what = "custom_tool_call_input" if kind == "custom" else "function_call_arguments"
            yield f"response.{what}.delta", at | {"delta": piece}

    def _closing(self, at: JSONObject) -> Iterator[Event]:
        tool = self._tool
        if tool.kind == "custom":
            if rest := self._input.end():
                yield from self._delta(rest, at)
            yield "response.custom_tool_call_input.done", at | {"input": "".join(self._told)}
        elif tool.kind == "function":
            done = {"name": tool.name, "arguments": "".join(self._told)}
            yield "response.function_call_arguments.done", at | done

    def _whole(self, status: str) -> JSONObject:
        return call_item(self.item["id"], self._call_id, self._tool, "".join(self._told), status)
