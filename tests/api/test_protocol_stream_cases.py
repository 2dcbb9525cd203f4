"""The numbered cases of the protocol that concern answers and streams of OpenAI-compatible upstreams.

Odd numbers are the cases as written down, even ones their neighbours; see test_protocol_cases.py for the others.
"""

import json
import threading
import time

import openai
import pytest

from tests.support import (
    DONE,
    Chop,
    Close,
    WaitFor,
    chunked,
    completion,
    error,
    event,
    joined,
    json_reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import Bed, Body

USAGE = {"include_usage": True}
TRUNCATED = "upstream_stream_truncated"


def test_case_15_a_text(bed: Bed) -> None:
    answer = bed.ask(bed.model())

    (choice,) = answer.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["logprobs"], choice["finish_reason"]) == (None, "stop")
    assert answer.json["usage"] == tokens(9, 2)


def test_case_15_a_text_of_a_sloppy_upstream_is_filled_up(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, json_reply({"choices": [{"message": {"content": "Hi", "tool_calls": []}, "finish_reason": "eos"}]}))

    answer = bed.ask(model).json

    assert answer.pop("id").startswith("chatcmpl-")
    assert abs(answer.pop("created") - time.time()) < 60
    message = {"content": "Hi", "role": "assistant", "refusal": None}
    choice = {"message": message, "finish_reason": "stop", "index": 0, "logprobs": None, "native_finish_reason": "eos"}
    assert answer == {"choices": [choice], "model": model, "object": "chat.completion"}


def test_case_16_a_streamed_text(bed: Bed) -> None:
    answer = bed.ask(bed.model(), stream=True)

    assert answer.deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in answer.chunks] == [None, None, None, "stop"]
    assert answer.stream_error is None


def test_case_17_a_streamed_text_with_usage(bed: Bed) -> None:
    answer = bed.ask(bed.model(), stream=True, stream_options=USAGE)

    *chunks, last = answer.chunks
    assert len(chunks) == 4
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], tokens(9, 2))
    assert answer.stream_error is None


def test_case_23_unknown_fields_and_event_names_do_no_harm(bed: Bed) -> None:
    first, *rest = text_chunks("Hi")
    odd = f"event: future_event\nid: 7\nretry: 10\ndata: {json.dumps(first | {'future': [1]})}\n\n"

    answer = bed.stream(sse(odd, *rest))

    assert (answer.text, answer.stream_error, answer.chunks[0]["future"]) == ("Hi", None, [1])
    assert all(event.startswith("data: ") for event in answer.events), "no id, no retry, no event name"


OVERLOADED = {"error": {"message": "too much", "type": "overloaded_error", "param": None, "code": None}}


@pytest.mark.parametrize("prefix", [b"", b"event: error\n", b": hello\n\n"])
def test_case_25_an_error_as_the_first_event_is_a_real_status(bed: Bed, prefix: bytes) -> None:
    answer = bed.stream(sse(prefix + event(OVERLOADED), done=False))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "overloaded", "server_error")
    assert answer.header("content-type") == "application/json"


def test_case_25_the_client_tries_such_an_error_again(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(OVERLOADED, done=False))

    with (
        bed.sdk(1) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], stream=True)

    assert bed.asked(model) == {"a": 2}


@pytest.mark.parametrize("payload", [OVERLOADED, {"error": "text"}, {"object": "error", "message": "no"}], ids=str)
def test_case_26_an_error_after_the_first_event_is_told_in_the_stream(bed: Bed, payload: Body) -> None:
    answer = bed.stream_in_two_parts(text_chunks("one", "two", finish=None), [event(payload), DONE])

    assert (answer.status, answer.text) == (200, "onetwo")
    assert answer.stream_error is not None
    assert answer.stream_error.keys() == {"message", "type", "param", "code"}


def test_case_27_an_end_after_two_deltas(bed: Bed) -> None:
    answer = bed.stream_in_two_parts(text_chunks("one", "two", finish=None), [Close()])

    assert answer.text == "onetwo"
    assert answer.stream_error is not None
    assert (answer.stream_error["code"], answer.stream_error["type"]) == (TRUNCATED, "server_error")
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in answer.chunks)


@pytest.mark.parametrize("rest", [b'data: {"id": "chatcm', b"data: [DONE]", b"data: [DONE]\n", b"dat"], ids=str)
def test_case_28_an_end_in_the_middle_of_an_event(bed: Bed, rest: bytes) -> None:
    answer = bed.stream_in_two_parts(text_chunks("one", finish=None), [rest])

    assert (answer.text, answer.status) == ("one", 200)
    assert answer.stream_error is not None
    assert answer.stream_error["code"] == TRUNCATED


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_case_29_characters_that_are_split_between_reads(bed: Bed, size: int) -> None:
    model, text = bed.model(), "Grüße 👋🏽 — 你好"
    bed.a.on(model, [Chop(joined(sse(*text_chunks(text, "é"))), size)])

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == (text + "é", None)


