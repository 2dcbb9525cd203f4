"""The stream of any OpenAI-compatible server becomes one that the official client's strictest helper accepts."""

from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import ErrorPayload, Identity, InvalidAnswer
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.sse import DONE, Event, encode_event
from tests.dialects import recorded
from tests.dialects.recorded import (
    OURS,
    Recording,
    Translated,
    called,
    chunk,
    opened,
    piece,
    read_answer,
    said,
    stream,
    translate,
    usage,
)

RECORDINGS = pytest.mark.parametrize("recording", recorded.ALL, ids=lambda recording: recording.name)
ROLE: JSONObject = {"role": "assistant", "content": ""}
FINISH = chunk({}, "stop")
USAGE_CHUNK: JSONObject = {**chunk(), "choices": [], "usage": usage(9, 3)}


def assembled(translated: Translated) -> JSONObject:
    """The completion that chunks amount to."""
    assembler = Assembler()
    for each in translated.chunks:
        assembler.add(each)
    return assembler.completion()


def choice_of(*payloads: JSONObject | str, done: bool = True) -> JSONObject:
    """The first choice of the completion that a stream amounts to."""
    choice: JSONObject = assembled(translate(stream(*payloads, done=done)))["choices"][0]
    return choice


def deltas_of(*payloads: JSONObject | str) -> list[JSONObject]:
    """The deltas that a stream becomes."""
    chunks = translate(stream(*payloads)).chunks
    return [choice["delta"] for each in chunks for choice in each["choices"]]


def read_officially(translated: Translated) -> ChatCompletion:
    """What the official client's ``stream()`` makes of what we send."""
    body = b"".join(map(encode_event, translated.chunks)) + DONE
    reply = httpx2.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=body)
    transport = httpx2.Client(transport=httpx2.MockTransport(lambda _: reply))
    messages: Any = [{"role": "user", "content": "Hi"}]
    with (
        openai.OpenAI(api_key="k", base_url="http://gateway.test/v1", http_client=transport) as client,
        client.chat.completions.stream(model="m", messages=messages) as events,
    ):
        for _ in events:
            pass
        return events.current_completion_snapshot


def official_calls(translated: Translated, choice: int = 0) -> list[JSONObject]:
    """The tool calls that the official client reads."""
    calls = read_officially(translated).choices[choice].message.tool_calls or []
    return [call.model_dump(exclude_none=True, exclude={"index", "parsed_arguments"}) for call in calls]


def calls_of(*deltas: JSONObject) -> list[JSONObject]:
    """The tool calls that these deltas amount to: the same to the assembler and to the official client."""
    head = chunk({"role": "assistant", "content": None})
    translated = translate(stream(head, *(chunk(delta) for delta in deltas), chunk({}, "tool_calls")))
    calls: list[JSONObject] = assembled(translated)["choices"][0]["message"]["tool_calls"]
    assert official_calls(translated) == calls
    return calls


# Whole streams


@RECORDINGS
def test_a_recording_amounts_to_its_completion(recording: Recording) -> None:
    translated = translate(recording.raw)
    completion = assembled(translated)

    assert translated.finished
    assert completion["choices"] == recording.choices
    assert completion.get("usage") == translated.usage == recording.usage


@RECORDINGS
def test_the_official_client_reads_a_recording(recording: Recording) -> None:
    translated = translate(recording.raw)
    official = read_officially(translated)

    for read, expected in zip(official.choices, recording.choices, strict=True):
        message = expected["message"]
        assert read.finish_reason == expected["finish_reason"]
        assert (read.message.role, read.message.content or None) == ("assistant", message["content"])
        assert (read.message.model_extra or {}).get("reasoning_content") == message.get("reasoning_content")
        assert official_calls(translated, read.index) == message.get("tool_calls", [])


@RECORDINGS
def test_a_cut_at_any_byte_changes_nothing(recording: Recording) -> None:
    whole = translate(recording.raw)

    for cut in range(len(recording.raw)):
        assert translate(recording.raw, [cut]) == whole, f"cut at {cut}"
    assert translate(recording.raw, range(len(recording.raw))) == whole


