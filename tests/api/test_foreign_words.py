"""Words of one dialect in a request of another, over the wire: none that would change the answer is dropped."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import error, error_body

from .bed import Answer, user
from .messages_bed import MessagesBed, running_messages_bed

SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


def respond(doors: MessagesBed, model: str, **fields: Any) -> Answer:
    """The answer of the Responses door."""
    return doors.post_to("/v1/responses", {"model": model, "input": "hi", **fields})


def warnings(answer: Answer) -> str | None:
    """What was dropped of a request that was answered."""
    assert answer.status == 200, answer.body
    return answer.header("x-gateway-warnings")


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"max_tokens": 5}, "`max_output_tokens`"),
        ({"max_completion_tokens": 5}, "`max_output_tokens`"),
        ({"response_format": SCHEMA}, "`text.format`"),
        ({"reasoning_effort": "low"}, "`reasoning.effort`"),
        ({"system": "Be brief."}, "`instructions`"),
        ({"functions": [{"name": "f"}]}, "`tools`"),
        ({"stop": ["."]}, "/v1/chat/completions"),
        ({"n": 2}, "/v1/chat/completions"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_responses_name_their_own_word(doors: MessagesBed, fields: Any, instead: str, stream: bool) -> None:
    answer = respond(doors, doors.model(), stream=stream, **fields)

    (name,) = fields
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, name, "unsupported_parameter")
    assert answer.error["message"].startswith(f"Unsupported parameter: `{name}`. ")
    assert instead in answer.error["message"]


def test_responses_warn_of_what_has_no_counterpart(doors: MessagesBed) -> None:
    model = doors.model()

    answer = respond(
        doors, model, seed=1, frequency_penalty=0.5, presence_penalty=0, n=1, stop=None, client_metadata={}
    )

    assert warnings(answer) == "frequency_penalty, seed"
    assert doors.sent_to("o", model) == {"model": model, "messages": user("hi")}


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"stop": "."}, "`stop_sequences`"),
        ({"max_completion_tokens": 5}, "`max_tokens`"),
        ({"response_format": SCHEMA}, "`output_config.format`"),
        ({"parallel_tool_calls": False}, "`tool_choice.disable_parallel_tool_use`"),
        ({"instructions": "Be brief."}, "`system`"),
        ({"n": 2}, "/v1/chat/completions"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_messages_name_their_own_word(doors: MessagesBed, fields: Any, instead: str, stream: bool) -> None:
    answer = doors.message(doors.model(), stream=stream, **fields)

    (name,) = fields
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json["error"]["message"].startswith(f"{name}: ")
    assert instead in answer.json["error"]["message"]


def test_messages_take_words_that_ask_for_nothing(doors: MessagesBed) -> None:
    model = doors.model()

    answer = doors.message(model, n=1, parallel_tool_calls=True, stop=[], seed=3, foo=True)

    assert warnings(answer) == "seed"
    assert doors.sent_to("o", model).keys() == {"model", "messages", "max_completion_tokens"}


def test_an_upstream_of_the_doors_own_dialect_judges_for_itself(doors: MessagesBed) -> None:
    model = doors.model("claude")

    assert doors.message(model, stop="x").status == 200
    assert doors.sent_to("a", model)["stop"] == "x"


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"max_output_tokens": 5}, "`max_completion_tokens`"),
        ({"stop_sequences": ["."]}, "`stop`"),
        ({"system": "Be brief."}, "`system`"),
        ({"text": {"format": {"type": "json_object"}}}, "`response_format`"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_chat_names_its_own_word_where_it_is_translated(doors: MessagesBed, fields: Any, instead: str) -> None:
    (name,) = fields

    answer = doors.ask(doors.model("claude"), **fields)

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, name, "unsupported_parameter")
    assert instead in answer.error["message"]
    model = doors.model()
    assert doors.ask(model, **fields).status == 200
    assert doors.sent_to("o", model)[name] == fields[name]


@pytest.mark.parametrize("place", ["", ".json_schema.schema"])
def test_a_schema_that_is_refused_is_named_as_the_client_knows_it(doors: MessagesBed, place: str) -> None:
    model, said = doors.model(), error_body(f"`response_format{place}` cannot be used.", code="unsupported_value")
    said["error"]["param"] = f"response_format{place}"
    doors.o.on(model, error(400, said))
    own = place.removeprefix(".json_schema")

    found = respond(doors, model, text={"format": {"type": "json_schema", "name": "a", "schema": {}}}).error
    assert (found["param"], f"`text.format{own}`" in found["message"]) == (f"text.format{own}", True)
    message = doors.message(model, output_config={"format": {"type": "json_schema", "schema": {}}}).json["error"][
        "message"
    ]
    assert message.startswith(f"output_config.format{own}: ")
    assert f"`output_config.format{own}`" in message


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
LOOK = {"name": "look", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"tools": [LOOK], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "required"}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": "json"}, "output_format.type"),
        ({"output_config": "json"}, "output_config"),
        (
            {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]}]},
            "messages.0.content.0.type",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_messages_in_a_form_that_would_not_be_heard_are_refused(doors: MessagesBed, fields: Any, place: str) -> None:
    model = doors.model()

    answer = doors.message(model, **fields)

    assert (answer.status, answer.json["error"]["message"].partition(": ")[0]) == (400, place)
    assert not [seen for seen in doors.o.requests if seen.model == model]


@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "none"}])
def test_a_choice_that_forces_nothing_needs_no_tools(doors: MessagesBed, choice: Any) -> None:
    assert doors.message(doors.model(), tool_choice=choice).status == 200


CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": SCHEMA}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": [{"role": "assistant", "content": "Hm", "tool_calls": CALLS}, *user()]}, "input[0].tool_calls"),
        ({"input": [*user(), {"role": "tool", "tool_call_id": "a", "content": "1"}]}, "input[1].role"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_responses_in_chats_form_are_refused(doors: MessagesBed, fields: Any, param: str) -> None:
    model = doors.model()

    answer = respond(doors, model, **fields)

    assert (answer.status, answer.error["param"]) == (400, param)
    assert not [seen for seen in doors.o.requests if seen.model == model]


# Places in lists that are not the client's own

COUNTED = "Invalid value for `messages[5].content[1].type` and `tools[7].function.parameters`."


@pytest.mark.parametrize("param", ["messages[5].content[1].type", "messages.[5].role", "tools[7].function.parameters"])
def test_no_place_is_named_by_numbers_that_are_not_the_clients(doors: MessagesBed, param: str, stream: bool) -> None:
    model, said = doors.model(), error_body(COUNTED, "invalid_request_error")
    said["error"]["param"] = param
    doors.o.on(model, error(400, said))

    asked = doors.ask(model, stream=stream)
    assert (asked.error["message"], asked.error["param"]) == (COUNTED, param)
    found = respond(doors, model, stream=stream)
    assert (found.status, found.error["param"]) == (400, "tools.parameters" if "tools" in param else "input")
    assert not any(map(str.isdigit, found.error["message"]))
    found = doors.message(model, stream=stream)
    assert found.status == 400
    assert not any(map(str.isdigit, found.json["error"]["message"]))


def test_claude_counts_turns_of_its_own(doors: MessagesBed, stream: bool) -> None:
    model = doors.model("claude")
    text = "messages.7.content.1.image.source: image exceeds the limit"
    doors.a.on(model, error(400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}}))

    for found in (
        doors.ask(model, stream=stream, max_tokens=9),
        respond(doors, model, stream=stream, max_output_tokens=9),
    ):
        assert (found.status, found.error["message"]) == (400, "messages.content.image.source: image exceeds the limit")
    assert doors.message(model, stream=stream).json["error"]["message"] == text


def test_what_is_refused_below_names_no_place_of_the_translation(doors: MessagesBed) -> None:
    items = [{"role": "system", "content": "x"}, {"role": "user", "content": [
        {"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "ftp://example.org/a"}]}]  # fmt: skip

    found = doors.post_to(
        "/v1/responses",
        {"model": doors.model("claude"), "instructions": "x", "max_output_tokens": 9, "input": items},
    )

    assert (found.status, found.error["param"]) == (400, "input")
    assert not any(map(str.isdigit, found.error["message"]))
