"""One page of a response's input items."""

from collections.abc import Mapping

from one_api.dialects.json import JSONObject
from one_api.dialects.responses.checks import not_among, refused

_MAX_PAGE = 100
_DEFAULT_PAGE = 20


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