@RECORDINGS
@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_line_ends_change_nothing(recording: Recording, line_end: bytes) -> None:
    assert translate(recording.raw.replace(b"\n", line_end)) == translate(recording.raw)


@RECORDINGS
def test_a_stream_that_stops_anywhere_is_whole_or_not_finished(recording: Recording) -> None:
    for cut in range(len(recording.raw)):
        translated = translate(recording.raw[:cut])
        if translated.finished:
            assert assembled(translated)["choices"] == recording.choices, f"stopped at {cut}"


@RECORDINGS
@pytest.mark.parametrize("include_usage", [True, False])
def test_every_chunk_keeps_the_rules(recording: Recording, include_usage: bool) -> None:
    chunks = translate(recording.raw, include_usage=include_usage).chunks

    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    for constant in ("id", "created", "model"):
        assert len({each[constant] for each in chunks}) == 1
    for index, choices in _by_choice(chunks).items():
        assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
        assert sum(choice["finish_reason"] is not None for choice in choices) == 1
        assert index < len(recording.choices)


def _by_choice(chunks: list[JSONObject]) -> dict[int, list[JSONObject]]:
    """The pieces of each choice; choices appear in order."""
    found: dict[int, list[JSONObject]] = {}
    for each in chunks:
        for choice in each["choices"]:
            assert choice["index"] in found or choice["index"] == len(found)
            found.setdefault(choice["index"], []).append(choice)
    return found


# Usage


@RECORDINGS
def test_usage_is_told_once_at_the_end_when_it_was_asked_for(recording: Recording) -> None:
    *before, last = translate(recording.raw).chunks

    assert all(each["usage"] is None for each in before)
    assert last["usage"] == recording.usage
    if recording.usage is not None:
        assert last["choices"] == []


@RECORDINGS
def test_usage_leaves_no_trace_when_it_was_not_asked_for(recording: Recording) -> None:
    translated = translate(recording.raw, include_usage=False)

    assert translated.usage == recording.usage
    assert all("usage" not in each for each in translated.chunks)
    assert all(each["choices"] or "prompt_filter_results" in each for each in translated.chunks)


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_in_every_chunk_is_cumulative_and_the_last_counts(include_usage: bool) -> None:
    raw = stream(chunk(ROLE, usage=usage(9, 0)), chunk({"content": "a"}, usage=usage(9, 1)), chunk({}, "stop"))

    assert translate(raw, include_usage=include_usage).usage == usage(9, 1)


@pytest.mark.parametrize("include_usage", [True, False])
def test_chunks_of_our_own_keep_the_rules_of_usage(include_usage: bool) -> None:
    raw = stream(chunk({"content": "b"}, index=1), chunk(opened("a", "f", "")))

    chunks = translate(raw, include_usage=include_usage).chunks

    assert len(chunks) == 6
    assert [each.get("usage", "absent") for each in chunks] == [None if include_usage else "absent"] * 6


@pytest.mark.parametrize("nothing", [None, 0, "", [], "12"])
def test_usage_that_is_none_is_none(nothing: Any) -> None:
    translated = translate(stream(chunk(ROLE, usage=nothing), chunk({}, "stop", usage=nothing)))

    assert translated.usage is None
    assert all(each["usage"] is None for each in translated.chunks)


def test_a_usage_chunk_may_come_without_a_list_of_choices() -> None:
    translated = translate(stream(chunk(ROLE), FINISH, {"usage": usage(9, 3)}, {"choices": None, "usage": usage(9, 4)}))

    assert translated.chunks[-1]["usage"] == usage(9, 4)
    assert len(translated.chunks) == 3


def test_usage_is_told_without_an_end_mark_too() -> None:
    translated = translate(stream(chunk(ROLE), FINISH, USAGE_CHUNK, done=False))

    assert translated.finished
    assert translated.chunks[-1]["usage"] == usage(9, 3)


def test_usage_is_not_told_of_an_answer_that_was_cut_short() -> None:
    translated = translate(stream(chunk(ROLE), USAGE_CHUNK, done=False))

    assert not translated.finished
    assert translated.usage == usage(9, 3)
    assert len(translated.chunks) == 1


