"""The events of a response as clients expect them: each item and each part of it begins, is filled and ends.

OpenAI's own clients raise exceptions for a piece of what has not begun, or give an answer without what has not ended.
What an upstream leaves out is made of what it sends; all that it does send stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from one_api.dialects.json import JSONObject
from one_api.dialects.responses.required import ADDED, ITEM_DONE, RequiredFields, filled, whole_part
from one_api.dialects.responses.split import events_of, part_events

#: The type of an event, and its fields but for type and number.
Event: TypeAlias = tuple[str, JSONObject]
#: By what the events of a text are called: the type of its item, where it stands in it, and the type of its part; of a
#: call the text is no part.
_TEXTS = {
    "response.output_text": ("message", "content", "output_text"),
    "response.refusal": ("message", "content", "refusal"),
    "response.reasoning_text": ("reasoning", "content", "reasoning_text"),
    "response.reasoning_summary_text": ("reasoning", "summary", "summary_text"),
    "response.function_call_arguments": ("function_call", "arguments", ""),
    "response.custom_tool_call_input": ("custom_tool_call", "input", ""),
}
#: By what the events of a part are called, where it stands in its item.
_PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
_NUMBERS = {"content": "content_index", "summary": "summary_index"}


@dataclass(slots=True)
class _Text:
    """A text of an item, and how far its events have come."""

    #: Of its part; of a call nothing.
    type: str
    pieces: list[str] = field(default_factory=list)
    #: Of a call that has not begun, so that its name is not known: its pieces have not been sent.
    is_held: bool = False
    is_told: bool = False
    part_is_over: bool = False

    @property
    def name(self) -> str:
        """What holds it in its part."""
        return "refusal" if self.type == "refusal" else "text"


class EventGrammar:
    """Takes the events of one stream, in order."""

    def __init__(self, required: RequiredFields) -> None:
        """``required`` fills in the fields of each event."""
        self._required = required
        #: The items that have begun, by number and as they began, and those that we have begun.
        self._begun: dict[int, JSONObject] = {}
        self._own: set[int] = set()
        self._done: set[int] = set()
        #: By the number of an item: its texts by where they stand.
        self._texts: dict[int, dict[tuple[str, int], _Text]] = {}

    def of_event(self, kind: str, fields: JSONObject) -> list[Event]:
        """Return the events that one of the upstream's amounts to; not for one that holds a response."""
        fields = self._required.of_event(kind, fields)
        start, _, what = kind.rpartition(".")
        if start in _TEXTS and what in ("delta", "done"):
            return list(self._of_text(start, what, fields))
        if kind == ADDED:
            return self._of_added(fields)
        if kind == ITEM_DONE:
            return self._of_done(fields) if isinstance(fields.get("item"), dict) else self._end(fields)
        return list(self._of_part(kind, start, fields)) if start in _PARTS else [(kind, fields)]

    def at_end(self, output: list[Any]) -> tuple[list[Event], list[Any]]:
        """Return the events of items that have not ended, and the whole output; ``output`` is the last event's own."""
        events: list[Event] = []
        whole: list[Any] = []
        numbers: set[int] = set()
        for place, item in enumerate(output):
            number = self._required.number_of(item, place)
            if isinstance(item, dict) and number not in self._done:
                *before, (kind, fields) = self._of_done({"output_index": number, "item": item})
                events += [*before, (kind, fields)]
                item = fields["item"]
            elif isinstance(item, dict):
                item = self._with_texts(number, item)
            numbers.add(number)
            whole.append(item)
        for number in sorted(self._begun.keys() - self._done - numbers):
            events += self._end({"output_index": number})
        return events, whole

    def _end(self, fields: JSONObject) -> list[Event]:
        """Return the events of the end of an item that is not named there."""
        number = fields.get("output_index", -1)
        if number not in self._begun or number in self._done:
            return []
        begun = self._begun[number]
        ended = {"status": "completed"} if "status" in begun else {}
        return self._of_done({"output_index": number, "item": begun | ended})

    def _of_added(self, fields: JSONObject) -> list[Event]:
        number, item = fields.get("output_index", -1), fields.get("item")
        # It has begun already, or it will with the first piece of it.
        if number in self._own or not isinstance(item, dict):
            return []
        self._begun[number] = item
        return [(ADDED, fields), *self._held(number, item)]

    def _held(self, number: int, item: JSONObject) -> Iterator[Event]:
        """Give what has been held of a call that begins late."""
        start = next((name for name, (kind, _, _) in _TEXTS.items() if kind == item.get("type")), "")
        for text in self._texts.get(number, {}).values():
            if text.is_held:
                text.is_held = False
                at = {"item_id": item["id"], "output_index": number}
                yield f"{start}.delta", at | {"delta": "".join(text.pieces)}

    def _of_part(self, kind: str, start: str, fields: JSONObject) -> Iterator[Event]:
        holder, part = _PARTS[start], fields.get("part")
        number, key = fields["output_index"], (holder, fields[_NUMBERS[holder]])
        texts = self._texts.setdefault(number, {})
        text = texts.get(key)
        if isinstance(part, dict):
            is_thought = holder == "summary" or part.get("type") == "reasoning_text"
            yield from self._begin(number, fields["item_id"], "reasoning" if is_thought else "message")
        if kind.endswith(".added"):
            if text is None and isinstance(part, dict):
                texts[key] = _Text(str(part.get("type")))
                yield kind, fields
        elif text is not None or isinstance(part, dict):
            text = text or _Text("")
            part = {"type": text.type} | (part or {})
            missing = {} if part.get(text.name) else {text.name: "".join(text.pieces)}
            fields = fields | {"part": whole_part(part | missing)}
            at = {name: fields[name] for name in ("item_id", "output_index", _NUMBERS[holder])}
            *before, _ = part_events(fields["part"], at)
            for each in before:
                yield from self._due(number, *each)
            texts[key].part_is_over = True
            yield kind, fields

    def _begin(self, number: int, item_id: str, item_type: str) -> Iterator[Event]:
        """Give the beginning of an item that has none, because something is of it."""
        if number not in self._begun:
            self._own.add(number)
            item = {"id": item_id, "type": item_type}
            begun = self._required.of_event(ADDED, {"output_index": number, "item": item})
            self._begun[number] = begun["item"]
            yield ADDED, begun

    def _of_text(self, start: str, what: str, fields: JSONObject) -> Iterator[Event]:
        """Give the events of a piece of a text, or of its end, with what is missing before it."""
        item_type, holder, part_type = _TEXTS[start]
        number, place = fields["output_index"], fields.get(_NUMBERS.get(holder, ""), 0)
        if part_type:
            yield from self._begin(number, fields["item_id"], item_type)
        at = {name: fields[name] for name in ("item_id", "output_index", *_NUMBERS.values()) if name in fields}
        text = self._texts.setdefault(number, {}).get((holder, place))
        if text is None:
            text = self._texts[number][holder, place] = _Text(part_type)
            if part_type:
                part = {"type": part_type, text.name: ""}
                name = next(name for name, each in _PARTS.items() if each == holder)
                yield f"{name}.added", at | {"part": whole_part(part)}
        name = text.name if part_type else holder
        if number not in self._begun:
            text.is_held = True
            text.pieces.append(fields.get("delta") or _rest(text, fields.get(name) or ""))
            return
        if what == "delta":
            text.pieces.append(fields["delta"])
        else:
            if rest := _rest(text, fields.get(name) or ""):
                text.pieces.append(rest)
                yield f"{start}.delta", at | {"delta": rest} | ({"logprobs": []} if part_type == "output_text" else {})
            text.is_told = True
            missing = {name: "".join(text.pieces)}
            if item_type == "function_call":
                missing["name"] = self._begun[number].get("name") or ""
            fields = filled(fields, missing)
        yield f"{start}.{what}", fields

    def _of_done(self, fields: JSONObject) -> list[Event]:
        """Return the events of a whole item that are still missing, and the one of its end."""
        number = fields["output_index"]
        item = self._with_texts(number, fields["item"])
        self._required.note_item(number, item)
        self._done.add(number)
        due = [event for each in events_of(item, number) for event in self._due(number, *each)]
        self._begun[number] = item
        return [*due, (ITEM_DONE, fields | {"item": item})]

    def _due(self, number: int, kind: str, fields: JSONObject) -> Iterator[Event]:
        """Give an event of a whole item, or what of it has not been sent."""
        start, _, what = kind.rpartition(".")
        texts = self._texts.setdefault(number, {})
        if kind == ADDED:
            if number not in self._begun:
                self._begun[number] = fields["item"]
                yield kind, fields
        elif start in _PARTS:
            holder = _PARTS[start]
            key = (holder, fields[_NUMBERS[holder]])
            is_due = key not in texts if what == "added" else not texts[key].part_is_over
            texts.setdefault(key, _Text(str(fields["part"].get("type"))))
            if is_due:
                yield kind, fields
        elif start in _TEXTS:
            holder = _TEXTS[start][1]
            text = texts.setdefault((holder, fields.get(_NUMBERS.get(holder, ""), 0)), _Text(""))
            if what == "done":
                if not text.is_told:
                    text.is_told = True
                    yield kind, fields
            elif rest := (fields["delta"] if text.is_held else _rest(text, fields["delta"])):
                text.pieces.append(rest)
                yield kind, fields | {"delta": rest}

    def _with_texts(self, number: int, item: JSONObject) -> JSONObject:
        """Return an item with the texts that have come of it, where it has none itself."""
        is_same = self._begun.get(number, item).get("type") == item.get("type")
        texts = self._texts.get(number, {}) if is_same else {}
        found = dict(item)
        for (holder, place), text in sorted(texts.items()):
            said = "".join(text.pieces)
            if not text.type:
                found[holder] = found.get(holder) or said
                continue
            parts = list(found.get(holder) or ())
            if place == len(parts):
                parts.append(whole_part({"type": text.type, text.name: said}))
            elif place < len(parts) and isinstance(parts[place], dict) and not parts[place].get(text.name):
                parts[place] = parts[place] | {text.name: said}
            found[holder] = parts
        return found


def _rest(text: _Text, whole: str) -> str:
    """Return what of a text has not come in pieces; nothing where they are of another text."""
    said = "".join(text.pieces)
    return whole[len(said) :] if whole.startswith(said) else ""
