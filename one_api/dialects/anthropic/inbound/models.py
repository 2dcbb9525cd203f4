"""The list of models as Anthropic's clients read it."""

from collections.abc import Mapping
from datetime import UTC, datetime

from one_api.dialects.anthropic.inbound.request import wrong
from one_api.dialects.json import JSONObject

#: The most models of one page.
_MAX_PAGE = 1000
#: Claude Code shows no model in whose id neither of these stands.
_SHOWN = ("claude", "anthropic")


def model_info(entry: JSONObject) -> JSONObject:
    """Return one entry of OpenAI's list in Anthropic's form; ``created_at`` is 1970 where it is not known."""
    info: JSONObject = {
        "type": "model",
        "id": entry["id"],
        "display_name": entry.get("display_name") or entry["id"],
        "created_at": datetime.fromtimestamp(entry.get("created") or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }
    limits = {"max_input_tokens": entry.get("context_window"), "max_tokens": entry.get("max_output_tokens")}
    return info | {key: value for key, value in limits.items() if value is not None}


def model_page(entries: list[JSONObject], alias_prefix: str, query: Mapping[str, str]) -> JSONObject:
    """Return a page of all models, with an alias for each that chats and that Claude Code would not show.

    ``query`` may hold ``limit``, ``after_id`` and ``before_id``; without a limit, the page has all that is left.

    Raises:
        InvalidRequest: for a value that is none.
    """
    found = [model_info(entry) for entry in entries]
    if alias_prefix:
        found += [model_info(entry) | {"id": alias_prefix + entry["id"]} for entry in entries if _needs_alias(entry)]
    page, has_more = _page_of(found, query)
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"data": page, "has_more": has_more, **ends}


def _needs_alias(entry: JSONObject) -> bool:
    chats = "chat" in entry.get("kinds", ("chat",))
    return chats and not any(word in entry["id"].lower() for word in _SHOWN)


def _page_of(found: list[JSONObject], query: Mapping[str, str]) -> tuple[list[JSONObject], bool]:
    """Return the models that a query asks for, and whether there are more in its direction."""
    limit, after, before = query.get("limit"), query.get("after_id"), query.get("before_id")
    if limit is not None and not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:5]) <= _MAX_PAGE):
        raise wrong("limit", f"Input should be a number from 1 to {_MAX_PAGE}.")
    if after and before:
        raise wrong("before_id", "Give either `after_id` or `before_id`.")
    if after:
        found = found[_place_of(after, found, "after_id") + 1 :]
    if before:
        found = found[: _place_of(before, found, "before_id")]
    most = len(found) if limit is None else int(limit)
    page = found[max(0, len(found) - most) :] if before else found[:most]
    return page, len(page) < len(found)


def _place_of(model: str, found: list[JSONObject], where: str) -> int:
    place = next((place for place, info in enumerate(found) if info["id"] == model), None)
    if place is None:
        raise wrong(where, "Input should be the id of a model of the list.")
    return place
