"""What the tests of the Responses dialect share: requests, and streams as clients read them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.responses.request import Translated, own_items, translate
from one_api.dialects.responses.response import Identity
from one_api.dialects.responses.stream import ResponseWriter
from one_api.dialects.sealing import Sealer
from one_api.dialects.sse import EventReader

MINE = Identity("resp_" + "0123456789abcdef" * 2, 1_700_000_000)
NOW = 1_700_000_009
SEALER = Sealer(b"a secret")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

FUNCTION = {"type": "function", "name": "f", "description": "Does it.", "parameters": {"type": "object"}}
CUSTOM = {"type": "custom", "name": "apply_patch", "description": "Edits."}
NAMESPACE = {"type": "namespace", "name": "agents", "description": "", "tools": [{"type": "function", "name": "spawn"}]}


def asked(given: Any = "hi", **fields: Any) -> Translated:
    """A request in chat's words."""
    return translated({"model": "m", "input": given, **fields})


def translated(body: Any, find_item: Callable[[str], JSONObject | None] = lambda _: None, **options: Any) -> Translated:
    """A body, checked and in chat's words."""
    return translate(body, own_items(body, find_item), **options)


def call(call_id: str, name: str = "f", arguments: str = "{}", **more: Any) -> JSONObject:
    """A call in the history."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def output(call_id: str, text: Any = "done") -> JSONObject:
    """What came of a call."""
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def said(role: str, text: str) -> JSONObject:
    """A message in the history."""
    return {"role": role, "content": text}


def writer(
    request: Translated,
    *,
    seal: Callable[[JSONObject], str] | None = None,
    keep: bool = False,
) -> ResponseWriter:
    """The writer of a stream that answers the request."""
    return ResponseWriter(request, MINE, lambda: NOW, seal=seal, keep=keep)


def written(request: Translated, chunks: list[JSONObject], **options: Any) -> list[JSONObject]:
    """The events of a whole stream, checked against the grammar that all streams follow."""
    told = writer(request, **options)
    return events(told.begin() + told.write(chunks) + told.end())


def events(raw: bytes) -> list[JSONObject]:
    """The events in the bytes of a stream; those of responses are valid for the official client."""
    found: list[JSONObject] = []
    for event in EventReader().feed(raw):
        payload = json.decode_object(event.data)
        found.append(payload)
        if "error" in payload and "type" not in payload:
            assert event.name == ""
            continue
        assert event.name == payload["type"]
        EVENT.validate_python(_with_a_listed_code(payload))
    check_grammar([each for each in found if "type" in each])
    return found


def _with_a_listed_code(payload: JSONObject) -> JSONObject:
    """An event whose failure has a code that the official types list: Codex knows more, and the SDK checks none."""
    response = payload.get("response")
    if not response or response["status"] != "failed":
        return payload
    return payload | {"response": response | {"error": response["error"] | {"code": "server_error"}}}


def check_grammar(found: list[JSONObject]) -> None:
    """Numbers without a gap, one item open at a time, and an end that holds all of them."""
    numbers = [each["sequence_number"] for each in found]
    assert all(after == before + 1 for before, after in pairwise(numbers))
    done: list[JSONObject] = []
    opened: JSONObject | None = None
    for each in found:
        match each["type"].removeprefix("response."):
            case "output_item.added":
                assert opened is None
                assert each["output_index"] == len(done)
                opened = each["item"]
            case "output_item.done":
                assert opened is not None
                assert each["item"]["id"] == opened["id"]
                done.append(each["item"])
                opened = None
            case "completed" | "incomplete" | "failed":
                assert each["response"]["output"] == done
            case "created" | "in_progress":
                assert each["response"]["id"] == MINE.id
            case _:
                assert opened is not None
                assert (each["item_id"], each["output_index"]) == (opened["id"], len(done))


def kinds(found: list[JSONObject]) -> list[str]:
    """The types of events, without their common beginning."""
    return [each["type"].removeprefix("response.") for each in found if "type" in each]


def joined(found: list[JSONObject], kind: str) -> str:
    """The deltas of one type, one after the other."""
    return "".join(each["delta"] for each in found if each.get("type") == f"response.{kind}.delta")


def last(found: list[JSONObject]) -> JSONObject:
    """The response that the stream ended with."""
    return dict(next(each["response"] for each in reversed(found) if "response" in each))
