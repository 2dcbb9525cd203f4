"""What is kept of a response, so that its client can go on from it, and read it and its input items again."""

from collections.abc import Mapping
from dataclasses import dataclass

from one_api.dialects import json
from one_api.dialects.checks import not_among, refused
from one_api.dialects.json import JSONObject

#: A conversation of more responses than this cannot be gone on from.
MAX_LINKS = 1000
#: And none whose items take more bytes than this, as JSON.
MAX_CHAIN_BYTES = 32 * 1024 * 1024
#: Statuses that a conversation can go on from.
GOES_ON = ("completed", "incomplete")
#: Input items on one page.
_MAX_PAGE, _DEFAULT_PAGE = 100, 20


class ChainTooLong(Exception):
    """A conversation has become longer than any request may be."""


@dataclass(slots=True)
class KeptResponse:
    """One response as it was given, with the items that were sent for it."""

    owner: str
    parent: str | None
    status: str
    #: As JSON: the response object, and the list of items.
    response: bytes
    items: bytes
    #: In seconds of the clock of whatever keeps it.
    expires: float = 0.0

    @property
    def size(self) -> int:
        """Return what it takes, in bytes."""
        return len(self.response) + len(self.items)

    def read(self) -> JSONObject:
        """Return the response object."""
        return json.decode_object(self.response)

    def input(self) -> list[JSONObject]:
        """Return the items that were sent for it."""
        return list(json.decode(self.items))

    def all_items(self) -> list[JSONObject]:
        """Return the items that were sent for it, and then its own.

        Reasoning that is not sealed says whose it is, as ``model``: no other model is to be reminded of it.
        """
        response = self.read()
        model = {"model": response.get("model")}
        return [*self.input(), *(item | model if _is_open_reasoning(item) else item for item in response["output"])]


def _is_open_reasoning(item: JSONObject) -> bool:
    return item.get("type") == "reasoning" and not isinstance(item.get("encrypted_content"), str)


def kept(owner: str, response: JSONObject, items: list[JSONObject], expires: float = 0.0) -> KeptResponse:
    """Return what is to be kept of a response object."""
    parent, status = response["previous_response_id"], response["status"]
    return KeptResponse(owner, parent, status, json.encode(response), json.encode(items), expires)


def page_of(items: list[JSONObject], query: Mapping[str, str]) -> JSONObject:
    """Return the items that the query of an address asks for: ``limit``, ``order`` and ``after``.

    Raises:
        InvalidRequest: for a value that is none.
    """
    order, limit = query.get("order", "desc"), query.get("limit", str(_DEFAULT_PAGE))
    if order not in ("asc", "desc"):
        raise not_among("order", order, ("asc", "desc"))
    if not (limit.isascii() and limit.isdecimal()) or not 1 <= int(limit[:4]) <= _MAX_PAGE:
        raise refused(f"`limit` must be a number from 1 to {_MAX_PAGE}.", "limit", "invalid_value")
    found = [_listed(item) for item in (items if order == "asc" else reversed(items))]
    if after := query.get("after"):
        places = [i for i, item in enumerate(found) if item.get("id") == after]
        if not places:
            raise refused("`after` is the id of no item of this response.", "after", "invalid_value")
        found = found[places[0] + 1 :]
    page = found[: int(limit)]
    ids = [item.get("id") for item in page]
    return {
        "object": "list",
        "data": page,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": len(found) > len(page),
    }


def _listed(item: JSONObject) -> JSONObject:
    """Return an item as lists show it: the text of a message is a part."""
    if "role" not in item or not isinstance(item.get("content"), str):
        return item
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    part: JSONObject = {"type": kind, "text": item["content"]}
    return {"type": "message", **item, "content": [part]}
