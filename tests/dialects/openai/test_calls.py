"""Tool calls of servers that tell them apart badly: which piece belongs to which call."""

from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.arguments import ValueScanner
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import InvalidAnswer
from one_api.dialects.sse import Event
from tests.dialects.recorded import OURS, called, chunk, opened, piece, read_answer, stream, translate


def calls_of(*deltas: JSONObject, finish: str = "tool_calls", tools: tuple[str, ...] = ()) -> list[JSONObject]:
    """The calls that a stream of these deltas amounts to."""
    raw = stream(*(chunk(delta) for delta in deltas), chunk({}, finish))
    (choice,) = read_answer(raw, OURS, tools=tools)["choices"]
    calls: list[JSONObject] = choice["message"].get("tool_calls", [])
    return calls


def functions_of(*deltas: JSONObject, tools: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """The names and arguments of the calls; their ids differ."""
    calls = calls_of(*deltas, tools=tools)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def whole_call(call: JSONObject, finish: Any = "tool_calls") -> JSONObject:
    """The only call of a whole answer with that call."""
    body = {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": finish}]}
    (found,) = read_answer(json.encode(body), OURS)["choices"][0]["message"]["tool_calls"]
    result: JSONObject = found
    return result


A, B = ("f", '{"a":1}'), ("g", '{"b":2}')


@pytest.mark.parametrize(
    "deltas",
    [
        [opened(None, *A, index=0), opened(None, *B, index=0)],
        [opened("", *A, index=0), opened("", *B, index=0)],
        [opened("null", *A, index=0), opened("null", *B, index=0)],
        [opened("null", *A, index=0), opened("null", *B, index=1)],
        [opened("x", *A, index=0), opened("x", *B, index=1)],
        [opened(None, *A), opened(None, *B)],
        [opened(None, "f", '{"a"', index=0), piece(":1}", index=0), opened(None, "g", "", index=0),
         piece('{"b":2}', index=0)],
        [opened(None, "f", '{"a"', index=0), piece(":1}", index=0), opened(None, "g", '{"b"'), piece(":2}")],
        [{"tool_calls": [*opened(None, *A, index=0)["tool_calls"], *opened(None, *B, index=0)["tool_calls"]]}],
        [{"tool_calls": [{"name": name, "arguments": arguments} for name, arguments in (A, B)]}],
    ],
    ids=["no ids", "empty ids", "ids null", "ids null, indices", "one id", "nothing", "in pieces", "mixed",
         "one delta", "no function"],
)  # fmt: skip
def test_two_calls_are_two(deltas: list[JSONObject]) -> None:
    assert functions_of(*deltas) == [A, B]


def test_two_calls_of_one_function_are_two() -> None:
    assert functions_of(opened(None, "f", '{"a":1}', index=0), opened(None, "f", '{"a":2}', index=0)) == [
        ("f", '{"a":1}'), ("f", '{"a":2}')
    ]  # fmt: skip


def test_known_tools_tell_calls_without_arguments_apart() -> None:
    deltas = [opened(None, "f", "", index=0), opened(None, "g", "", index=0)]

    assert functions_of(*deltas, tools=("f", "g")) == [("f", "{}"), ("g", "{}")]
    assert functions_of(*deltas, tools=("fg",)) == [("fg", "{}")]


@pytest.mark.parametrize(
    "deltas",
    [
        [opened("a", "get_", index=0), opened("a", "weather", index=0)],
        [opened("a", "get_", index=0), opened(None, "weather", index=0)],
        [opened(None, "get_"), opened(None, "weather")],
        [opened("a", "g", index=0), opened("a", "et_wea", index=0), opened("a", "ther", index=0)],
        [opened("a", "get_weather", index=0), opened("a", "get_weather", index=0)],
        [opened(None, "get_weather", index=0), opened(None, "get_weather", index=0)],
        [opened("a", "get_", index=0), opened("a", "get_weather", index=0)],
        [opened("a", "", index=0), opened("a", "get_weather", index=0)],
    ],
)
def test_a_name_may_come_in_pieces_or_again(deltas: list[JSONObject]) -> None:
    assert functions_of(*deltas, piece('{"a"', index=0), piece(":1}", index=0)) == [("get_weather", '{"a":1}')]


def test_a_name_repeated_after_whole_arguments_opens_nothing() -> None:
    assert functions_of(opened(None, *A, index=0), opened(None, "f", "", index=0)) == [A]


def test_a_piece_whose_id_is_a_word_for_none_continues_its_call() -> None:
    late = {"tool_calls": [{"index": 0, "id": "null", "function": {"name": "", "arguments": ":1}"}}]}

    assert calls_of(opened("a", "f", '{"a"', index=0), late) == [called("a", "f", '{"a":1}')]


def test_what_else_a_call_holds_is_kept() -> None:
    signed: JSONObject = {"extra_content": {"google": {"thought_signature": "s"}}}
    alone = {"tool_calls": [{"index": 0, **signed}]}

    for deltas in ([opened("a", *A, index=0, **signed)], [opened("a", *A, index=0), alone]):
        assert calls_of(*deltas) == [called("a", *A) | signed]


@pytest.mark.parametrize("nothing", ["null", "", None, " null "])
def test_arguments_that_are_none_are_the_empty_object(nothing: Any) -> None:
    assert calls_of(opened("a", "f", nothing, index=0)) == [called("a", "f", "{}")]
    assert whole_call(opened("a", "f", nothing)["tool_calls"][0]) == called("a", "f", "{}")


@pytest.mark.parametrize("twice", ['"{\\"a\\":1}"', {"a": 1}])
def test_arguments_are_encoded_once(twice: Any) -> None:
    assert calls_of(opened("a", "f", twice, index=0)) == [called("a", *A)]
    assert whole_call(opened("a", "f", twice)["tool_calls"][0]) == called("a", *A)


def test_arguments_that_are_a_text_stay_one() -> None:
    assert calls_of(opened("a", "f", '"{hello"', index=0)) == [called("a", "f", '"{hello"')]


@pytest.mark.parametrize("stopped", ["tool_calls", "tool_use"])
def test_no_answer_without_calls_says_that_it_calls(stopped: str) -> None:
    raw = stream(chunk({"content": "a"}), chunk({}, stopped))
    body = json.encode({"choices": [{"message": {"content": "a", "tool_calls": []}, "finish_reason": stopped}]})

    for data in (raw, body):
        (choice,) = read_answer(data, OURS)["choices"]
        assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", stopped)


def tool_entries(*deltas: JSONObject) -> list[list[JSONObject]]:
    """What of each delta's calls is passed on, one list for each event."""
    reader = OpenAIStream(OURS, include_usage=False)
    passed = []
    for delta in deltas:
        chunks = reader.feed(Event(json.encode(chunk(delta))))
        passed.append([entry for each in chunks for entry in each["choices"][0]["delta"].get("tool_calls", ())])
    return passed


def test_a_call_waits_for_its_name() -> None:
    nameless = {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"arguments": '{"a"'}}]}
    other = opened("y", *B, index=1)
    named = {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}

    passed = tool_entries(nameless, other, piece(":1", index=0), named, piece("}", index=0))

    assert passed == [
        [],
        [{"index": 0, "id": "y", "type": "function", "function": {"name": B[0], "arguments": B[1]}}],
        [],
        [{"index": 1, "id": "x", "type": "function", "function": {"arguments": '{"a":1', "name": "f"}}],
        [{"index": 1, "function": {"arguments": "}"}}],
    ]


