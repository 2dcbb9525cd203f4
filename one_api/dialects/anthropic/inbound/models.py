"""The list of models as Anthropic's clients read it."""

from datetime import UTC, datetime

from one_api.dialects.json import JSONObject

#: Claude Code shows no model in whose id neither of these stands.
_SHOWN = ("claude", "anthropic")


def model_info(entry: JSONObject) -> JSONObject:
    """Return one entry of OpenAI's list in Anthropic's form; ``created_at`` is 1970 where nobody knows."""
    info: JSONObject = {
        "type": "model",
        "id": entry["id"],
        "display_name": entry.get("display_name") or entry["id"],
        "created_at": datetime.fromtimestamp(entry.get("created") or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }
    limits = {"max_input_tokens": entry.get("context_window"), "max_tokens": entry.get("max_output_tokens")}
    return info | {key: value for key, value in limits.items() if value is not None}


def model_page(entries: list[JSONObject], alias_prefix: str) -> JSONObject:
    """Return the one page of all models, with an alias for each that Claude Code would not show."""
    data = [model_info(entry) for entry in entries]
    if alias_prefix:
        data += [
            {**info, "id": f"{alias_prefix}{info['id']}"}
            for info in data
            if not any(word in info["id"].lower() for word in _SHOWN)
        ]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": False, **ends}
