"""Whatever a client says, Anthropic's own rules hold, and the same conversation is the same bytes."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.dialects import json
from one_api.dialects.anthropic.models import traits_of
from one_api.dialects.anthropic.request import RequestOptions, Translated, translate
from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest
from tests.dialects.anthropic.samples import assistant, call, faults, function, result, system, text, user
from tests.support.examples import examples

MODELS = st.sampled_from([
    "claude-3-5-haiku-20241022", "claude-sonnet-4", "claude-haiku-4-5", "claude-opus-4-6", "claude-opus-4-8",
    "claude-sonnet-5", "claude-opus-5", "claude-opus-5-5", "claude-unknown",
])  # fmt: skip
SAID = st.sampled_from(["", " ", "\n", "a", "Sure: ", "ä😀", "{"])
MARK = st.sampled_from([{}, {}, {}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}])
NAMES = st.sampled_from(["f", "g", "a.b", "a/b", "ä", "x" * 200, "json_answer"])
IDS = st.sampled_from(["a", "a_2", "b", "call:1/ä", ":", "toolu_1", ""])
ARGUMENTS = st.sampled_from(["{}", "", '{"x":[1,1.0]}', "oops", "[]", "null"])
PNG = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,iVBORw0KGgo="}}


@st.composite
def parts(draw: st.DrawFn, *, images: bool = False) -> Any:
    """Content: a string or parts."""
    if draw(st.booleans()):
        return draw(SAID)
    found = [text(draw(SAID), **draw(MARK)) for _ in range(draw(st.integers(0, 3)))]
    return [*found, PNG] if images and draw(st.booleans()) else found


@st.composite
def user_runs(draw: st.DrawFn) -> list[JSONObject]:
    """What a client adds before the next answer; at least one message has text."""
    found: list[JSONObject] = []
    for _ in range(draw(st.integers(0, 3))):
        role = draw(st.sampled_from(["user", "user", "system", "developer"]))
        found.append({"role": role, "content": draw(parts(images=role == "user")), **draw(MARK)})
    found.insert(draw(st.integers(0, len(found))), user("Go"))
    return found


@st.composite
def answers(draw: st.DrawFn) -> list[JSONObject]:
    """An assistant's turn: text, or calls with all their results in some order."""
    calls = [call(draw(IDS), draw(NAMES), draw(ARGUMENTS)) for _ in range(draw(st.integers(0, 3)))]
    thinking = [{"index": 0, "type": "thinking", "thinking": "", "signature": "s"}] * draw(st.integers(0, 1))
    first = assistant(draw(parts()), *calls, thinking_blocks=thinking, **draw(MARK))
    results = [
        result(each["id"], draw(parts(images=True)), is_error=draw(st.booleans()), **draw(MARK)) for each in calls
    ]
    return [first, *draw(st.permutations(results))]


@st.composite
def turns_of(draw: st.DrawFn, most: int = 4) -> list[JSONObject]:
    """Some turns of a conversation, the user's last."""
    found: list[JSONObject] = []
    for _ in range(draw(st.integers(0, most))):
        found += draw(answers())
        if draw(st.booleans()):
            found += draw(user_runs())
    return found + draw(answers()) + draw(user_runs()) if draw(st.booleans()) else found + draw(user_runs())


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(
            st.builds(
                function,
                NAMES,
                st.sampled_from([None, {}, OBJECT, {"anyOf": [OBJECT]}, OBJECT | {"additionalProperties": False}]),
                strict=st.booleans(),
            ),
            unique_by=lambda tool: tool["function"]["name"],
            max_size=4,
        ),
        "parallel_tool_calls": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "xhigh", "max"]),
        "temperature": st.sampled_from([0, 0.5, 1, 1.5]),
        "top_p": st.sampled_from([0.5, 1]),
        "max_tokens": st.sampled_from([1, 1025, 5000]),
        "stop": st.lists(SAID, max_size=4),
        "user": st.text(),
        "response_format": st.sampled_from([
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        ]),
        "unknown": st.integers(),
    },
)  # fmt: skip
FORCED = st.sampled_from([None, "none", "auto", "required"])
OPTIONS = st.builds(RequestOptions, show_reasoning=st.booleans(), long_cache=st.booleans())


@st.composite
def requests(draw: st.DrawFn) -> JSONObject:
    """A request that ends with a user's text, as nearly all do."""
    leading = [system(draw(parts()), **draw(MARK)) for _ in range(draw(st.integers(0, 2)))]
    body = {"model": draw(MODELS), "messages": leading + draw(user_runs()) + draw(turns_of()), **draw(FIELDS)}
    choice = draw(FORCED)
    if body.get("tools") and choice:
        body["tool_choice"] = choice
    return body


