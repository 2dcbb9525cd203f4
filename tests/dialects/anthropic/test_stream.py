"""Anthropic's streams, whole and in Anthropic's grammar, cut at every byte and compared by the assembled answer."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.anthropic.response import ResponseOptions
from one_api.dialects.anthropic.stream import ClaudeStream
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import Identity
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer, UnfitAnswer
from one_api.dialects.sse import EventReader
from tests.dialects.recorded import every_cut
from tests.support import (
    claude_bytes,
    claude_error_body,
    claude_events,
    redacted_block,
    text_block,
    thinking_block,
    tool_block,
)

OURS = Identity("chatcmpl-ours", 1_700_000_000, "asked-for")
#: So many bytes hold several events.
SEVERAL = 300


@dataclass
class Told:
    """What a translator made of a stream."""

    stream: ClaudeStream
    chunks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def completion(self) -> dict[str, Any]:
        """The whole answer."""
        assembler = Assembler()
        for chunk in self.chunks:
            assembler.add(chunk)
        return assembler.completion()

    @property
    def message(self) -> dict[str, Any]:
        """Its message."""
        found: dict[str, Any] = self.completion["choices"][0]["message"]
        return found

    @property
    def reason(self) -> str:
        """Its finish reason."""
        return str(self.completion["choices"][0]["finish_reason"])

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """The deltas, empty ones left out."""
        return [each["delta"] for chunk in self.chunks for each in chunk["choices"] if each["delta"]]


def tell(raw: bytes, options: ResponseOptions | None = None, cuts: Iterable[int] = (), *, usage: bool = True) -> Told:
    """Read a stream that arrives in the pieces between `cuts`, as the adapter does."""
    told, events = Told(ClaudeStream(OURS, options, include_usage=usage)), EventReader()
    inner = sorted(cuts)
    for start, end in zip([0, *inner], [*inner, len(raw)], strict=True):
        for event in events.feed(raw[start:end]):
            told.chunks += told.stream.feed(event)
    for event in events.end():
        told.chunks += told.stream.feed(event)
    told.chunks += told.stream.end()
    return told


def of(*blocks: Any, options: ResponseOptions | None = None, **message: Any) -> Told:
    """Tell a message of these blocks."""
    return tell(claude_bytes(*claude_events(*blocks, **message)), options)


def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of the completion."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CITATION = {"type": "web_search_result_location", "url": "https://a.example/", "title": "A", "cited_text": "sky"}
SERVER_TOOL = tool_block("srvtoolu_1", "web_search", '{"query":"sky"}', kind="server_tool_use")
WHOLE = {
    "text": (claude_events(text_block("Grüß ", "Gott 😀")), None),
    "thinking, text and two tools": (
        claude_events(
            thinking_block("Hm", "m."),
            redacted_block(),
            text_block("Let me see."),
            tool_block("toolu_a", "weather", '{"city"', ':"Köln"}'),
            tool_block("toolu_b", "time"),
            stop="tool_use",
        ),
        None,
    ),
    "citations and a server's tool": (
        claude_events(SERVER_TOOL, text_block("The sky ", "is blue", citations=[CITATION]), text_block(".")),
        None,
    ),
    "a blank stop string": (claude_events(text_block("one\n", "\ntwo")), ResponseOptions(stops=("\n\n",))),
    "fenced JSON": (
        claude_events(text_block("```js", 'on\n{"a"', ":1}\n", "```\n")),
        ResponseOptions(unfence=True, json_object=True),
    ),
    "the content is a tool's input": (
        claude_events(tool_block("toolu_a", "answer", '{"a"', ":1}"), stop="tool_use"),
        ResponseOptions(json_tool="answer"),
    ),
    "a call's arguments are the text": (claude_events(text_block('{"a"', ":1}")), ResponseOptions(forced_tool="f.g")),
    "a custom tool": (
        claude_events(tool_block("toolu_a", "up", '{"input":"x = ', '1"}'), stop="tool_use"),
        ResponseOptions(names={"up": "a.b"}, custom_tools=frozenset({"a.b"})),
    ),
    "the deprecated form": (
        claude_events(text_block("So"), tool_block("toolu_a", "f", '{"a":1}'), stop="tool_use"),
        ResponseOptions(legacy_functions=True),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_where_a_stream_is_cut_changes_nothing(name: str) -> None:
    events, options = WHOLE[name]
    raw = claude_bytes(*events)
    whole = tell(raw, options)

    assert whole.stream.finished
    for cuts in every_cut(len(raw), SEVERAL):
        told = tell(raw, options, cuts)
        assert told.completion == whole.completion, cuts
        assert told.stream.blocks == whole.stream.blocks


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_stops_early_is_never_finished(name: str) -> None:
    events, options = WHOLE[name]
    ends = len(claude_bytes(*events[:-2]))

    for cut in range(0, ends, 7):
        if options is None or not options.stops:
            assert not tell(claude_bytes(*events)[:cut], options).stream.finished


def test_a_text() -> None:
    told = of(text_block("Hel", "lo"), usage={"input_tokens": 5, "output_tokens": 1, "service_tier": "standard"})

    assert told.deltas == [{"role": "assistant", "content": "", "refusal": None}, {"content": "Hel"}, {"content": "lo"}]
    head = {"id": "chatcmpl-01", "created": OURS.created, "model": "claude-opus-5", "service_tier": "default"}
    assert all(chunk.items() >= head.items() for chunk in told.chunks)
    assert [chunk["usage"] for chunk in told.chunks[:-1]] == [None] * 4
    assert told.chunks[-1]["choices"] == []
    choice = told.completion["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"], choice["logprobs"]) == ("stop", "end_turn", None)


def test_usage_is_told_only_when_asked_for() -> None:
    told = tell(claude_bytes(*claude_events(text_block("Hi"))), usage=False)

    assert all("usage" not in chunk for chunk in told.chunks)
    assert told.stream.usage is not None


def test_tool_calls_are_numbered_densely_and_an_empty_input_is_an_object() -> None:
    told = of(
        thinking_block("Hm"),
        text_block("So"),
        tool_block("toolu_a", "f", '{"a"', ":1}"),
        tool_block("toolu_b", "g"),
        stop="tool_use",
    )

    entries = [entry for delta in told.deltas for entry in delta.get("tool_calls", ())]
    assert [entry["index"] for entry in entries] == [0, 0, 0, 1, 1]
    assert entries[-1] == {"index": 1, "function": {"arguments": "{}"}}
    assert told.message["tool_calls"] == [call("toolu_a", "f", '{"a":1}'), call("toolu_b", "g", "{}")]
    assert told.reason == "tool_calls"


def test_an_answer_that_begins_with_a_call_has_no_content() -> None:
    told = of(tool_block("toolu_a", "f"), stop="tool_use")

    assert told.deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    assert told.message["content"] is None


def test_an_input_that_came_at_the_start_is_not_lost() -> None:
    start = {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {"a": 1}}

    assert of((start, []), stop="tool_use").message["tool_calls"] == [call("toolu_a", "f", '{"a":1}')]


def test_thinking_is_told_as_text_and_as_blocks() -> None:
    told = of(thinking_block("Hm", "m.", signature="s1"), redacted_block("xx"), text_block("Hi"))

    assert told.message["reasoning_content"] == "Hmm."
    blocks = [
        {"index": 0, "type": "thinking", "thinking": "Hmm.", "signature": "s1"},
        {"index": 1, "type": "redacted_thinking", "data": "xx"},
    ]
    assert told.message["thinking_blocks"] == blocks
    assert [delta["thinking_blocks"] for delta in told.deltas if "thinking_blocks" in delta] == [[b] for b in blocks]


def test_of_two_signatures_the_last_counts() -> None:
    start, deltas = thinking_block("Hm", signature="first")
    told = of((start, [*deltas, {"type": "signature_delta", "signature": "last"}]))

    assert told.message["thinking_blocks"][0]["signature"] == "last"


def test_the_blocks_are_kept_as_they_were() -> None:
    told = of(thinking_block("Hm"), text_block("So", "."), text_block(), tool_block("t", "f", '{"a":1}'), SERVER_TOOL)

    assert told.stream.blocks == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig=="},
        {"type": "text", "text": "So."},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}},
    ]
    assert told.stream.calls == (("t", "f", '{"a":1}'),)
    assert told.stream.text == "So."


def test_counts_replace_each_other_and_cached_tokens_are_added() -> None:
    told = of(
        text_block("Hi"),
        usage={
            "input_tokens": 5,
            "output_tokens": 1,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 300,
        },
        end_usage={
            "input_tokens": None,
            "output_tokens": 9,
            "cache_read_input_tokens": None,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    )

    assert told.completion["usage"] == told.stream.usage
    assert told.stream.usage == {
        "prompt_tokens": 325,
        "completion_tokens": 9,
        "total_tokens": 334,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 300},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "length"),
        ("something_new", "stop"),
    ],
)
def test_the_finish_reasons(stop: str, reason: str) -> None:
    assert of(text_block("Hi"), stop=stop).reason == reason


def test_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I cannot."}
    told = of(text_block("Well"), stop="refusal", stop_details=details)

    assert (told.reason, told.message["content"], told.message["refusal"]) == ("content_filter", "Well", "I cannot.")


def test_an_empty_answer_is_an_empty_text() -> None:
    assert of().message == {"role": "assistant", "content": "", "refusal": None}


def test_citations_of_the_web_become_annotations_and_others_stay() -> None:
    other = {"type": "page_location", "cited_text": "x", "document_index": 0}
    told = of(text_block("The sky "), text_block("is blue", citations=[CITATION, other]), text_block("."))

    cited = {"start_index": 8, "end_index": 15, "url": "https://a.example/", "title": "A"}
    assert told.message["annotations"] == [{"type": "url_citation", "url_citation": cited}]
    assert told.message["citations"] == [other]
    assert told.message["content"] == "The sky is blue."


# What the request asked for


@pytest.mark.parametrize("text", ["one\n\ntwo", "one\n", "\n", "a\n\n", "aab"])
def test_an_emulated_stop_string(text: str) -> None:
    told = of(text_block(*text), options=ResponseOptions(stops=("\n\n", "aab")))

    expected = min((text.split(stop)[0] for stop in ("\n\n", "aab")), key=len)
    assert told.message["content"] == expected
    cut = expected != text
    assert bool(told.completion["usage"].get("estimated")) is cut
    assert told.completion["choices"][0]["native_finish_reason"] == ("stop_sequence" if cut else "end_turn")
    assert told.reason == "stop"


def test_what_follows_an_emulated_stop_string_is_not_read() -> None:
    events = claude_events(text_block("a\n\nb"))
    told = tell(claude_bytes(*events[:4]), ResponseOptions(stops=("\n\n",)))

    assert told.stream.finished
    assert told.stream.blocks is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```\n', '{"a": 1}'),
        (' {"a": "```"}', ' {"a": "```"}'),
        ('```json\n{"a": 1}', '```json\n{"a": 1}'),
        ('```json\n{}\n``` There.', '```json\n{}\n``` There.'),
        ("``", "``"),
        ("", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_fence_around_the_whole_answer_goes(text: str, expected: str, size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    assert of(text_block(*pieces), options=ResponseOptions(unfence=True)).message["content"] == expected


JSON = ResponseOptions(unfence=True, json_object=True)


@pytest.mark.parametrize("said", [' {"a": 1}\n', "```\n{}\n```", '{"a":' * 300 + "1" + "}" * 300])
def test_a_json_object_that_was_asked_for(said: str) -> None:
    assert of(text_block(said), options=JSON).reason == "stop"


@pytest.mark.parametrize("said", ["", "Sure: {}", "{} {}", '{"a":', "[1]", "```json\n{\n```", '{"a": NaN}'])
def test_an_answer_that_is_not_the_json_object_asked_for_is_unfit(said: str) -> None:
    with pytest.raises(UnfitAnswer):
        of(text_block(said), options=JSON)


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "stop_sequence", "model_context_window_exceeded"])
def test_an_answer_that_was_stopped_need_not_be_json(stop: str) -> None:
    assert of(text_block('{"a":'), stop=stop, options=JSON).message["content"] == '{"a":'


def test_an_answer_that_calls_a_tool_need_not_be_json() -> None:
    assert of(text_block("See:"), tool_block("t", "f"), stop="tool_use", options=JSON).reason == "tool_calls"


def test_a_tool_whose_input_is_the_content() -> None:
    told = of(
        text_block("Here:"),
        tool_block("t", "out", '{"a"', ":1}"),
        stop="tool_use",
        options=ResponseOptions(json_tool="out"),
    )

    assert told.message == {"role": "assistant", "content": '{"a":1}', "refusal": None}
    assert told.reason == "stop"


def test_a_text_instead_of_the_tool_is_the_content() -> None:
    assert of(text_block("No."), options=ResponseOptions(json_tool="out")).message["content"] == "No."


def test_a_real_call_beside_the_tool_for_the_content() -> None:
    told = of(text_block("So"), tool_block("t", "f", "{}"), stop="tool_use", options=ResponseOptions(json_tool="out"))

    assert (told.message["content"], told.message["tool_calls"]) == ("So", [call("t", "f", "{}")])


def test_a_text_that_is_a_calls_arguments() -> None:
    told = of(text_block('{"a"', ":1}"), options=ResponseOptions(forced_tool="f.g"))

    (made,) = told.message["tool_calls"]
    assert made["function"] == {"name": "f.g", "arguments": '{"a":1}'}
    assert (told.message["content"], told.reason) == (None, "tool_calls")


def test_names_are_the_clients_own() -> None:
    told = of(tool_block("t", "a_b_1234", "{}"), stop="tool_use", options=ResponseOptions(names={"a_b_1234": "a.b"}))

    assert told.message["tool_calls"][0]["function"]["name"] == "a.b"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (('{"inp', 'ut":"x"}'), "x"),
        (('{"input":"x',), '{"input":"x'),
        (('{"patch":"x"}',), "x"),
        ((), ""),
        (("{}",), ""),
    ],
)
def test_a_custom_call(pieces: tuple[str, ...], expected: str) -> None:
    told = of(tool_block("t", "f", *pieces), stop="tool_use", options=ResponseOptions(custom_tools=frozenset({"f"})))

    assert told.message["tool_calls"] == [{"id": "t", "type": "custom", "custom": {"name": "f", "input": expected}}]


def test_the_deprecated_form_of_a_call() -> None:
    told = of(tool_block("t", "f", '{"a":1}'), stop="tool_use", options=ResponseOptions(legacy_functions=True))

    assert told.message["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert "tool_calls" not in told.message
    assert told.reason == "function_call"


def test_blocks_of_the_providers_own_tools() -> None:
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "https://a.example/"}]}
    blocks: tuple[Any, ...] = (SERVER_TOOL, (found, []), text_block("Blue."), tool_block("toolu_a", "f"))
    call_of_search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}}

    told = of(*blocks, stop="tool_use", options=ResponseOptions(provider_blocks=True))

    assert told.message["provider_specific"] == {"content": [call_of_search, found]}
    assert [entry["id"] for entry in told.message["tool_calls"]] == ["toolu_a"]
    assert sum("provider_specific" in delta for delta in told.deltas) == 1
    assert "provider_specific" not in of(*blocks, stop="tool_use").message
    assert "provider_specific" not in of(text_block("Hi"), options=ResponseOptions(provider_blocks=True)).message


# Odd streams


def test_what_is_unknown_is_ignored() -> None:
    events = claude_events(text_block("Hi"))
    odd = {"type": "content_block_delta", "index": 0, "delta": {"type": "future_delta", "x": 1}}
    events[3:3] = [{"type": "future_event", "error": None}, odd]

    assert tell(claude_bytes(*events)).message["content"] == "Hi"


def test_a_stop_reason_that_is_new_to_us_is_a_stop_also_after_calls() -> None:
    told = of(tool_block("toolu_a", "f", '{"a":1}'), stop="compaction")

    assert (told.reason, told.stream.finished) == ("stop", True)
    assert told.message["tool_calls"] == [call("toolu_a", "f", '{"a":1}')]


def test_a_stream_that_ends_after_its_stop_reason_is_whole() -> None:
    told = tell(claude_bytes(*claude_events(tool_block("t", "f"), stop="tool_use")[:-1]))

    assert told.stream.finished
    assert told.reason == "tool_calls"


def test_llama_cpps_stream() -> None:
    """Its ids are its own, its calls start without an input, and its last usage has only output tokens."""
    start = {"type": "tool_use", "id": "sVnf5T", "name": "weather"}
    deltas = [{"type": "input_json_delta", "partial_json": '{"city":"Paris"}'}]
    told = of((start, deltas), stop="tool_use", message_id="chatcmpl-x1", usage={"input_tokens": 31})

    assert told.completion["id"] == "chatcmpl-x1"
    assert told.message["tool_calls"] == [call("sVnf5T", "weather", '{"city":"Paris"}')]
    assert told.stream.blocks == [start | {"input": {"city": "Paris"}}]


@pytest.mark.parametrize("before", [0, 2, 4])
def test_an_error_is_raised_wherever_it_comes(before: int) -> None:
    events = claude_events(text_block("Hi"))[:before]

    with pytest.raises(ErrorPayload) as caught:
        tell(claude_bytes(*events, claude_error_body("overloaded_error")))
    assert caught.value.payload["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    "event",
    [
        b"nonsense",
        b"7",
        b'{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":null}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}',
        b'{"type":"message_stop"}',
        b"[DONE]",
    ],
)
def test_what_is_no_event_of_a_message_is_refused(event: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        tell(b"data: " + event + b"\n\n")


def test_a_paused_message_is_continued() -> None:
    stream, reader = ClaudeStream(OURS, include_usage=True, resumes=1), EventReader()
    first = claude_events(text_block("One "), SERVER_TOOL, stop="pause_turn", end_usage={"output_tokens": 3})
    told = Told(stream)
    for event in reader.feed(claude_bytes(*first)):
        told.chunks += stream.feed(event)
    assert (stream.finished, stream.paused) == (True, True)
    assert stream.blocks is not None
    assert [block["type"] for block in stream.blocks] == ["text", "server_tool_use"]

    stream.resume()
    for event in reader.feed(claude_bytes(*claude_events(text_block("two."), message_id="msg_02"))):
        told.chunks += stream.feed(event)

    assert stream.finished
    assert not stream.paused
    assert told.message["content"] == "One two."
    assert (told.reason, told.completion["id"]) == ("stop", "chatcmpl-01")
    usage = told.completion["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (18, 5)
    assert [delta for delta in told.deltas if "role" in delta] == told.deltas[:1]


# A property


def test_any_answer_is_told_as_the_blocks_say() -> None:
    """The whole answer, cut and pieced anyhow, says what the blocks say: text, reasoning and calls, in order."""
    rng = random.Random(4)
    letters = 'ab {}"\\\n😀é'
    for _ in range(300):
        blocks, texts, thoughts, calls = [], "", "", []
        for number in range(rng.randrange(5)):
            pieces = ["".join(rng.choices(letters, k=rng.randrange(6))) for _ in range(rng.randrange(4))]
            match rng.randrange(3):
                case 0:
                    blocks.append(text_block(*pieces))
                    texts += "".join(pieces)
                case 1:
                    blocks.append(thinking_block(*pieces))
                    thoughts += "".join(pieces)
                case _:
                    blocks.append(tool_block(f"t{number}", "f", '{"a":', f"{number}}}"))
                    calls.append(call(f"t{number}", "f", f'{{"a":{number}}}'))
        raw = claude_bytes(*claude_events(*blocks, stop="tool_use" if calls else "end_turn"))
        told = tell(raw, None, rng.sample(range(len(raw)), k=rng.randrange(8)))

        assert told.stream.finished
        assert told.message["content"] == (texts or (None if calls else ""))
        assert told.message.get("reasoning_content", "") == thoughts
        assert told.message.get("tool_calls", []) == calls
        assert told.reason == ("tool_calls" if calls else "stop")


def test_a_stream_of_nonsense_is_refused_and_nothing_else() -> None:
    """Whatever stands in the fields of an event, it is read, or refused as no answer."""
    rng = random.Random(7)
    odd: list[Any] = [None, True, -1, 10**30, 1.5, "", "x", [], [1], {}, {"type": "text"}, {"type": []}, [None], "text"]

    def spoil(value: Any) -> Any:
        if rng.random() < 0.04:
            return rng.choice(odd)
        if isinstance(value, dict):
            return {key: spoil(child) for key, child in value.items() if rng.random() > 0.02}
        return value

    for _ in range(1500):
        events, options = WHOLE[rng.choice(list(WHOLE))]
        raw = b"".join(b"data: " + json.encode(spoil(event)) + b"\n\n" for event in events)
        try:
            told = tell(raw, options)
        except (ErrorPayload, InvalidAnswer):
            continue
        if told.stream.finished:
            json.encode(told.completion)
