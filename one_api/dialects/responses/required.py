"""What OpenAI's clients rely on in a response, where an upstream that speaks this dialect leaves it out.

Only what is missing or null is added; all else is passed on as it came, and so is what is not known here.
"""

from collections.abc import Mapping
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.responses.request import Translated
from one_api.dialects.responses.response import Identity, usage_of

ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"
#: By how the types of events that belong to an item begin: what numbers their place in it, and how its id begins.
_PLACES: Mapping[str, tuple[str | None, str]] = {
    "response.content_part.": ("content_index", "msg"),
    "response.output_text.": ("content_index", "msg"),
    "response.refusal.": ("content_index", "msg"),
    "response.reasoning_text.": ("content_index", "rs"),
    "response.reasoning_summary_": ("summary_index", "rs"),
    "response.function_call_arguments.": (None, "fc"),
    "response.custom_tool_call_input.": (None, "ctc"),
}
#: By the type of an item: how its id begins, and what it holds at least.
_ITEMS: Mapping[str, tuple[str, JSONObject]] = {
    "message": ("msg", {"role": "assistant", "content": []}),
    "function_call": ("fc", {"name": "", "arguments": ""}),
    "custom_tool_call": ("ctc", {"name": "", "input": ""}),
    "reasoning": ("rs", {"summary": []}),
}
_PARTS: Mapping[str, JSONObject] = {
    "output_text": {"text": "", "annotations": [], "logprobs": []},
    "refusal": {"refusal": ""},
}
#: Of the fields of a response those that its request has, too.
_REPEATED = ("parallel_tool_calls", "tool_choice", "tools")
_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
_DETAILS: Mapping[str, JSONObject] = {
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


class RequiredFields:
    """Fills in the events of one response, in order, or one that is whole."""

    def __init__(self, identity: Identity, echo: JSONObject) -> None:
        """``echo`` is what the response repeats of its request."""
        self._identity = identity
        self._defaults = {
            "object": "response",
            "created_at": identity.created_at,
            "output": [],
            **{name: echo[name] for name in _REPEATED},
        }
        #: By the number of an item: what it is known by, wherever it comes.
        self._names: dict[int, JSONObject] = {}
        #: By each id that the upstream gave an item, its number.
        self._numbers: dict[str, int] = {}
        #: By the number of an item, what its own last event held.
        self._items: dict[int, JSONObject] = {}
        #: The item that began last, and the part of it.
        self._index, self._part = -1, -1

    def of_event(self, kind: str, fields: JSONObject) -> JSONObject:
        """Return the fields of an event of the type ``kind``; not those of its response."""
        if kind in (ADDED, ITEM_DONE):
            return self._of_item_event(fields, begins=kind == ADDED)
        start = next((start for start in _PLACES if kind.startswith(start)), None)
        if start is None:
            return fields
        index = max(self._index_in(fields, fields.get("item_id")), 0)
        place, prefix = _PLACES[start]
        fields = fields | {"item_id": self._name(index, fields.get("item_id"), prefix)["id"]}
        missing: JSONObject = {"output_index": index}
        if place:
            if kind.endswith("part.added"):
                self._part = _number(fields.get(place), self._part + 1)
            missing[place] = max(self._part, 0)
        if kind.endswith(".delta"):
            missing["delta"] = ""
        if start == "response.output_text." and not kind.endswith(".added"):
            missing["logprobs"] = []
        part = fields.get("part")
        return filled(fields | {"part": whole_part(part)} if part is not None else fields, missing)

    def number_of(self, item: Any, place: int) -> int:
        """Return the number of an item that stands at ``place`` of a response's output."""
        return self._numbers.get(str(item.get("id")), place) if isinstance(item, dict) else place

    def note_item(self, number: int, item: JSONObject) -> None:
        """Note an item as its own last event has it."""
        self._items[number] = item

    def of_response(self, response: JSONObject, status: str) -> JSONObject:
        """Return a response; ``status`` is what its event says of it."""
        found = filled(response, self._defaults | {"status": status})
        ended = "in_progress" if found["status"] == "in_progress" else "completed"
        items = found["output"] if isinstance(found["output"], list) else []
        output = [self._whole_item(item, i, ended) for i, item in enumerate(items)]
        usage = found.get("usage")
        return found | {"output": output} | ({"usage": _usage(usage)} if isinstance(usage, dict) else {})

    def _of_item_event(self, fields: JSONObject, *, begins: bool) -> JSONObject:
        item = fields.get("item")
        if not isinstance(item, dict):
            return fields
        if begins:
            self._index, self._part = _number(fields.get("output_index"), self._index + 1), -1
        index = self._index_in(fields, item.get("id"))
        found = fields | {"item": self._item(item, index, "in_progress" if begins else "completed")}
        return filled(found, {"output_index": index})

    def _index_in(self, fields: JSONObject, item_id: Any) -> int:
        """Return the number of the item that an event is of: its own word, else by the id, else the latest."""
        return _number(fields.get("output_index"), self._numbers.get(str(item_id), self._index))

    def _whole_item(self, item: Any, place: int, status: str) -> Any:
        """Return an item of a response; what is not in it may have come before."""
        if not isinstance(item, dict):
            return item
        index = self.number_of(item, place)
        is_other = item.get("id") is not None and str(item["id"]) not in self._numbers and index in self._names
        return item if is_other else self._item(filled(item, self._items.get(index, {})), index, status)

    def _name(self, index: int, given: Any, prefix: str) -> JSONObject:
        """Return what an item is known by; ``given`` is the id that the upstream gives it here."""
        item_id = given or self._identity.item(prefix, index)
        self._numbers.setdefault(str(item_id), index)
        return self._names.setdefault(index, {"id": item_id})

    def _item(self, item: Any, index: int, status: str) -> Any:
        """Return an item; what it is known by is the same wherever it comes."""
        if not isinstance(item, dict) or item.get("type") not in _ITEMS:
            return item
        prefix, missing = _ITEMS[item["type"]]
        names = self._name(index, item.get("id"), prefix)
        if item["type"].endswith("_call"):
            names.setdefault("call_id", item.get("call_id") or item.get("id") or names["id"])
        found = filled(item | names, missing | ({} if item["type"] == "reasoning" else {"status": status}))
        content = found.get("content")
        return found | {"content": [whole_part(part) for part in content]} if isinstance(content, list) else found


def own_response(
    request: Translated,
    identity: Identity,
    response: JSONObject,
    required: RequiredFields,
    *,
    status: str = "completed",
    stored: bool,
) -> JSONObject:
    """Return a response of an upstream that speaks this dialect under our id and the names that the client used."""
    echo = {name: request.echo[name] for name in ("model", "previous_response_id")}
    usage = response.get("usage")
    counted = {"usage": usage_of(usage)} if isinstance(usage, dict) and "prompt_tokens" in usage else {}
    return required.of_response(response | counted, status) | {"id": identity.id, **echo, "store": stored}


def whole_part(part: Any) -> Any:
    """Return a part of a message."""
    return filled(part, _PARTS.get(str(part.get("type")), {})) if isinstance(part, dict) else part


def _usage(usage: JSONObject) -> JSONObject:
    found = filled(usage, dict.fromkeys(_COUNTS[:2], 0))
    found = filled(found, {"total_tokens": sum(_number(found[name], 0) for name in _COUNTS[:2])})
    given = {name: found[name] if isinstance(found.get(name), dict) else {} for name in _DETAILS}
    return found | {name: filled(given[name], missing) for name, missing in _DETAILS.items()}


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def filled(holder: JSONObject, missing: JSONObject) -> JSONObject:
    """Return an object with what is missing in it, or null."""
    added = {name: value for name, value in missing.items() if holder.get(name) is None}
    return holder | added if added else holder