def translation(body: JSONObject, options: RequestOptions) -> Translated:
    return translate(body, traits_of(body["model"]), options)


def without_marks(value: Any) -> Any:
    """Marks for the cache are no part of what is cached."""
    if isinstance(value, list):
        return [without_marks(each) for each in value]
    if isinstance(value, dict):
        return {key: without_marks(each) for key, each in value.items() if key != "cache_control"}
    return value


@settings(max_examples=examples(400))
@given(requests(), OPTIONS)
def test_what_is_sent_is_always_valid(body: JSONObject, options: RequestOptions) -> None:
    traits = traits_of(body["model"])

    made = translation(body, options)

    assert faults(made.body, mid_system=traits.mid_system, prefill=traits.prefill) == []
    choice = made.body.get("tool_choice", {}).get("type")
    assert traits.forced_tool or choice not in ("any", "tool")
    thinking = made.body.get("thinking", {})
    assert not thinking or thinking["type"] in traits.thinking
    if thinking.get("type") == "enabled":
        assert choice not in ("any", "tool") and 1024 <= thinking["budget_tokens"] < made.body["max_tokens"]
    assert all(stop.strip() for stop in made.body.get("stop_sequences", ()))
    assert made.body.get("output_config", {}).get("effort") in (None, *traits.effort)


@settings(max_examples=examples(200))
@given(requests(), OPTIONS)
def test_the_same_request_is_the_same_bytes_and_stays_as_it_was(body: JSONObject, options: RequestOptions) -> None:
    before = copy.deepcopy(body)

    one, other = translation(body, options), translation(copy.deepcopy(body), options)

    assert json.encode(one.body) == json.encode(other.body)
    assert one == other
    assert json.encode(body) == json.encode(before)


@settings(max_examples=examples(300))
@given(requests(), answers(), user_runs(), OPTIONS)
def test_a_longer_conversation_extends_the_shorter(
    body: JSONObject, answer: list[JSONObject], after: list[JSONObject], options: RequestOptions
) -> None:
    longer = body | {"messages": [*body["messages"], *answer, *after]}

    short, long = (without_marks(translation(each, options).body) for each in (body, longer))

    assert long.get("system") == short.get("system")
    assert long["messages"][: len(short["messages"])] == short["messages"] or not _speaks(answer)
    if body.get("tools"):
        assert long["tools"] == short["tools"]
    assert {key: value for key, value in long.items() if key not in ("messages", "tools", "tool_choice")} == {
        key: value for key, value in short.items() if key not in ("messages", "tools", "tool_choice")
    }


def _speaks(answer: list[JSONObject]) -> bool:
    """Say whether anything of an answer is sent; if not, the user's turns around it are one."""
    content = answer[0]["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return any(said.strip() for said in texts) or len(answer) > 1 or bool(answer[0]["thinking_blocks"])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | SAID | st.sampled_from(["text", "f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "text", "function", "name", "id", "json_schema", "schema", "$ref", "allOf"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from([
    "max_tokens", "temperature", "top_p", "top_k", "stop", "n", "tools", "tool_choice", "functions", "function_call",
    "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "user", "service_tier", "logit_bias",
    "modalities", "moderation", "store", "seed", "messages", "verbosity",
])  # fmt: skip


@settings(max_examples=examples(500))
@given(st.dictionaries(KEYS, ANYTHING, max_size=4), MODELS, st.booleans())
def test_nonsense_is_refused_by_name_and_never_fails(fields: JSONObject, model: str, strict: bool) -> None:
    body = {"model": model, "messages": [user("Hi")], **fields}

    try:
        translation(body, RequestOptions(strict=strict))
    except InvalidRequest as error:
        assert error.param and error.message


@settings(max_examples=examples(300))
@given(st.lists(st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "function_call", "tool_call_id", "name", "thinking_blocks",
                     "cache_control", "refusal", "is_error"]),
    ANYTHING | st.sampled_from(["user", "assistant", "tool", "system", "function"]), max_size=5,
), max_size=4), MODELS)  # fmt: skip
def test_nonsense_in_messages_is_refused_by_name_and_never_fails(messages: list[JSONObject], model: str) -> None:
    try:
        translation({"model": model, "messages": messages}, RequestOptions())
    except InvalidRequest as error:
        assert error.param and error.message
