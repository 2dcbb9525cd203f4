"""Upstreams that write loosely, over the wire: wrong labels, errors in other words, ends without an end mark."""

import gzip
import json
import time
from typing import Any

import pytest

from tests.support import (
    DONE,
    Close,
    Hang,
    Reset,
    Script,
    Wait,
    completion,
    event,
    json_reply,
    reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import Bed, Body

EVENTS = b"".join(event(each) for each in text_chunks("Hel", "lo", usage=tokens(9, 2))) + DONE
BODY = json.dumps(completion("Hello")).encode()
LABELS = ["text/event-stream", "application/json", "text/plain", "application/octet-stream", "text/html", None]


def labelled(body: bytes, label: str | None, status: int = 200) -> Script:
    """An answer under a label, or under none."""
    return reply(body, status, {"Content-Type": label} if label else {})


def words_of(bed: Bed, script: Script, *, stream: bool) -> tuple[str, Any]:
    """The words and the finish reason that a client gets, in the form that it asked for, and the usage."""
    model = bed.model()
    bed.a.on(model, script)
    asked: Body = {"stream_options": {"include_usage": True}} if stream else {}
    answer = bed.ask(model, stream=stream, **asked)
    assert answer.status == 200, answer.body
    if not stream:
        choice = answer.json["choices"][0]
        assert (answer.json["object"], choice["finish_reason"]) == ("chat.completion", "stop")
        return choice["message"]["content"], answer.json.get("usage")
    assert answer.stream_error is None
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    return answer.text, answer.chunks[-1].get("usage")


@pytest.mark.parametrize("label", LABELS, ids=str)
@pytest.mark.parametrize("body", [EVENTS, BODY, b"\n\n" + BODY + b"\n"], ids=["events", "whole", "padded"])
def test_the_bytes_decide_and_not_the_label(bed: Bed, body: bytes, label: str | None, stream: bool) -> None:
    assert words_of(bed, labelled(body, label), stream=stream) == ("Hello", tokens(9, 2))


@pytest.mark.parametrize("body", [EVENTS, BODY, json.dumps(completion("Hello"), indent=1).encode()])
@pytest.mark.parametrize("coding", [None, "gzip", "x-gzip", "identity"])
def test_gzip_is_read_without_its_label_too(bed: Bed, body: bytes, coding: str | None, stream: bool) -> None:
    headers = {"Content-Encoding": coding} if coding else {}
    script = reply(gzip.compress(body), headers=headers)

    assert words_of(bed, script, stream=stream) == ("Hello", tokens(9, 2))


@pytest.mark.parametrize("status", [201, 202, 203])
@pytest.mark.parametrize("body", [EVENTS, BODY], ids=["events", "whole"])
def test_any_status_of_success_is_one(bed: Bed, body: bytes, status: int, stream: bool) -> None:
    assert words_of(bed, labelled(body, None, status), stream=stream) == ("Hello", tokens(9, 2))


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"hello", b"null", b"[]", b"{}", b'{"x": 1}', b'"Hello"'])
def test_what_is_no_answer_under_any_label_is_an_error(bed: Bed, body: bytes, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, labelled(body, "application/json"))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")