FRAMINGS = {
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "cr": lambda data: data.replace(b"\n", b"\r"),
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "no space": lambda data: data.replace(b"data: ", b"data:"),
    "comments": lambda data: data.replace(b"data: ", b": OPENROUTER PROCESSING\n\n:\ndata: "),
    "several lines": lambda data: data.replace(b'"choices"', b'\ndata: "choices"'),
    "one packet": lambda data: data,
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [1, 10_000])
def test_case_30_every_legal_framing_is_read(bed: Bed, framing: str, size: int) -> None:
    model = bed.model()
    data = b"".join(event(chunk) for chunk in text_chunks("Grü", "ße")) + DONE
    body = FRAMINGS[framing](data)
    bed.a.on(model, [Chop(joined(chunked(body, headers={"Content-Type": "text/event-stream"})), size)])

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("Grüße", None)
    assert b"\r" not in answer.body


def test_case_31_silence_is_filled_with_comments(quick: Bed) -> None:
    gate, model = threading.Event(), quick.model()
    first, *rest = text_chunks("one", "two")
    quick.a.on(model, sse(first, WaitFor(gate), *rest))
    with quick.begin(model) as begun:
        events = [begun.next() for _ in range(3)]
        gate.set()
        events += begun.rest()

    assert events[1:3] == [": keep-alive", ": keep-alive"]
    assert begun.answer(events).text == "onetwo"


def test_case_31_the_sdk_does_not_mind(quick: Bed) -> None:
    gate, model = threading.Event(), quick.model()
    quick.a.on(model, sse(WaitFor(gate), *text_chunks("one", "two")))
    with (
        quick.sdk() as client,
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as chunks,
    ):
        gate.set()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "onetwo"


def test_case_32_a_slow_first_event_commits_the_status_line(quick: Bed) -> None:
    gate, model = threading.Event(), quick.model()
    quick.a.on(model, sse(WaitFor(gate), *text_chunks("late")))
    with quick.begin(model) as begun:
        first = begun.next()
        gate.set()
        answer = begun.answer([first, *begun.rest()])

    assert (answer.status, first) == (200, ": keep-alive")
    assert (answer.text, answer.stream_error) == ("late", None)


def test_case_32_an_error_after_that_is_told_in_the_stream(quick: Bed) -> None:
    gate, model = threading.Event(), quick.model()
    quick.a.on(model, [WaitFor(gate), *error(500)])
    with quick.begin(model) as begun:
        first = begun.next()
        gate.set()
        answer = begun.answer([first, *begun.rest()])

    assert (answer.status, answer.chunks) == (200, [])
    assert answer.stream_error is not None
    assert answer.stream_error["code"] == "upstream_error"


def test_case_33_the_headers_of_a_stream(bed: Bed) -> None:
    answer = bed.ask(bed.model(), stream=True)

    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    assert (answer.header("cache-control") or "").startswith("no-cache")
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("x-request-id")
    assert answer.header("content-length") is None


def test_case_34_the_headers_of_an_answer(bed: Bed) -> None:
    answer = bed.ask(bed.model())

    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("x-request-id")
    assert answer.header("cache-control") == "no-store"