# The envelope


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({}, OURS),
        ({"id": "", "created": 0, "model": ""}, OURS),
        ({"id": None, "created": None, "model": None}, OURS),
        ({"id": 1, "created": "now", "model": ["m"]}, OURS),
        ({"id": "x", "created": 5, "model": "y"}, Identity("x", 5, "y")),
    ],
)
def test_missing_fields_are_filled(head: JSONObject, expected: Identity) -> None:
    for each in translate(stream({**head, "choices": [{"delta": {"content": "a"}}]})).chunks:
        assert (each["id"], each["created"], each["model"]) == (expected.id, expected.created, expected.model)


def test_the_first_id_model_and_time_hold_for_the_whole_stream() -> None:
    heads = [{"id": f"id-{i}", "created": 5 + i, "model": f"m-{i}"} for i in range(3)]
    raw = stream(*({**chunk({"content": "a"}), **head} for head in heads), FINISH, USAGE_CHUNK)

    assert {(each["id"], each["created"], each["model"]) for each in translate(raw).chunks} == {("id-0", 5, "m-0")}


@pytest.mark.parametrize("kind", [None, "", "chat.completion", "text_completion"])
def test_every_chunk_says_that_it_is_one(kind: Any) -> None:
    assert {each["object"] for each in translate(stream(chunk(ROLE, object=kind), FINISH)).chunks} == {
        "chat.completion.chunk"
    }


def test_unknown_fields_survive_at_every_depth() -> None:
    sent = chunk({"content": "a", "x_delta": [1.0]}, x_chunk={"n": 12345678901234567890}, obfuscation="pad")
    sent["choices"][0] |= {"native_finish_reason": "STOP", "logprobs": {"content": []}}

    got = translate(stream(sent, FINISH)).chunks[0]

    assert (got["x_chunk"], got["obfuscation"]) == ({"n": 12345678901234567890}, "pad")
    assert got["choices"][0]["native_finish_reason"] == "STOP"
    assert got["choices"][0]["logprobs"] == {"content": []}
    assert got["choices"][0]["delta"]["x_delta"] == [1.0]


def test_a_chunk_of_openais_passes_byte_for_byte() -> None:
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default",'
    raw = head + '"choices":[{"index":0,"delta":{"role":"assistant","content":"ä","n":1.0},"logprobs":null,'
    raw += '"finish_reason":null}],"obfuscation":"x"}'

    (got,) = OpenAIStream(OURS, include_usage=False).feed(Event(raw.encode()))

    assert json.encode(got).decode() == raw


def test_fields_that_are_the_gateways_own_are_dropped() -> None:
    reader = OpenAIStream(OURS, include_usage=False, drop=frozenset({"timings"}))

    assert "timings" not in reader.feed(Event(json.encode(chunk(ROLE, timings={"n": 1}))))[0]


# Roles and text


@pytest.mark.parametrize("repeated", [{"role": "assistant"}, {"role": None}, {"role": ""}])
def test_a_role_is_said_once(repeated: JSONObject) -> None:
    deltas = deltas_of(chunk(ROLE), chunk({"content": "a", **repeated}), chunk({**repeated}, "stop"))

    assert ["role" in delta for delta in deltas] == [True, False, False]


@pytest.mark.parametrize("first", [{}, {"role": None}, {"role": ""}, {"role": "model"}])
def test_a_role_is_said_even_if_the_upstream_does_not(first: JSONObject) -> None:
    raw = stream(chunk({"content": "a", **first}), chunk({"role": "assistant", "content": "b"}), FINISH)

    assert [delta.get("role") for delta in deltas_of(raw.decode())] == ["assistant", None, None]
    assert read_officially(translate(raw)).choices[0].message.role == "assistant"


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"reasoning": "why"}, {"reasoning_content": "why"}),
        ({"reasoning_content": "why"}, {"reasoning_content": "why"}),
        ({"reasoning": "why", "reasoning_content": "why"}, {"reasoning_content": "why"}),
        ({"content": None, "reasoning": "why"}, {"content": None, "reasoning_content": "why"}),
    ],
)
def test_reasoning_has_one_name(delta: JSONObject, expected: JSONObject) -> None:
    assert deltas_of(chunk(ROLE), chunk(delta), FINISH)[1] == expected


