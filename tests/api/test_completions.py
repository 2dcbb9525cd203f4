"""Legacy completions through the real gateway: passed through, and complete or an error."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import Close, Hang, Reset, Script, WaitFor, error, json_reply, reply, sse, tokens

from .bed import Answer, Body
from .doors import DoorBed, running_doors


def text(said: str, finish: str | None = None, index: int = 0, **fields: Any) -> Body:
    choice = {"text": said, "index": index, "logprobs": None, "finish_reason": finish}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "upstream-name"}
    return {**head, "choices": [choice], **fields}


def whole(said: str) -> Script:
    return json_reply(text(said, "stop", usage=tokens(3, 2)))


def complete(doors: DoorBed, model: str, **fields: Any) -> Answer:
    return doors.call("/v1/completions", {"model": model, "prompt": "Once", **fields})


def said(answer: Answer) -> str:
    """The text of a complete answer, whichever way it came."""
    assert answer.status == 200, answer.body
    if answer.body.startswith(b"{"):
        return str(answer.json["choices"][0]["text"])
    assert answer.stream_error is None
    return "".join(choice["text"] for chunk in answer.chunks for choice in chunk["choices"])


def scripts(words: str, stream: bool) -> Script:
    return sse(text(words[:2]), text(words[2:], "stop")) if stream else whole(words)


@pytest.fixture(scope="module")
def client(doors: DoorBed) -> Iterator[openai.OpenAI]:
    with doors.sdk() as opened:
        yield opened


def test_the_body_passes_through_untouched(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, whole("hi"))
    body = {
        "model": model, "prompt": [[1, 2], [3]], "suffix": "end", "echo": True, "logprobs": 1, "best_of": 2, "n": 2,
        "max_tokens": 0, "seed": 7, "foo": {"bar": 1.0},
    }  # fmt: skip

    answer = doors.call("/v1/completions", body)

    assert answer.status == 200
    assert doors.last(model).json == body
    assert doors.last(model).path == "/v1/completions"


def test_the_official_client_reads_a_whole_answer(doors: DoorBed, client: openai.OpenAI) -> None:
    model = doors.model()
    doors.a.on(model, whole("upon a time"))

    answer = client.completions.create(model=model, prompt="Once")

    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "upon a time",
        "stop",
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


@pytest.mark.parametrize("with_usage", [True, False])
def test_the_official_client_reads_a_stream(doors: DoorBed, client: openai.OpenAI, with_usage: bool) -> None:
    model = doors.model()
    doors.a.on(model, sse(text("upon "), text("a time", "stop"), text("", usage=tokens(3, 2)) | {"choices": []}))
    more: Any = {"stream_options": {"include_usage": True}} if with_usage else {}

    with client.completions.create(model=model, prompt="Once", stream=True, **more) as stream:
        chunks = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "upon a time"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([5] if with_usage else [])
    assert doors.last(model).json["stream_options"] == {"include_usage": True}, "it is asked for the log's sake"


@pytest.mark.parametrize("place", ["own chunk", "last text", "finish", "every chunk", "after the end mark is due"])
def test_usage_comes_last_in_a_chunk_of_its_own(doors: DoorBed, place: str) -> None:
    model, used = doors.model(), tokens(3, 2)
    says = {"usage": used}
    scripts: dict[str, Script] = {
        "own chunk": sse(text("a"), text("", "stop"), text("") | says | {"choices": []}),
        "last text": sse(text("a") | says, text("", "stop")),
        "finish": sse(text("a"), text("", "stop") | says),
        "every chunk": sse(text("a", usage=tokens(3, 1)), text("", "stop") | says),
        "after the end mark is due": sse(text("a"), text("", "stop") | says, done=False),
    }
    doors.a.on(model, scripts[place])

    asked = complete(doors, model, stream=True, stream_options={"include_usage": True})
    plain = complete(doors, model, stream=True)

    *chunks, last = asked.chunks
    assert (last["choices"], last["usage"], last["object"]) == ([], used, "text_completion")
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert asked.events[-1] == "data: [DONE]"
    assert not [chunk for chunk in plain.chunks if "usage" in chunk or not chunk["choices"]]
    assert doors.record_of(plain)["completion_tokens"] == 2


def test_a_stream_of_several_choices(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, sse(text("a"), text("b", index=1), text("", "stop"), text("", "stop", index=1), done=False))

    answer = complete(doors, model, prompt=["x", "y"], stream=True)

    assert answer.stream_error is None
    assert [choice["index"] for chunk in answer.chunks for choice in chunk["choices"]] == [0, 1, 0, 1]


def test_the_alias_is_shown_and_the_log_has_the_tokens() -> None:
    with running_doors(model_groups={"alias": {"targets": ["a/any-0"]}}) as doors:
        doors.a.on("any-0", whole("hi"))

        answer = complete(doors, "alias")

        assert answer.json["model"] == "alias"
        record = doors.record_of(answer)
        assert (record["path"], record["prompt_tokens"], record["completion_tokens"]) == ("/v1/completions", 3, 2)


FAULTS: dict[str, Script] = {
    "500": error(500),
    "429": error(429, headers={"Retry-After": "60"}),
    "reset": [Reset()],
    "closed": [Close()],
    "a page": reply(b"<html>", headers={"Content-Type": "text/html"}),
    "an error with 200": json_reply({"error": {"message": "no", "type": "server_error"}}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_first_words_is_not_seen(doors: DoorBed, fault: str, stream: bool) -> None:
    model = doors.model()
    doors.a.on(model, FAULTS[fault])
    doors.b.on(model, scripts("hello", stream))

    answer = complete(doors, model, stream=stream)

    assert said(answer) == "hello"
    assert answer.header("x-gateway-deployment") == f"b/{model}"


@pytest.mark.parametrize("end", [[Close()], [Reset()], []], ids=["closed", "reset", "ended without a mark"])
def test_a_stream_that_is_cut_ends_with_an_error(doors: DoorBed, end: list[Any]) -> None:
    model = doors.model()
    doors.a.on(model, sse(text("hel"), *end, done=False))

    answer = complete(doors, model, stream=True)

    assert answer.status == 200
    assert answer.stream_error is not None
    assert answer.stream_error["code"] in ("upstream_stream_truncated", "upstream_error")


def test_a_stream_that_dies_before_its_first_words_goes_elsewhere(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, sse(text(""), Reset(), done=False))
    doors.b.on(model, scripts("hello", True))

    assert said(complete(doors, model, stream=True)) == "hello"


def test_a_silent_upstream_is_left_alone(stream: bool) -> None:
    with running_doors({"timeouts": {"first_event_s": 1.0, "total_s": 1.0}}) as doors:
        model = doors.model()
        doors.a.on(model, [Hang()])
        doors.b.on(model, scripts("hello", stream))

        assert said(complete(doors, model, stream=stream)) == "hello"


def test_a_client_that_leaves_closes_the_upstream_and_counts_against_nobody(doors: DoorBed) -> None:
    model, gate = doors.model(), threading.Event()
    doors.a.on(model, sse(text("hel"), WaitFor(gate), text("lo", "stop")))
    with doors.connect() as client:
        client.send(doors.request("/v1/completions", {"model": model, "prompt": "x", "stream": True}))
        head = client.read_head()
        next(client.iter_events(head))
    seen = doors.last(model)

    assert seen.closes_within(3)
    gate.set()
    doors.a.on(model, scripts("again", True))
    answer = complete(doors, model, stream=True)
    assert (said(answer), answer.header("x-gateway-deployment")) == ("again", f"a/{model}")


def test_messages_lead_to_the_other_door(doors: DoorBed) -> None:
    answer = doors.call("/v1/completions", {"model": "any-0", "messages": []})

    assert (answer.status, answer.error["param"]) == (400, "prompt")
    assert "/v1/chat/completions" in answer.error["message"]


def test_a_model_for_chats_is_not_asked(doors: DoorBed) -> None:
    answer = complete(doors, doors.model("talk"))

    assert (answer.status, answer.error["code"]) == (400, "model_not_supported")