def test_no_call_without_a_name_is_waited_for_without_end() -> None:
    reader = OpenAIStream(OURS, include_usage=False)
    event = Event(json.encode(chunk(piece("x" * 500_000, index=0))))

    with pytest.raises(InvalidAnswer, match="a tool call has no name"):
        for _ in range(4):
            reader.feed(event)


def test_a_call_that_was_cut_before_its_name_is_none() -> None:
    assert calls_of(piece('{"a"', index=0), finish="length") == []


OLD = {"function_call": {"name": "f", "arguments": '{"a":1}'}}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_in_the_old_form_is_one_of_a_tool_if_there_are_tools(streamed: bool) -> None:
    parts = [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"a":1}'}}]
    body = json.encode({"choices": [{"message": {"content": None, **OLD}, "finish_reason": "function_call"}]})
    data = stream(*map(chunk, parts), chunk({}, "function_call")) if streamed else body

    (choice,) = read_answer(data, OURS, tools=["f"])["choices"]
    (as_was,) = read_answer(data, OURS)["choices"]

    assert [call["function"] for call in choice["message"]["tool_calls"]] == [OLD["function_call"]]
    assert (choice["finish_reason"], "function_call" in choice["message"]) == ("tool_calls", False)
    assert (as_was["finish_reason"], as_was["message"]["function_call"]) == ("function_call", OLD["function_call"])


def whole_message(message: JSONObject, finish: str = "function_call") -> bytes:
    """A whole answer of this message."""
    return json.encode({"choices": [{"message": {"content": None, **message}, "finish_reason": finish}]})