@pytest.mark.parametrize("delta", [None, [], "", 0])
def test_a_delta_that_is_none_is_empty(delta: Any) -> None:
    late = chunk()
    late["choices"][0]["delta"] = delta

    assert deltas_of(chunk(ROLE), late, FINISH)[1] == {}


def test_a_choice_without_a_delta_has_an_empty_one() -> None:
    assert deltas_of(chunk(ROLE), {"choices": [{"index": 0}]}, FINISH)[1] == {}


# Finish reasons and ends


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "function_call"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("max_tokens", "length"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_a_finish_reason_is_one_of_openais(reason: str, expected: str, done: bool) -> None:
    native = {} if reason == expected else {"native_finish_reason": reason}

    assert choice_of(chunk(ROLE), chunk({}, reason), done=done) == said("", expected) | native


@pytest.mark.parametrize("nothing", ["", None, 0, False])
def test_a_finish_reason_that_says_nothing_is_none(nothing: Any) -> None:
    first = translate(stream(chunk(ROLE, nothing), chunk({"content": "a"}, nothing), FINISH)).chunks

    assert [each["choices"][0]["finish_reason"] for each in first[:3]] == [None, None, "stop"]
    assert not translate(stream(chunk(ROLE, nothing), done=False)).finished


@pytest.mark.parametrize("reason", ["stop", "eos", "tool_calls", "", None])
def test_an_answer_that_calls_tools_says_so(reason: Any) -> None:
    choice = choice_of(chunk(ROLE), chunk(opened("a", "f", "{}")), chunk({}, reason))

    assert choice["finish_reason"] == "tool_calls"


def test_a_cut_tool_call_stays_cut() -> None:
    assert choice_of(chunk(opened("a", "f", '{"a')), chunk({}, "length"))["finish_reason"] == "length"


def test_an_end_mark_alone_ends_an_answer_that_has_begun() -> None:
    translated = translate(stream(chunk(ROLE), chunk({"content": "a"})))

    assert translated.finished
    assert assembled(translated)["choices"] == [said("a")]
    assert read_officially(translated).choices[0].finish_reason == "stop"


def test_an_end_mark_alone_ends_every_choice_that_is_open() -> None:
    raw = stream(chunk(ROLE), chunk(ROLE, index=1), chunk({}, "length", index=1), chunk(opened("a", "f"), index=2))
    choices = assembled(translate(raw))["choices"]

    assert [choice["finish_reason"] for choice in choices] == ["stop", "length", "tool_calls"]


def test_a_finish_reason_ends_an_answer_without_an_end_mark() -> None:
    assert translate(stream(chunk(ROLE), FINISH, done=False)).finished


@pytest.mark.parametrize(
    "payloads",
    [
        [],
        [chunk(ROLE)],
        [chunk(ROLE), chunk({"content": "a"})],
        [chunk(opened("a", "f")), chunk(piece("{}"))],
        [chunk(ROLE), chunk(ROLE, index=1), FINISH],
        [chunk({"content": "a"}, "stop", index=1)],
        [USAGE_CHUNK],
        [chunk(ROLE), "data: [DONE]\n"],
        [chunk(ROLE), "data: [DON"],
        [chunk(ROLE), 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n'],
    ],
)
def test_bytes_that_just_stop_are_no_end(payloads: list[JSONObject | str]) -> None:
    assert not translate(stream(*payloads, done=False)).finished


@pytest.mark.parametrize(
    ("begun", "is_whole"), [([0], False), ([1], False), ([0, 1], False), ([0, 1, 2], True), ([2, 0, 1], True)]
)
def test_an_end_without_a_mark_completes_an_answer_that_has_all_its_choices(begun: list[int], is_whole: bool) -> None:
    reader = OpenAIStream(OURS, include_usage=False, choices=3)
    for index in begun:
        reader.feed(Event(json.encode(chunk({"content": "a"}, "stop", index))))

    reader.end()

    assert reader.finished is is_whole


@pytest.mark.parametrize("payloads", [[], [": comment\n\n"], [USAGE_CHUNK], [{**chunk(), "choices": []}]])
def test_an_end_mark_without_an_answer_is_no_answer(payloads: list[JSONObject | str]) -> None:
    with pytest.raises(InvalidAnswer):
        translate(stream(*payloads))


def test_what_follows_the_end_mark_is_ignored() -> None:
    raw = stream(chunk(ROLE), FINISH)
    late = stream(chunk({"content": "late"}), {"error": {"message": "late"}}, "data: junk\n\n")

    assert translate(raw + late) == translate(raw)


def test_ending_twice_says_nothing_twice() -> None:
    reader = OpenAIStream(OURS, include_usage=True)
    reader.feed(Event(json.encode(chunk(ROLE))))

    assert reader.feed(Event(b"[DONE]")) == reader.feed(Event(b"[DONE]")) == []
    assert len(reader.end()) == 1
    assert reader.feed(Event(b"[DONE]")) == reader.end() == []


# Tool calls


@pytest.mark.parametrize(
    "deltas",
    [
        [opened("a", "f", '{"x"', index=0), piece(":1}", index=0), opened("b", "g", "{", index=1), piece("}", index=1)],
        [opened("a", "f", '{"x"', index=3), piece(":1}", index=3), opened("b", "g", "{", index=7), piece("}", index=7)],
        [opened("a", "f", '{"x"', index=1), opened("b", "g", "{", index=0), piece(":1}", index=1), piece("}", index=0)],
        [opened("a", "f", '{"x"'), piece(":1}"), opened("b", "g", "{"), piece("}")],
        [opened("a", "f", '{"x"', index=None), piece(":1}", index=None), opened("b", "g", "{}", index=None)],
        [opened("a", "f", '{"x"', index=0), piece(":1}", index=0), opened("b", "g", "{", index=0), piece("}", index=0)],
        [opened("a", "f", '{"x"', index=0), opened("a", "f", ":1}", index=0), opened("b", "g", "{}", index=1)],
        [opened("a", "f", '{"x"'), opened("a", "f", ":1}"), opened("b", "g", "{"), opened("b", "g", "}")],
        [opened("a", "f", '{"x"', index=0), opened("b", "g", "{", index=0), piece(":1}", id="a"), piece("}", id="b")],
        [opened("a", "f", {"x": 1}), opened("b", "g", {})],
        [opened("a", "f", '{"x":1}'), opened("b", "g", "")],
        [opened("a", "f", '{"x":1}'), opened("b", "g", None)],
        [{"tool_calls": [*opened("a", "f", '{"x":1}')["tool_calls"], *opened("b", "g", "{}")["tool_calls"]]}],
    ],
    ids=[
        "in order", "gaps", "interleaved by index", "no index", "index null", "index always 0", "id and name repeated",
        "id and name repeated, no index", "pieces by id", "arguments as objects", "no arguments", "arguments null",
        "all in one chunk",
    ],
)  # fmt: skip
def test_tool_calls_are_told_apart_and_numbered_densely(deltas: list[JSONObject]) -> None:
    assert calls_of(*deltas) == [called("a", "f", '{"x":1}'), called("b", "g", "{}")]


def test_an_opening_entry_says_everything_once_and_pieces_say_nothing_else() -> None:
    deltas = deltas_of(
        chunk(opened("a", "f", "", index=2, x=1)), chunk(opened("a", "f", "{}", index=2)), chunk({}, "tool_calls")
    )
    entries = [entry for delta in deltas for entry in delta.get("tool_calls", ())]

    assert entries[0]["index"] == 0
    assert (entries[0]["id"], entries[0]["type"], entries[0]["function"]["name"]) == ("a", "function", "f")
    assert entries[1:] == [{"index": 0, "function": {"arguments": "{}"}}]


@pytest.mark.parametrize("missing", [{}, {"type": None}, {"type": ""}])
def test_a_missing_type_is_function(missing: JSONObject) -> None:
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}, **missing}]}

    assert calls_of(delta) == [called("a", "f", "{}")]