def test_case_36_envelopes_are_made_constant(bed: Bed) -> None:
    chunks = text_chunks("a", "b")
    for number, chunk in enumerate(chunks):
        chunk |= {"id": f"id-{number}", "created": 5 + number, "object": "odd", "model": f"m-{number}"}
    for key in ("object", "model"):
        del chunks[1][key]

    answer = bed.stream(sse(*chunks))

    envelopes = {(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in answer.chunks}
    assert envelopes == {("id-0", 5, "chat.completion.chunk", "m-0")}


def test_case_36_missing_envelopes_are_filled(bed: Bed) -> None:
    answer = bed.stream(sse(*({"choices": chunk["choices"]} for chunk in text_chunks("a"))))

    (envelope,) = {(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in answer.chunks}
    assert envelope[0].startswith("chatcmpl-")
    assert abs(envelope[1] - time.time()) < 60
    assert envelope[2] == "chat.completion.chunk"
    assert envelope[3].startswith("solo-")


def test_case_37_an_end_without_done_after_a_finish_chunk(bed: Bed) -> None:
    answer = bed.stream(sse(*text_chunks("Hi"), done=False))

    assert (answer.text, answer.stream_error, answer.events[-1]) == ("Hi", None, "data: [DONE]")


def test_case_37_an_end_without_done_and_finish_chunk(bed: Bed) -> None:
    answer = bed.stream_in_two_parts(text_chunks("Hi", finish=None), [])

    assert answer.stream_error is not None
    assert answer.stream_error["code"] == TRUNCATED


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [(text_chunks("Hi", finish=None), "stop"), (tool_chunks(("f", "{}"), finish=None), "tool_calls")],
)
def test_case_38_done_without_a_finish_chunk(bed: Bed, chunks: list[Body], reason: str) -> None:
    answer = bed.stream(sse(*chunks))

    assert answer.chunks[-1]["choices"][0]["finish_reason"] == reason
    assert answer.stream_error is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("eos", "stop"), ("end_turn", "stop"), ("eos_token", "stop"), ("max_tokens", "length"), ("", "stop"),
        ("length", "length"), ("content_filter", "content_filter"), ("odd", "stop"),
    ],
)  # fmt: skip
def test_case_38_finish_reasons_in_the_words_of_openai(bed: Bed, said: str, expected: str) -> None:
    model, chunks = bed.model(), text_chunks("Hi")
    chunks[-1]["choices"][0]["finish_reason"] = said
    bed.a.on(model, json_reply(completion("Hi", finish=said)), sse(*chunks))

    whole, streamed = bed.ask(model), bed.ask(model, stream=True)

    assert whole.json["choices"][0]["finish_reason"] == expected
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in streamed.chunks]
    assert [reason for reason in reasons if reason is not None] == [expected]


def test_case_39_a_first_chunk_without_choices(bed: Bed) -> None:
    azure = text_chunks("x")[0] | {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "model": ""}
    model = bed.model()
    bed.a.on(model, sse(azure, *text_chunks("Hi")))

    answer = bed.ask(model, stream=True)
    with (
        bed.sdk() as client,
        client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "Hi"}]) as events,
    ):
        final = events.get_final_completion()

    assert answer.chunks[0]["choices"] == []
    assert answer.chunks[0]["prompt_filter_results"] == [{"prompt_index": 0}]
    assert (answer.text, final.choices[0].message.content) == ("Hi", "Hi")
    assert len({chunk["id"] for chunk in answer.chunks}) == 1


def test_case_40_a_stream_without_any_content(bed: Bed) -> None:
    answer = bed.stream(sse(*text_chunks()))

    assert (answer.text, answer.stream_error) == ("", None)


def test_case_41_usage_that_the_client_did_not_ask_for(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi", usage=tokens(7, 3))))

    answer = bed.ask(model, stream=True)

    assert bed.last(model).json["stream_options"] == {"include_usage": True}
    assert all("usage" not in chunk and chunk["choices"] for chunk in answer.chunks)
    record = bed.record_of(answer)
    assert (record["model"], record["prompt_tokens"], record["completion_tokens"]) == (model, 7, 3)


@pytest.mark.parametrize("asked", [True, False])
def test_case_42_usage_on_every_chunk(bed: Bed, asked: bool) -> None:
    model, chunks = bed.model(), text_chunks("a", "b")
    for number, chunk in enumerate(chunks):
        chunk["usage"] = tokens(5, number)
    bed.a.on(model, sse(*chunks))

    answer = bed.ask(model, stream=True, stream_options={"include_usage": asked})

    usages = [chunk["usage"] for chunk in answer.chunks if chunk.get("usage")]
    assert usages == ([tokens(5, 3)] if asked else [])
    assert answer.chunks[-1]["choices"] == [] or not asked
    assert all(("usage" in chunk) is asked for chunk in answer.chunks)


def test_case_43_two_choices_that_interleave(bed: Bed) -> None:
    one, two = text_chunks("a", "b"), text_chunks("x", "y")
    for chunk in two:
        chunk["choices"][0]["index"] = 1
    mixed = [chunk for pair in zip(one, two, strict=True) for chunk in pair]
    last = text_chunks(usage=tokens(1, 2))[-1]

    answer = bed.stream(sse(*mixed, last), n=2, stream_options=USAGE)

    assert [choice["index"] for chunk in answer.chunks for choice in chunk["choices"]] == [0, 1] * 4
    assert [chunk["usage"] for chunk in answer.chunks if chunk["usage"]] == [tokens(1, 2)]
    assert answer.stream_error is None


def test_case_44_choices_appear_in_order(bed: Bed) -> None:
    chunks = text_chunks("late") + text_chunks("early")
    for chunk in chunks[:3]:
        chunk["choices"][0]["index"] = 1
    model = bed.model()
    bed.a.on(model, sse(*chunks))

    with (
        bed.sdk() as client,
        client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "Hi"}], n=2) as events,
    ):
        final = events.get_final_completion()

    assert [choice.message.content for choice in final.choices] == ["early", "late"]