def all_so_far(*texts: str) -> bytes:
    """A stream of DashScope's own dialect, each of whose chunks holds all of the answer so far."""
    counts = {"input_tokens": 9, "output_tokens": 2}
    finishes = ["null"] * (len(texts) - 1) + ["stop"]
    choices = [
        {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        for text, finish in zip(texts, finishes, strict=True)
    ]
    return b"".join(event({"output": {"choices": [each]}, "usage": counts, "request_id": "r"}) for each in choices)


def under(where: str, holder: str, *texts: Any) -> bytes:
    """A stream, or of one text a whole answer, whose texts stand in another place, as their counts do."""
    pieces: list[Any] = [
        {"index": 0, holder: {where: text} if where else text, "finish_reason": "stop" if i == len(texts) else None}
        for i, text in enumerate(texts, 1)
    ]
    counted = pieces[-1][holder] if isinstance(pieces[-1][holder], dict) else pieces[-1]
    counted["usage"] = tokens(9, 2)
    if len(pieces) == 1:
        return json.dumps({"id": "c", "choices": pieces}).encode()
    return b"".join(event({"id": "c", "choices": [each]}) for each in pieces) + DONE


MESSAGE: Body = {"role": "assistant", "content": "Hello"}
#: Answers that say "Hello", in other forms than OpenAI's.
FORMS: dict[str, bytes] = {
    "all so far": all_so_far("Hel", "Hello", "Hello"),
    "pieces": all_so_far("Hel", "lo", ""),
    "a text": json.dumps(BODY.decode()).encode(),
    "a list of chunks": json.dumps(text_chunks("Hel", "lo", usage=tokens(9, 2)), indent=1).encode(),
    "a list of one": json.dumps([completion("Hello")]).encode(),
    "result": json.dumps({"result": completion("Hello"), "success": True, "errors": [], "messages": []}).encode(),
    "response": json.dumps({"result": {"response": "Hello", "usage": tokens(9, 2)}, "success": True}).encode(),
    "body": json.dumps({"statusCode": 200, "body": BODY.decode()}).encode(),
    "text in deltas": under("text", "delta", "Hel", "lo", ""),
    "text in a message": under("text", "message", "Hello"),
    "text beside an empty content": under("text", "delta", "Hel", "lo", "").replace(b'"text"', b'"content":"","text"'),
    "content of a choice": under("", "content", "Hello"),
    "contents of choices": under("", "content", "Hel", "lo", ""),
    "messages": under("", "messages", [MESSAGE]),
    "messages in pieces": under("", "message", [{"sender_type": "BOT", "text": "Hel"}, {"text": "lo"}]),
    "a list for a message": under("", "message", [MESSAGE]),
}


@pytest.mark.parametrize("label", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("body", list(FORMS.values()), ids=list(FORMS))
def test_an_answer_in_another_form_is_served(bed: Bed, body: bytes, label: str, stream: bool) -> None:
    assert words_of(bed, labelled(body, label), stream=stream) == ("Hello", tokens(9, 2))


@pytest.mark.parametrize("form", ["a list of chunks", "a list of one", "result"])
def test_an_answer_in_another_form_that_is_cut_is_none(bed: Bed, form: str, stream: bool) -> None:
    model = bed.model("pair")
    cut = FORMS[form][: FORMS[form].index(b"Hel") + 8]
    bed.a.on(model, labelled(cut, "application/json"))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, bed.asked(model)) == (200, {"a": 1, "b": 1})


REPORTS = {
    "field": b'error: {"code":500,"message":"oom"}\n\n',
    "event": b"event: error\ndata: out of memory\n\n",
    "detail": b'data: {"detail":"oom"}\n\n',
    "bare": b'{"error":{"message":"oom"}}\n',
    "words": b"upstream connect error or disconnect/reset before headers\n\n",
    "finish reason": event({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}),
    "choice": event({"choices": [{"index": 0, "delta": {}, "error": {"message": "oom"}}]}),
    "delta": event({"choices": [{"index": 0, "delta": {"error": "oom"}, "finish_reason": None}]}),
}


@pytest.mark.parametrize("report", list(REPORTS.values()), ids=list(REPORTS))
def test_an_error_after_content_ends_the_stream_with_it(bed: Bed, report: bytes) -> None:
    answer = bed.stream_in_two_parts(text_chunks("one", "two", finish=None), [report, DONE])

    assert (answer.status, answer.text) == (200, "onetwo")
    assert answer.stream_error is not None
    assert DONE.decode().strip() not in answer.events


@pytest.mark.parametrize("report", list(REPORTS.values()), ids=list(REPORTS))
def test_an_error_before_content_is_a_reason_to_ask_another(bed: Bed, report: bytes) -> None:
    model = bed.model("pair")
    bed.a.on(model, sse(*text_chunks(finish=None), report))

    answer = bed.ask(model, stream=True)

    assert (answer.text, answer.stream_error, bed.asked(model)) == ("Hello", None, {"a": 1, "b": 1})


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "half"}, "finish_reason": "abort"}]},
        {"choices": [{"message": {"content": ""}, "error": {"message": "oom"}}]},
        {"choices": [{"message": {"content": "", "error": "oom"}, "finish_reason": "stop"}]},
        {"code": 500, "msg": "oom", "success": False},
    ],
    ids=["finish reason", "choice", "message", "body"],
)
def test_a_whole_answer_that_failed_is_a_reason_to_ask_another(bed: Bed, body: Any) -> None:
    model = bed.model("pair")
    bed.a.on(model, json_reply(body))

    answer = bed.ask(model)

    assert answer.json["choices"][0]["message"]["content"] == "Hello"
    assert bed.asked(model) == {"a": 1, "b": 1}


SILENT = [b"data: null\n\n", b"data: {}\n\n", b"event: ping\n\n", b'event: ping\ndata: {"type":"ping"}\n\n']