@pytest.mark.parametrize("missing", [None, "", 7])
def test_a_tool_call_without_an_id_gets_one_of_its_own(missing: Any) -> None:
    first, second = calls_of(opened(missing, "f", "{}", index=0), opened(missing, "g", "{}", index=1))

    assert (first["function"]["name"], second["function"]["name"]) == ("f", "g")
    assert first["id"] != second["id"]
    assert first["id"].startswith("call_")


@pytest.mark.parametrize(
    "deltas",
    [
        [opened(None, "f", '{"x"', index=0), opened(None, "f", ":1}", index=0)],
        [opened("a", "f", '{"x"', index=0), piece(":", index=0, id="b"), piece("1}", index=0, id="c")],
        [opened("a", "f", '{"x"', index=0), piece(":", id="b"), piece("1}", id="")],
    ],
    ids=["a name in each, no id", "another id in each, no name", "another id in each, no name, no index"],
)
def test_a_call_goes_on_although_its_pieces_name_it_badly(deltas: list[JSONObject]) -> None:
    (call,) = calls_of(*deltas)

    assert call["function"] == {"name": "f", "arguments": '{"x":1}'}


def test_without_id_and_index_a_name_opens_a_call() -> None:
    first, second = calls_of(opened(None, "f", "{}"), opened(None, "f", "{"), piece("}"))

    assert first["function"] == second["function"] == {"name": "f", "arguments": "{}"}
    assert first["id"] != second["id"]


