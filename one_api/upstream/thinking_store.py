"""The thinking that clients drop: kept for the next request of a tool loop, which must hold it as it was.

Kept in memory only, and given back only to the same caller, for the same model, and when the text and the calls that
the client sent back equal what it was given. With several processes each has its own: a miss costs the thinking,
never the answer.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from one_api.bounded import BoundedMap
from one_api.dialects import json
from one_api.dialects.anthropic.stream import ClaudeStream
from one_api.dialects.json import JSONObject

#: Blocks that are translated back from what the client sends.
_BROUGHT_BACK = frozenset({"text", "tool_use"})


class ReplayCache:
    """Keeps the original blocks of assistant turns; the oldest go when there are too many, or too many bytes."""

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        ttl_s: float = 3 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        #: Long conversations are translated in threads.
        self._lock = threading.Lock()
        #: The blocks of turns as JSON.
        self._kept: BoundedMap[bytes, bytes] = BoundedMap(max_entries=max_entries, max_bytes=max_bytes, clock=clock)

    def keep(self, key: bytes, blocks: list[JSONObject]) -> None:
        """Keep the blocks of a turn."""
        data = json.encode(blocks)
        with self._lock:
            self._kept.put(key, data, len(data), self._ttl_s)

    def keep_turn(self, scope: str, model: str, answer: ClaudeStream) -> None:
        """Keep the blocks of an answer, if they hold what the client's own message cannot bring back."""
        if not answer.blocks or all(block["type"] in _BROUGHT_BACK for block in answer.blocks):
            return
        self.keep(turn_key(scope, model, answer.text, answer.calls), answer.blocks)

    def keep_output(self, scope: str, model: str, items: list[JSONObject]) -> None:
        """Keep the items of a response, if there is reasoning among them that can be sent back."""
        if not any(item.get("type") == "reasoning" and item.get("encrypted_content") for item in items):
            return
        parts = [part for item in items if item.get("type") == "message" for part in item.get("content") or ()]
        text = "".join(str(part.get("text") or "") for part in parts)
        calls = [
            (str(item.get("call_id")), str(item.get("name")), item.get("arguments") or item.get("input") or "")
            for item in items
            if item.get("type") in ("function_call", "custom_tool_call")
        ]
        self.keep(turn_key(scope, model, text, calls), items)

    def find(self, key: bytes) -> list[JSONObject] | None:
        """Return the blocks of a turn; None when they are not kept, or no longer."""
        with self._lock:
            data = self._kept.get(key)
            if data is None:
                return None
            self._kept.renew(key, self._ttl_s)
        return list(json.decode(data, max_depth=512))


def turn_key(scope: str, model: str, text: str, calls: Iterable[tuple[str, str, str]]) -> bytes:
    """Return the key of an assistant turn: what was said, and each call's id, name and arguments."""
    turn = [scope, model, text, [[call_id, name, _canonical(arguments)] for call_id, name, arguments in calls]]
    return hashlib.sha256(json.encode(turn)).digest()


def key_of_message(scope: str, model: str, message: JSONObject) -> bytes:
    """Return the key of an assistant message as a client sends it back."""
    calls = []
    for call in message.get("tool_calls") or ():
        body = call.get("function") or call.get("custom") or {}
        calls.append((str(call.get("id")), str(body.get("name")), body.get("arguments") or body.get("input") or ""))
    if isinstance(legacy := message.get("function_call"), dict):
        calls.append(("", str(legacy.get("name")), legacy.get("arguments") or ""))
    return turn_key(scope, model, _text_of(message.get("content")), calls)


def _text_of(content: Any) -> str:
    """Return a message's text, whole or in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _canonical(arguments: Any) -> Any:
    """Return arguments so that white space in them makes no difference."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.decode(arguments.encode())
    except (json.InvalidJSON, UnicodeEncodeError):
        return arguments
