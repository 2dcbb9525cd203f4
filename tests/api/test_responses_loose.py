"""Servers that write Responses loosely, over the wire, asked through every door."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Gateway, Script, ScriptedUpstream, json_reply, reply, sse
from tests.support import responses_api as api

from .bed import Answer, Body, adapter, user, yaml
from .messages_bed import MessagesBed

DOORS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
#: At most so many tests there are.
MODELS = [f"m-{number}" for number in range(200)]


class Loose(MessagesBed):
    """A gateway over an upstream that speaks Responses alone."""

    names = itertools.count()

    def answered(self, path: str, script: Script, *, stream: bool) -> Answer:
        """The answer at a door."""
        model = MODELS[next(self.names)]
        self.o.on(model, script)
        said: Body = {"input": "Hi"} if path == "/v1/responses" else {"messages": user(), "max_tokens": 9}
        return self.post_to(path, {"model": model, "stream": stream, **said})


@pytest.fixture(scope="module")
def doors() -> Iterator[Loose]:
    with ScriptedUpstream() as upstream:
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
        gateway.config_yaml = yaml(
            adapters={"o": adapter(upstream, MODELS, apis=["responses"])},
            server={"host": gateway.host, "port": gateway.port},
        )
        with gateway:
            running = Loose(gateway, {"o": upstream})
            yield running
            running.check_settled()


def written(piece: bytes) -> bytes:
    """A piece of text, as bytes between quotes."""
    head = b'{"type":"response.output_text.delta","item_id":"msg_up0","output_index":0,"content_index":0,"delta":"'
    return b'event: response.output_text.delta\ndata: %b%b"}\n\n' % (head, piece)


def events(*payloads: Body) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in payloads
    )


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\\ud83d", b"\\ude00b"], "a😀b"),
        ([b"a\xf0\x9f", b"\x98\x80"], "a😀"),
        ([b"a\xff", b"b"], "a\ufffdb"),
        ([b"a\x01b"], "a\x01b"),
    ],
    ids=repr,
)
def test_characters_of_a_stream_are_repaired(doors: Loose, path: str, pieces: list[bytes], expected: str) -> None:
    before, after = [*api.opening(), *api.text_events(expected)[:2]], api.text_events(expected)[3:]
    body = events(*before) + b"".join(map(written, pieces)) + events(*after, api.completed(api.message(expected)))

    answer = doors.answered(path, sse(body, done=False), stream=True)

    found = [json.loads(each.partition("data: ")[2]) for each in answer.events if "data: {" in each]
    deltas = [each["delta"] for each in found if "delta" in each]
    texts = [each if isinstance(each, str) else each.get("text", "") for each in deltas]
    chat = [choice["delta"].get("content") or "" for each in found for choice in each.get("choices", ())]
    assert "".join(texts or chat) == expected
    assert not any("error" in each and each["error"] for each in found)


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize(("raw", "expected"), [(b"a\\ud83d", "a\ufffd"), (b"a\xff", "a\ufffd"), (b"a\tb", "a\tb")])
def test_characters_of_a_whole_answer_are_repaired(doors: Loose, path: str, raw: bytes, expected: str) -> None:
    body = json.dumps(api.response(api.message("@"))).encode().replace(b"@", raw)

    answer = doors.answered(path, reply(body, 200, {"Content-Type": "application/json"}), stream=False)

    assert answer.status == 200, answer.body
    assert json.dumps(expected) in json.dumps(answer.json)


def item(content: Any, **fields: Any) -> Body:
    return {"role": "assistant", "content": content, **fields}


SHAPES: dict[str, Body] = {
    "a text for content": api.response(item("Hello", type="message")),
    "parts of chat's": api.response(item([{"type": "text", "text": "Hello"}], type="message")),
    "texts for parts": api.response(item(["Hello"], type="message")),
    "no type": api.response(item([{"type": "output_text", "text": "Hello"}])),
    "a text for output": api.response() | {"output": "Hello"},
    "output_text": api.response() | {"output": [], "output_text": "Hello"},
}


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_words_in_other_shapes_are_read(doors: Loose, path: str, shape: str) -> None:
    answer = doors.answered(path, json_reply(SHAPES[shape]), stream=False)

    assert answer.status == 200, answer.body
    assert b'"Hello"' in answer.body
    if path == "/v1/responses":
        (part,) = answer.json["output"][0]["content"]
        assert (part["type"], part["text"], answer.json["output"][0]["type"]) == ("output_text", "Hello", "message")


@pytest.mark.parametrize("path", DOORS)
def test_arguments_are_a_text(doors: Loose, path: str, stream: bool) -> None:
    called = api.call("f", "") | {"arguments": {"a": 1}}
    ended = api.completed(called)
    done: Body = {"type": "response.output_item.done", "output_index": 0, "item": called}
    script = api.stream(*api.opening(), done, ended) if stream else json_reply(api.response(called))

    answer = doors.answered(path, script, stream=stream)

    assert answer.status == 200, answer.body
    wanted = '"input":{"a":1}' if path == "/v1/messages" and not stream else '{\\"a\\":1}'
    assert wanted in answer.body.decode()


@pytest.mark.parametrize("path", DOORS)
def test_pieces_of_an_item_that_no_event_begins_come_once(doors: Loose, path: str) -> None:
    pieces = [each for each in api.text_events("Hel", "lo") if each["type"] == "response.output_text.delta"]

    answer = doors.answered(path, api.stream(*api.opening(), *pieces, api.completed(api.message("Hello"))), stream=True)

    found = [json.loads(each.partition("data: ")[2]) for each in answer.events if "data: {" in each]
    deltas = [each["delta"] for each in found if "delta" in each]
    texts = [each if isinstance(each, str) else each.get("text", "") for each in deltas]
    chat = [choice["delta"].get("content") or "" for each in found for choice in each.get("choices", ())]
    assert "".join(texts or chat) == "Hello"