def test_a_name_that_comes_after_the_id_is_kept() -> None:
    late = {"tool_calls": [{"index": 0, "id": "a", "type": "function"}]}

    assert calls_of(late, opened("a", "f", "{", index=0), opened("a", "f", "}", index=0)) == [called("a", "f", "{}")]


@pytest.mark.parametrize("ends_in", ["a chunk of its own", "the same chunk", "the end mark"])
def test_a_call_without_arguments_gets_the_empty_object_once(ends_in: str) -> None:
    payloads = {
        "a chunk of its own": [chunk(opened("a", "f", "", index=0)), chunk({}, "tool_calls")],
        "the same chunk": [chunk(opened("a", "f", "", index=0), "tool_calls")],
        "the end mark": [chunk(opened("a", "f", "", index=0))],
    }[ends_in]
    translated = translate(stream(*payloads))

    assert assembled(translated)["choices"][0]["message"]["tool_calls"] == [called("a", "f", "{}")]
    assert official_calls(translated) == [called("a", "f", "{}")]


@pytest.mark.parametrize("reason", ["", None])
def test_no_empty_object_comes_before_the_end(reason: Any) -> None:
    translated = translate(
        stream(chunk(opened("a", "f", "", index=0), reason), chunk(piece("{}", index=0), reason), chunk({}, "stop"))
    )

    assert official_calls(translated) == [called("a", "f", "{}")]


def test_a_finish_reason_that_is_repeated_adds_nothing() -> None:
    ends = [chunk({}, "tool_calls"), chunk({}, "tool_calls")]
    translated = translate(stream(chunk(opened("a", "f", "", index=0)), *ends))

    assert official_calls(translated) == [called("a", "f", "{}")]


def test_only_the_calls_without_arguments_get_the_empty_object() -> None:
    calls = calls_of(opened("a", "f", "", index=0), piece('{"x":1}', index=0), opened("b", "g", "", index=1))

    assert calls == [called("a", "f", '{"x":1}'), called("b", "g", "{}")]


def test_invalid_arguments_pass_as_they_are() -> None:
    assert calls_of(opened("a", "f", '{"broken', index=0)) == [called("a", "f", '{"broken')]


@pytest.mark.parametrize("nothing", [None, [], {}, "x", 7, [None], ["x"]])
def test_tool_calls_that_are_none_leave_no_key(nothing: Any) -> None:
    deltas = deltas_of(chunk({**ROLE, "tool_calls": nothing}), chunk({"content": "a", "tool_calls": nothing}), FINISH)

    assert all("tool_calls" not in delta for delta in deltas)


def test_a_custom_tool_streams_its_input() -> None:
    first = {"index": 4, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}
    parts = [first, {"index": 4, "custom": {"input": "not "}}, {"index": 4, "custom": {"input": "json"}}]
    raw = stream(chunk(ROLE), *(chunk({"tool_calls": [part]}) for part in parts), chunk({}, "stop"))

    (choice,) = assembled(translate(raw))["choices"]

    assert choice["message"]["tool_calls"] == [
        {"id": "a", "type": "custom", "custom": {"name": "f", "input": "not json"}}
    ]
    assert choice["finish_reason"] == "tool_calls"


