"""The list of models as Codex reads it; it refuses a list in which one entry lacks one of these fields."""

from one_api.dialects.json import JSONObject

_EFFORTS = ("low", "medium", "high")
#: How much of a tool's output it shows the model, in tokens.
_MAX_OUTPUT = 10_000


def codex_models(entries: list[JSONObject], instructions: str) -> list[JSONObject]:
    """Return Codex's entries for models of OpenAI's list that chat; ``instructions`` is its first text to each."""
    chats = [entry for entry in entries if "chat" in entry.get("kinds", ("chat",))]
    return [_entry(entry, priority, instructions) for priority, entry in enumerate(chats)]


def _entry(entry: JSONObject, priority: int, instructions: str) -> JSONObject:
    found: JSONObject = {
        "slug": entry["id"],
        "display_name": entry.get("display_name") or entry["id"],
        "supported_reasoning_levels": [{"effort": effort, "description": effort} for effort in _EFFORTS],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": _MAX_OUTPUT},
        "experimental_supported_tools": [],
        "base_instructions": instructions,
        "apply_patch_tool_type": "freeform",
        "input_modalities": ["text", "image"],
    }
    window = entry.get("context_window")
    return found if window is None else found | {"context_window": window}