def old(**function: Any) -> JSONObject:
    """A delta with a piece of a call in the deprecated form."""
    return {"function_call": function}


@pytest.mark.parametrize(
    "deltas",
    [
        [old(arguments='{"a"'), old(name="f", arguments=":1}")],
        [old(name="f", arguments='{"a"'), old(name="f", arguments=":1}")],
        [old(name="f"), old(arguments='{"a":1}')],
        [old(name="f", arguments={"a": 1})],
        [old(name="f", arguments=""), old(arguments='{"a"'), old(arguments='{"a":1}')],
        [{"content": None, **old(name="f", arguments='{"a":1}')}, {"function_call": None}],
    ],
    ids=["the name last", "the name in each", "no arguments at first", "an object", "all so far in each", "null"],
)
@pytest.mark.parametrize("finish", ["function_call", "stop", "tool_calls"])
def test_a_call_in_the_old_form_is_told_in_it_piece_by_piece(deltas: list[JSONObject], finish: str) -> None:
    raw = stream(*map(chunk, deltas), chunk({}, finish))
    deltas_told = [choice["delta"] for each in translate(raw).chunks for choice in each["choices"]]
    told = [each["function_call"] for each in deltas_told if each.get("function_call")]
    (choice,) = read_answer(raw, OURS)["choices"]

    assert [piece["name"] for piece in told if "name" in piece] == ["f"]
    assert "name" in told[0]
    assert "".join(piece["arguments"] for piece in told).replace(" ", "") == '{"a":1}'
    assert choice["message"].keys() & {"function_call", "tool_calls"} == {"function_call"}
    assert choice["finish_reason"] == ("stop" if finish == "stop" else "function_call")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_in_the_old_form_without_arguments_has_the_empty_object(streamed: bool) -> None:
    given = old(name="f", arguments="")
    data = stream(chunk(given), chunk({}, "function_call")) if streamed else whole_message(given)

    assert read_answer(data, OURS)["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_in_the_old_form_of_nothing_is_none(streamed: bool) -> None:
    given = old(arguments='{"a":1}')

    with pytest.raises(InvalidAnswer, match="a tool call has no name"):
        read_answer(stream(chunk(given), chunk({}, "function_call")) if streamed else whole_message(given), OURS)


def test_a_call_in_both_forms_is_one() -> None:
    both = {**OLD, **opened("a", *A, index=0)}
    body = json.encode({"choices": [{"message": {"content": None, **both}, "finish_reason": "tool_calls"}]})

    for data in (stream(chunk(both), chunk({}, "tool_calls")), body):
        (choice,) = read_answer(data, OURS)["choices"]
        assert choice["message"]["tool_calls"] == [called("a", *A)]
        assert "function_call" not in choice["message"]


def test_several_objects_in_one_event_are_several() -> None:
    events = [
        json.encode(each).decode() for each in (chunk({"content": "a"}), chunk({"content": "}{"}), chunk({}, "stop"))
    ]

    for glue in ("", " "):
        (choice,) = read_answer(f"data: {glue.join(events)}\n\n".encode(), OURS)["choices"]
        assert choice["message"]["content"] == "a}{"


@pytest.mark.parametrize("prefix", ["data: data: ", "data:data:", "data: data: data: "])
def test_a_prefix_that_is_repeated_is_read(prefix: str) -> None:
    events = [f"{prefix}{json.encode(each).decode()}\n\n" for each in (chunk({"content": "a"}), chunk({}, "stop"))]

    (choice,) = read_answer("".join([*events, f"{prefix}[DONE]\n\n"]).encode(), OURS)["choices"]

    assert choice["message"]["content"] == "a"


LONG = '{"a":{"b":"{\\"x"},"c":[1]}'


@pytest.mark.parametrize(
    "again",
    [
        [LONG],
        [LONG, LONG],
        ['{"c": [1], "a": {"b": "{\\"x"}}'],
        [json.encode([LONG]).decode()[1:-1]],
        ["{}"],
        [" "],
    ],
    ids=["the same", "twice", "written anew", "as a text", "an empty object", "a blank"],
)
def test_arguments_that_come_again_count_once(again: list[str]) -> None:
    for cut in range(1, len(LONG)):
        pieces = [opened("a", "f", "", index=0), piece(LONG[:cut], index=0), piece(LONG[cut:], index=0)]
        (call,) = calls_of(*pieces, *(piece(each, index=0) for each in again))

        assert json.decode(call["function"]["arguments"].encode()) == json.decode(LONG.encode())


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_pieces_that_hold_all_that_came_before_add_what_is_new(step: int) -> None:
    ends = [*range(1, len(LONG), step), len(LONG), len(LONG)]

    assert calls_of(*(opened("a", "f", LONG[:end], index=0) for end in ends)) == [called("a", "f", LONG)]
    assert calls_of(opened("a", "f", "", index=0), *(piece(LONG[:end], index=0) for end in ends)) == [
        called("a", "f", LONG)
    ]


@pytest.mark.parametrize("text", ['{"a":{"a":{"a":1}}}', '{"[":["[["]}', '{"{\\"":"{\\"{\\""}', '{"a":"{}{}"}'])
def test_pieces_that_look_like_what_came_before_are_pieces(text: str) -> None:
    for cut in range(1, len(text)):
        for end in range(cut + 1, len(text) + 1):
            pieces = [text[:cut], text[cut:end], text[end:]]
            found = calls_of(opened("a", "f", "", index=0), *(piece(each, index=0) for each in pieces))
            assert found == [called("a", "f", text)], pieces


def test_what_else_follows_whole_arguments_is_passed_on() -> None:
    assert functions_of(opened("a", *A, index=0), piece("}", index=0)) == [("f", '{"a":1}}')]


def test_a_call_that_opens_with_an_empty_object_may_have_arguments_all_the_same() -> None:
    assert functions_of(opened("a", "f", "{}", index=0), piece('{"a"', index=0), piece(":1}", index=0)) == [A]
    assert functions_of(opened("a", "f", "{}", index=0), opened("b", "g", "{}", index=1)) == [("f", "{}"), ("g", "{}")]
    assert functions_of(opened(None, "f", "{}", index=0), opened(None, "f", "{}", index=0)) == [
        ("f", "{}"), ("f", "{}")
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ['{"a":1}{"a":1}', '{}{"a":1}', '{"a":1}{}', '{"a":1}\n{"a": 1}'])
def test_whole_arguments_that_are_there_several_times_count_once(arguments: str) -> None:
    assert whole_call(opened("a", "f", arguments)["tool_calls"][0]) == called("a", *A)
    assert calls_of(opened("a", "f", arguments, index=0)) == [called("a", *A)]


def test_several_objects_that_differ_are_passed_on_as_they_came() -> None:
    assert whole_call(opened("a", "f", '{"a":1}{"a":2}')["tool_calls"][0]) == called("a", "f", '{"a":1}{"a":2}')


@pytest.mark.parametrize("numbers", [("0", "1"), ("3", "7"), (2, "5")])
def test_a_number_may_be_written_in_another_way(numbers: tuple[Any, Any]) -> None:
    one, two = numbers
    both = {"tool_calls": [*opened("a", "f", index=one)["tool_calls"], *opened("b", "g", index=two)["tool_calls"]]}

    deltas = [both, piece('{"b":', index=two), piece('{"a":1}', index=one), piece("2}", index=two)]

    assert calls_of(*deltas) == [called("a", *A), called("b", *B)]


def test_an_id_for_each_piece_makes_no_calls() -> None:
    pieces = ("", '{"a"', ":1}")
    named = [opened(f"x{number}", "f", text, index=0) for number, text in enumerate(pieces)]

    assert calls_of(*named) == [called("x0", *A)]


@pytest.mark.parametrize("name", ["parameters", "input", "args"])
@pytest.mark.parametrize("value", [{"a": 1}, '{"a":1}'])
def test_arguments_may_have_another_name(name: str, value: Any) -> None:
    for entry in ({"id": "a", "function": {"name": "f", name: value}}, {"id": "a", "name": "f", name: value}):
        assert whole_call(dict(entry)) == called("a", *A)
        assert calls_of({"tool_calls": [{"index": 0, **entry}]}) == [called("a", *A)]


def test_a_custom_call_without_an_object_of_its_own_gets_one() -> None:
    assert whole_call({"id": "a", "type": "custom", "name": "sh", "input": "ls"}) == {
        "id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls"}
    }  # fmt: skip


@pytest.mark.parametrize("text", ['{"a":"}"}', '{"a":"\\"}"}', '[{"b":[]}]', ' {"a":{"b":1}} '])
def test_a_scanner_knows_where_a_value_ends_wherever_it_is_cut(text: str) -> None:
    for cut in range(len(text)):
        scanner = ValueScanner()
        scanner.add(text[:cut])
        assert scanner.is_whole == (cut >= len(text.rstrip())), cut
        scanner.add(text[cut:])
        assert scanner.is_whole
