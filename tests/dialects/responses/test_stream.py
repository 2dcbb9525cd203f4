"""Chat streams as streams of events."""

from typing import Any

import pytest

from one_api.dialects.json import JSONObject
from one_api.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    NoDeployment,
    UpstreamExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
)
from tests.dialects import recorded
from tests.support import text_chunks, tokens, tool_chunks

from .bed import CUSTOM, FUNCTION, NAMESPACE, SEALER, asked, events, joined, kinds, last, writer, written

PATCH = '{"input":"*** Begin\\n\\u00e9 \\ud83d\\ude00 \\"x\\"\\n"}'
PATCHED = '*** Begin\né 😀 "x"\n'


def chunk(**delta: Any) -> JSONObject:
    """A chunk with this delta."""
    return recorded.chunk(delta)


def opening(index: int, name: str, arguments: str = "") -> JSONObject:
    """The first entry of a call."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call_{index}", "type": "function", "function": function}


def piece(index: int, arguments: str) -> JSONObject:
    """A further entry of a call."""
    return {"index": index, "function": {"arguments": arguments}}


def test_a_text_comes_in_the_order_of_the_grammar() -> None:
    found = written(asked(), text_chunks("Hel", "lo", usage=tokens(9, 2)))

    assert kinds(found) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [each["sequence_number"] for each in found] == list(range(10))
    assert last(found)["usage"]["total_tokens"] == 11
    assert found[0]["response"]["status"] == "in_progress"
    assert (found[0]["response"]["output"], found[0]["response"]["usage"]) == ([], None)


def test_every_piece_of_a_text_is_the_same_kind_of_event() -> None:
    pieces = ["a", 'quote " and \\', "é 😀\n", " "]
    found = written(asked(), text_chunks(*pieces))

    deltas = [each for each in found if each["type"] == "response.output_text.delta"]

    assert [each.pop("delta") for each in deltas] == pieces
    assert [each.pop("sequence_number") for each in deltas] == [4, 5, 6, 7]
    assert [list(each.items()) for each in deltas] == [list(deltas[0].items())] * 4
    assert deltas[0]["logprobs"] == []


def test_logprobs_go_with_their_piece() -> None:
    plain, measured = text_chunks("a", "b")[1:3]
    logprob = {"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []}
    measured["choices"][0]["logprobs"] = {"content": [logprob], "refusal": None}

    found = written(asked(top_logprobs=1), [plain, measured])

    assert [each["logprobs"] for each in found if each["type"] == "response.output_text.delta"] == [[], [logprob]]
    assert last(found)["output"][0]["content"][0]["logprobs"] == [logprob]


def test_long_parts_of_the_request_are_not_repeated_in_events() -> None:
    found = written(asked(tools=[FUNCTION], instructions="x" * 1000), text_chunks("Hi"))

    assert all((each["response"]["tools"], each["response"]["instructions"]) == ([], None)
               for each in found if "response" in each)  # fmt: skip


def test_a_heartbeat_is_a_whole_event() -> None:
    told = writer(asked())

    early = told.begin() + told.heartbeat() + told.heartbeat()
    found = events(early + told.write(text_chunks("Hi")) + told.heartbeat() + told.end())

    assert kinds(found)[:4] == ["created", "in_progress", "in_progress", "output_item.added"]
    assert kinds(found)[-5:-3] == ["in_progress", "output_text.done"]


def test_reasoning_comes_as_a_summary_if_one_was_asked_for() -> None:
    chunks = [chunk(reasoning_content="2+"), chunk(reasoning_content="2"), *text_chunks("4")]

    found = written(asked(reasoning={"summary": "auto"}), chunks)

    assert kinds(found)[2:9] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done",
        "output_item.done",
    ]  # fmt: skip
    assert last(found)["output"][0]["summary"] == [{"type": "summary_text", "text": "2+2"}]


def test_reasoning_comes_as_it_is_otherwise() -> None:
    found = written(asked(reasoning={"effort": "low"}), [chunk(reasoning_content="2+2"), *text_chunks("4")])

    assert kinds(found)[2:8] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
    ]  # fmt: skip
    assert [each["part"] for each in found[3:7] if "part" in each] == [
        {"type": "reasoning_text", "text": text} for text in ("", "2+2")
    ]


def test_thinking_that_comes_again_is_an_item_at_its_place() -> None:
    chunks = [chunk(reasoning_content="a"), chunk(content="b"), chunk(reasoning_content="c"), chunk(content="d")]

    found = written(asked(), chunks)

    assert [each["type"] for each in last(found)["output"]] == ["reasoning", "message", "reasoning", "message"]


def test_thinking_blocks_are_sealed_where_they_stand() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    chunks = [chunk(reasoning_content="hm"), chunk(thinking_blocks=[{"index": 0, **block}]), *text_chunks("yes")]

    found = written(asked(), chunks, seal=SEALER.seal)

    sealed = next(each["item"]["encrypted_content"] for each in found if each["type"] == "response.output_item.done")
    assert SEALER.open(sealed) == {"model": "m", "blocks": [block]}


def test_thinking_that_is_hidden_is_an_item_only_for_those_who_carry_it() -> None:
    chunks = [chunk(thinking_blocks=[{"index": 0, "type": "redacted_thinking", "data": "x"}]), *text_chunks("yes")]

    carrying, plain = written(asked(), chunks, seal=SEALER.seal), written(asked(), chunks)

    assert [each["type"] for each in last(carrying)["output"]] == ["reasoning", "message"]
    assert [each["type"] for each in last(plain)["output"]] == ["message"]


def test_a_refusal_is_a_part_of_its_own() -> None:
    chunks = [
        chunk(content="Well."),
        chunk(refusal="I "),
        chunk(refusal="won't."),
        recorded.chunk({}, "content_filter"),
    ]

    found = written(asked(), chunks)

    assert joined(found, "refusal") == "I won't."
    (item,) = last(found)["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]
    assert last(found)["status"] == "completed"


def test_two_calls_come_one_after_the_other() -> None:
    found = written(asked(tools=[FUNCTION, NAMESPACE]), tool_chunks(("f", '{"a"', ":1}"), ("agents__spawn", "{}")))

    first, second = last(found)["output"]
    assert (first["name"], first["arguments"], first["call_id"]) == ("f", '{"a":1}', "call_0")
    assert (second["name"], second["namespace"], second["arguments"]) == ("spawn", "agents", "{}")
    done = next(each for each in found if each["type"] == "response.function_call_arguments.done")
    assert (done["name"], done["arguments"]) == ("f", '{"a":1}')


def test_calls_whose_pieces_alternate_stay_whole() -> None:
    chunks = [
        chunk(tool_calls=[opening(0, "f"), opening(1, "f")]),
        chunk(tool_calls=[piece(1, '{"b"')]),
        chunk(tool_calls=[piece(0, '{"a":')]),
        chunk(tool_calls=[piece(1, ":2}")]),
        chunk(tool_calls=[piece(0, "1}")]),
    ]

    found = written(asked(tools=[FUNCTION]), chunks)

    assert [each["arguments"] for each in last(found)["output"]] == ['{"a":1}', '{"b":2}']


def test_the_first_of_two_calls_ends_as_soon_as_the_second_begins() -> None:
    told = writer(asked(tools=[FUNCTION]))
    told.begin()

    first = told.write([chunk(tool_calls=[opening(0, "f")]), chunk(tool_calls=[piece(0, '{"a":1}')])])
    second = told.write([chunk(tool_calls=[opening(1, "f", "{")])])

    assert b"output_item.done" not in first
    assert b"function_call_arguments.delta" in first
    assert second.index(b"output_item.done") < second.index(b"output_item.added")


def test_text_between_the_pieces_of_a_call_waits() -> None:
    chunks = [chunk(tool_calls=[opening(0, "f", '{"a":')]), chunk(content="so"), chunk(tool_calls=[piece(0, "1}")])]

    found = written(asked(tools=[FUNCTION]), chunks)

    assert [each["type"] for each in last(found)["output"]] == ["function_call", "message"]
    assert last(found)["output"][0]["arguments"] == '{"a":1}'


def test_a_name_may_come_in_pieces() -> None:
    more = {"index": 0, "function": {"name": "_patch", "arguments": ""}}

    found = written(asked(tools=[CUSTOM]), [chunk(tool_calls=[opening(0, "apply")]), chunk(tool_calls=[more])])

    added = next(each["item"] for each in found if each["type"] == "response.output_item.added")
    assert (added["name"], added["type"]) == ("apply_patch", "custom_tool_call")


def test_a_call_without_arguments_has_an_object_without_members() -> None:
    found = written(asked(tools=[FUNCTION]), tool_chunks(("f",)))

    assert joined(found, "function_call_arguments") == "{}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_the_input_of_a_custom_tool_is_passed_on_as_text(size: int) -> None:
    pieces = [PATCH[i : i + size] for i in range(0, len(PATCH), size)]

    found = written(asked(tools=[CUSTOM]), tool_chunks(("apply_patch", *pieces)))

    assert joined(found, "custom_tool_call_input") == PATCHED
    done = next(each for each in found if each["type"] == "response.custom_tool_call_input.done")
    assert done["input"] == last(found)["output"][0]["input"] == PATCHED
    assert size > 7 or kinds(found).count("custom_tool_call_input.delta") > 3


def test_a_patch_without_json_is_the_input() -> None:
    found = written(asked(tools=[CUSTOM]), tool_chunks(("apply_patch", "*** Begin", " Patch")))

    assert last(found)["output"][0]["input"] == joined(found, "custom_tool_call_input") == "*** Begin Patch"


def test_a_citation_is_told_before_its_text_ends() -> None:
    citation = {"start_index": 0, "end_index": 1, "url": "https://a.example", "title": "A"}
    chunks = [chunk(content="a"), chunk(annotations=[{"type": "url_citation", "url_citation": citation}])]

    found = written(asked(), chunks)

    assert kinds(found)[5:7] == ["output_text.annotation.added", "output_text.done"]
    assert last(found)["output"][0]["content"][0]["annotations"] == [{"type": "url_citation", **citation}]


def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    found = written(asked(), text_chunks())

    assert last(found)["output"][0]["content"][0]["text"] == ""
    assert "output_text.delta" not in kinds(found)


def test_what_was_cut_is_incomplete() -> None:
    found = written(asked(tools=[FUNCTION]), tool_chunks(("f", '{"a":'), finish="length"))

    assert kinds(found)[-1] == "incomplete"
    assert last(found)["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (last(found)["output"][0]["status"], last(found)["output"][0]["arguments"]) == ("incomplete", '{"a":')


def failed(error: GatewayError) -> list[JSONObject]:
    """The events of a stream that breaks after a call, in the middle of a text."""
    told = writer(asked(tools=[FUNCTION]))
    chunks = [chunk(tool_calls=[opening(0, "f", "{}")]), chunk(content="Hel")]
    return events(told.begin() + told.write(chunks) + told.fail(error))


def test_a_broken_stream_fails_and_closes_nothing() -> None:
    found = failed(UpstreamTruncated("It broke."))

    assert kinds(found)[-2:] == ["output_text.delta", "failed"]
    response = last(found)
    assert (response["status"], response["error"]) == ("failed", {"code": "server_error", "message": "It broke."})
    assert [each["type"] for each in response["output"]] == ["function_call"]
    assert found[-1] == {
        "error": {"message": "It broke.", "type": "server_error", "param": None, "code": "upstream_stream_truncated"}
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamRejected("x", code="context_length_exceeded"), "context_length_exceeded"),
        (UpstreamExhausted("x"), "insufficient_quota"),
        (NoDeployment("x"), "server_is_overloaded"),
        (UpstreamRejected("x", code="content_policy_violation"), "invalid_prompt"),
        (UpstreamTruncated("x"), "server_error"),
        (UpstreamRejected("x", status=400, code="unknown_parameter"), "invalid_prompt"),
        (InvalidRequest("x", status=413), "invalid_prompt"),
    ],
)
def test_failures_have_codes_that_clients_know(error: GatewayError, code: str) -> None:
    assert last(failed(error))["error"] == {"code": code, "message": "x"}


@pytest.mark.parametrize("message", ["Too much", "Too much."])
def test_a_rate_limit_says_when_to_come_back(message: str) -> None:
    found = last(failed(UpstreamRateLimited(message, retry_after_s=6.2)))

    assert found["error"]["code"] == "rate_limit_exceeded"
    assert found["error"]["message"] == "Too much. Please try again in 7s."


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_end_waits_until_the_response_is_kept(is_kept: bool) -> None:
    told = writer(asked(tools=[FUNCTION], instructions="x"), keep=True)

    before = told.write(text_chunks("Hi")) + told.end()
    response = told.to_keep

    assert b"response.completed" not in before
    assert response is not None
    found = events(before + told.last(kept=is_kept))
    assert last(found)["store"] is is_kept
    assert (response["tools"], response["instructions"]) == ([FUNCTION], "x")
    assert response["output"] == last(found)["output"]
    assert told.to_keep is None


def test_a_failed_response_is_kept_before_that_is_told() -> None:
    told = writer(asked(), keep=True)

    before = told.write(text_chunks("Hi", finish=None)) + told.fail(InternalError("no"))

    assert told.to_keep is not None
    assert told.to_keep["status"] == "failed"
    found = events(before + told.last(kept=True))
    assert [each.get("type") for each in found[-2:]] == ["response.failed", None]


RAW = {
    "text": recorded.stream(*text_chunks("Hé", "llo 😀", usage=tokens(9, 2))),
    "calls": recorded.stream(*tool_chunks(("f", '{"a"', ':"é"}'), ("apply_patch", PATCH[:9], PATCH[9:]))),
    "reasoning": recorded.stream(chunk(reasoning_content="hm"), *text_chunks("ja")),
}


@pytest.mark.parametrize("name", RAW)
def test_a_stream_cut_at_any_byte_gives_the_same_events(name: str) -> None:
    request = asked(tools=[FUNCTION, CUSTOM])
    chunks = recorded.translate(RAW[name]).chunks
    in_one, one_by_one = writer(request), writer(request)

    assert all(recorded.translate(RAW[name], [cut]).chunks == chunks for cut in range(1, len(RAW[name])))

    # The same chunks, however many of them come at once.
    assert in_one.begin() + in_one.write(chunks) + in_one.end() == one_by_one.begin() + b"".join(
        [*(one_by_one.write([each]) for each in chunks), one_by_one.end()]
    )