@pytest.mark.parametrize("silent", SILENT)
def test_an_event_that_says_nothing_is_skipped_anywhere(bed: Bed, silent: bytes) -> None:
    chunks = tool_chunks(("weather", '{"city"', ':"Bern"}'))
    script = sse(*[each for chunk in chunks for each in (silent, chunk)], silent)
    model = bed.model()
    bed.a.on(model, script)

    whole, streamed = bed.ask(model), bed.ask(model, stream=True)

    assert whole.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Bern"}'
    assert streamed.stream_error is None
    assert len(streamed.chunks) == len(chunks)


ENDINGS: dict[str, list[Any]] = {
    "silence": [Hang()],
    "reset": [Reset()],
    "close": [Close()],
    "comments": [each for _ in range(60) for each in (b": still here\n\n", Wait(0.1))],
    "junk": [b"data: {junk\n\n", Hang()],
}


@pytest.mark.parametrize("ending", list(ENDINGS.values()), ids=list(ENDINGS))
def test_after_the_finish_reason_an_answer_is_complete(bed: Bed, ending: list[Any]) -> None:
    began = time.monotonic()
    answer = bed.stream(sse(*text_chunks("Hel", "lo"), *ending, done=False))

    assert (answer.text, answer.stream_error) == ("Hello", None)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert time.monotonic() - began < 5.5, "idle_s is far longer"


@pytest.mark.parametrize("ending", [ENDINGS["silence"], ENDINGS["comments"], ENDINGS["junk"]])
def test_events_for_a_whole_answer_are_not_waited_for_either(bed: Bed, ending: list[Any]) -> None:
    model, pause = bed.model(), Wait(0.05)
    bed.a.on(model, sse(*text_chunks("Hel", "lo"), pause, *ending, done=False))

    began = time.monotonic()
    answer = bed.ask(model)

    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == "Hello"
    assert time.monotonic() - began < 5.5, "total_s is far longer"


def test_usage_that_comes_late_is_waited_for(bed: Bed) -> None:
    *chunks, last = text_chunks("Hello", usage=tokens(9, 2))

    answer = bed.stream(sse(*chunks, Wait(0.3), last, Hang(), done=False), stream_options={"include_usage": True})

    assert answer.chunks[-1]["usage"] == tokens(9, 2)
    assert answer.stream_error is None


LATE = {"choices": [], "usage": tokens(9, 2)}
AFTER_THE_END: dict[str, list[Any]] = {
    "at once": [DONE + event(LATE)],
    "late": [DONE, Wait(0.03), event(LATE)],
    "with a second mark": [DONE + event(LATE) + DONE],
}


@pytest.mark.parametrize("after", list(AFTER_THE_END.values()), ids=list(AFTER_THE_END))
def test_usage_after_the_end_mark_is_read(bed: Bed, after: list[Any], stream: bool) -> None:
    script = sse(*text_chunks("Hel", "lo"), *after, done=False)

    # It is waited for so shortly that on a machine that stands still it may come too late.
    assert any(words_of(bed, script, stream=stream) == ("Hello", tokens(9, 2)) for _ in range(10))


@pytest.mark.parametrize("after", [[Hang()], [b"data: {junk\n\n", Hang()], [event(text_chunks("late")[1])], [Reset()]])
def test_what_else_comes_after_the_end_mark_is_not_waited_for(bed: Bed, after: list[Any]) -> None:
    answer = bed.stream(sse(*text_chunks("Hel", "lo"), DONE, *after, done=False))

    assert (answer.text, answer.stream_error) == ("Hello", None)


def test_reasoning_that_the_upstream_counts_beside_the_completion_is_booked(bed: Bed, stream: bool) -> None:
    thought = {"completion_tokens_details": {"reasoning_tokens": 30}}
    counts = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 41, **thought}
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi", usage=counts)) if stream else json_reply(completion("Hi", usage=counts)))

    record = bed.record_of(bed.ask(model, stream=stream))

    assert (record["prompt_tokens"], record["completion_tokens"]) == (9, 32)


def test_of_two_choices_one_finish_reason_is_no_end(bed: Bed) -> None:
    first, second = text_chunks("one"), text_chunks("two")
    for chunk in second:
        chunk["choices"][0]["index"] = 1
    model = bed.model()
    bed.a.on(model, sse(*first, Wait(2.3), *second))

    answer = bed.ask(model, stream=True, n=2)

    pieces = [choice for each in answer.chunks for choice in each["choices"] if choice["index"] == 1]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces) == "two"
    assert answer.stream_error is None