def test_an_entry_that_says_nothing_new_continues_its_call() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}
    choice = choice_of(chunk({"tool_calls": [first]}), chunk({"tool_calls": [{"index": 0, "id": "a"}]}), FINISH)

    assert choice["message"]["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]


def test_each_choice_numbers_its_own_calls() -> None:
    raw = stream(
        chunk(opened("a", "f", "{}", index=5)),
        chunk(opened("b", "g", "{", index=5), index=1),
        chunk(piece("}", index=5), index=1),
    )

    assert official_calls(translate(raw), 0) == [called("a", "f", "{}")]
    assert official_calls(translate(raw), 1) == [called("b", "g", "{}")]


# Choices


def test_choices_appear_in_order_whoever_speaks_first() -> None:
    raw = stream(
        chunk({"content": "two"}, index=2), chunk({"content": "zero", "role": "assistant"}), chunk({"content": "!"})
    )
    translated = translate(raw)

    assert [choice["message"]["content"] for choice in assembled(translated)["choices"]] == ["zero!", None, "two"]
    assert [choice.message.role for choice in read_officially(translated).choices] == ["assistant"] * 3
    assert sorted(_by_choice(translated.chunks)) == [0, 1, 2]


def test_several_choices_may_share_a_chunk() -> None:
    shared = chunk({"content": "b"}, "stop", index=1)
    shared["choices"] += chunk({"content": "a"}, "stop")["choices"]

    translated = translate(stream(shared, done=False))

    assert translated.finished
    assert [choice["message"]["content"] for choice in assembled(translated)["choices"]] == ["a", "b"]
    assert len(read_officially(translated).choices) == 2


@pytest.mark.parametrize("index", [None, "0", -1, 10**6, 1.0])
def test_a_choice_without_a_usable_index_is_the_first(index: Any) -> None:
    assert choice_of(chunk({"content": "a"}, index=index), FINISH) == said("a")


def test_the_number_of_a_choice_may_be_a_text() -> None:
    pieces = [chunk({"content": each}, index=number) for number, each in (("1", "b"), ("0", "a"), ("1", "B"))]
    ends = [chunk({}, "stop", index="0"), chunk({}, "length", index="1")]

    found = read_answer(stream(*pieces, *ends), OURS, choices=2)["choices"]

    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in found] == [
        (0, "a", "stop"), (1, "bB", "length")
    ]  # fmt: skip


# What is no answer

#: What may have come before an odd event.
BEFORE: dict[str, list[JSONObject | str]] = {
    "nothing": [], "a role": [chunk(ROLE)], "text": [chunk({"content": "a"})],
    "a call": [chunk(opened("a", "f", '{"x"'))],
}  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "no", "code": 503}},
        {"error": "no"},
        {"object": "error", "message": "no"},
        {**chunk({}, "error"), "error": {"message": "no", "code": 502}},
    ],
)
@pytest.mark.parametrize("before", [[], [chunk(ROLE)]])
def test_an_error_inside_a_stream_is_one(payload: JSONObject, before: list[JSONObject | str]) -> None:
    with pytest.raises(ErrorPayload) as caught:
        translate(stream(*before, payload))

    assert caught.value.payload == payload


@pytest.mark.parametrize("nothing", [None, {}, "", False])
def test_an_error_field_that_says_nothing_is_none(nothing: Any) -> None:
    assert choice_of(chunk({"content": "a"}, error=nothing), FINISH) == said("a")


@pytest.mark.parametrize(
    "data",
    ["1", "true", '"x"', "junk", '{"choices":', '{"choices":"x"}', '{"choices":[1]}', '{"x":1}', "[1]", "[{},{}]",
     "[DONE", '{"choices":' + "[" * 100, "\\ud800", "{'choices': []}", '{"choices":[]} x'],
)  # fmt: skip
@pytest.mark.parametrize("before", BEFORE)
def test_an_event_that_cannot_be_read_ends_the_stream(before: str, data: str) -> None:
    with pytest.raises(InvalidAnswer):
        translate(stream(*BEFORE[before], f"data: {data}\n\n"))
