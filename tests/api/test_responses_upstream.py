"""Upstreams that speak Responses: for clients that do, and for those that speak Chat Completions."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import Close, Gateway, Hang, ScriptedUpstream, Wait, WaitFor, error, json_reply, sse, text_chunks
from tests.support import responses_api as api
from tests.support.raw import build_request

from .bed import KEY, SETTLE_S, Answer, Bed, Begun, Body, adapter, user, yaml

#: The upstream speaks Responses only; "both" speaks chat, too; groups go on to one that speaks chat only.
NATIVE, BOTH, GROUP, RESUMED = "native", "both", "group", "resumed"
#: The upstream knows functions only, and is told who its client is.
FEW = "few"
#: At most so many tests there are.
TESTS = 180


class NativeBed(Bed):
    """A gateway over an upstream that speaks Responses (a), and one that speaks chat (b)."""

    number = 0

    def name(self, kind: str) -> str:
        """The group of this kind that no other test has used, so its deployments are in good health."""
        return f"{kind}-{self.number}"

    def request(self, model: str, given: Any = "hi", **fields: Any) -> bytes:
        """A request for a response."""
        raw = json.dumps({"model": self.name(model), "input": given, **fields}).encode()
        headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")]
        return build_request("POST", "/v1/responses", self.gateway.host, self.gateway.port, headers=headers, body=raw)

    def respond(self, model: str, given: Any = "hi", **fields: Any) -> Answer:
        """Ask for a response."""
        return self.send(self.request(model, given, **fields))

    def broken(self, model: str, *ending: Any) -> Answer:
        """The answer to a stream that goes so on after a first piece, once the client has that."""
        gate = threading.Event()
        self.answers(api.stream(*api.opening(), *api.text_events("Hel")[:3], WaitFor(gate), *ending))
        with Begun.opened(self, self.request(model, stream=True)) as begun:
            events = [begun.next() for _ in range(5)]
            gate.set()
            return begun.answer([*events, *begun.rest()])

    def answers(self, *scripts: Any) -> None:
        """Have the upstream answer its next requests so."""
        self.a.on(f"m-{self.number}", *scripts)

    @property
    def sent(self) -> Any:
        """The last body that reached the upstream."""
        return self.a.requests[-1].json


@pytest.fixture(scope="module")
def bed() -> Iterator[NativeBed]:
    with contextlib.ExitStack() as held:
        a, b = (held.enter_context(ScriptedUpstream()) for _ in range(2))
        gateway = Gateway(env={"RATE_LIMIT_ENABLED": "false"})
        numbers = range(TESTS)
        models = [f"m-{n}" for n in numbers]
        only, both = (adapter(a, models, apis=apis) for apis in (["responses"], ["chat", "responses"]))
        few = adapter(a, models, apis=["responses"], tool_types=["function"], client_headers=True)
        groups: Body = {}
        for n in numbers:
            mixed = {"targets": [f"only/m-{n}"], "fallbacks": [f"chat/m-{n}"]}
            groups[f"{FEW}-{n}"] = {"targets": [f"few/m-{n}"]}
            groups |= {f"{NATIVE}-{n}": {"targets": [f"only/m-{n}"]}, f"{BOTH}-{n}": {"targets": [f"both/m-{n}"]}}
            groups |= {f"{GROUP}-{n}": mixed, f"{RESUMED}-{n}": mixed | {"on_stream_failure": "resume"}}
        gateway.config_yaml = yaml(
            adapters={"only": only, "both": both, "few": few, "chat": adapter(b, models)},
            model_groups=groups,
            retry={"max_attempts": 2},
            responses={"state": "memory"},
            server={"host": gateway.host, "port": gateway.port, "heartbeat_s": 0.2, "commit_s": 0.4},
        )
        yield NativeBed(held.enter_context(gateway), {"a": a, "b": b})


@pytest.fixture(autouse=True)
def fresh(bed: NativeBed) -> None:
    """Every test has groups of its own."""
    bed.number += 1


def events(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream."""
    assert answer.status == 200, answer.body
    return [{"type": "error"} | json.loads(event.rpartition("data: ")[2]) for event in answer.events]


# Clients that speak Responses


def test_a_request_reaches_the_upstream_as_it_is(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello")))
    tools = [{"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "mcp", "server_label": "x"}]
    given = [{"role": "user", "content": "hi"}, {"type": "brand_new", "x": 1.0}]

    answer = bed.respond(NATIVE, given, tools=tools, client_metadata={"a": "b"}, store=False, top_p=0.1)

    assert answer.status == 200, answer.body
    assert bed.a.requests[-1].path == "/v1/responses"
    assert bed.sent == {
        "model": f"m-{bed.number}",
        "tools": tools,
        "client_metadata": {"a": "b"},
        "top_p": 0.1,
        "input": given,
        "store": False,
    }
    assert b'"x":1.0}' in bed.a.requests[-1].body


def test_tools_that_an_upstream_does_not_know_are_left_out(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello")))
    known = {"type": "function", "name": "f", "parameters": {}}

    answer = bed.respond(FEW, tools=[{"type": "web_search"}, known], top_p=0.1)

    assert bed.sent["tools"] == [known]
    assert answer.header("x-gateway-warnings") == "tools[0]"


@pytest.mark.parametrize("nested", [False, True], ids=["tool", "namespace"])
def test_custom_tools_are_functions_to_an_upstream_without_them(bed: NativeBed, nested: bool) -> None:
    name = "agents__patch" if nested else "patch"
    bed.answers(api.whole(api.call(name, '{"input": "a\\nb"}')))
    custom = {"type": "custom", "name": "patch"}

    answer = bed.respond(FEW, tools=[{"type": "namespace", "name": "agents", "tools": [custom]} if nested else custom])

    (sent,) = bed.sent["tools"]
    assert (sent["type"], sent["name"]) == ("function", name)
    (called,) = answer.json["output"]
    assert (called["type"], called["name"], called["input"]) == ("custom_tool_call", "patch", "a\nb")


def test_clients_are_named_to_those_who_may_know(bed: NativeBed) -> None:
    told = {"Originator": "codex", "X-Codex-Turn": "1", "Session-Id": "s"}
    for model in (FEW, NATIVE):
        bed.answers(api.whole(api.message("Hello")))
        raw = json.dumps({"model": bed.name(model), "input": "hi"}).encode()
        headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}"), *told.items()]
        where = (bed.gateway.host, bed.gateway.port)
        bed.send(build_request("POST", "/v1/responses", *where, headers=headers, body=raw))

        seen = {name.lower(): value for name, value in bed.a.requests[-1].headers}
        passed = {name.lower(): value for name, value in told.items()} if model == FEW else {}
        assert {name.lower(): seen[name.lower()] for name in told if name.lower() in seen} == passed


def test_an_answer_is_the_upstreams_under_our_names(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello"), extra={"new": True}))

    answer = bed.respond(NATIVE).json

    assert answer["output"] == [api.message("Hello")]
    assert (answer["model"], answer["extra"], answer["store"]) == (bed.name(NATIVE), {"new": True}, True)
    assert answer["id"] != api.UPSTREAM_ID
    assert bed.get(f"/v1/responses/{answer['id']}").json == answer


def test_a_stream_is_the_upstreams_under_our_names(bed: NativeBed) -> None:
    odd = {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 0}
    keepalive = {"type": "keepalive"}
    bed.answers(
        api.stream(*api.opening(), keepalive, odd, *api.text_events("Hel", "lo"), api.completed(api.message("Hello")))
    )

    answer = bed.respond(NATIVE, stream=True)

    found = events(answer)
    assert [each["type"].removeprefix("response.") for each in found] == [
        "created", "in_progress", "web_search_call.searching", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [each["sequence_number"] for each in found] == list(range(11))
    assert len({each["response"]["id"] for each in found if "response" in each} - {api.UPSTREAM_ID}) == 1
    assert api.UPSTREAM_ID not in answer.body.decode()
    assert found[-1]["response"]["model"] == bed.name(NATIVE)
    assert bed.record_of(answer)["completion_tokens"] == 2


def test_names_and_numbers_that_are_missing_are_filled_in(bed: NativeBed) -> None:
    payloads = [*api.opening(), *api.text_events("Hi"), api.completed(api.message("Hi"))]
    bed.answers(sse(*(f"data: {json.dumps(each)}\n\n" for each in payloads)))

    found = events(bed.respond(NATIVE, stream=True))

    assert [each["sequence_number"] for each in found] == list(range(len(payloads)))


@pytest.mark.parametrize("left_out", ["in the end", "all items", "the call"])
def test_what_an_upstream_says_in_one_place_is_in_both(bed: NativeBed, left_out: str) -> None:
    said, called = api.message("Hello"), api.call("f", "{}", 1)
    done = [
        {"type": "response.output_item.done", "output_index": i, "item": each} for i, each in enumerate((said, called))
    ]
    ended = api.completed(said, called)
    if left_out == "in the end":
        ended["response"] = {name: value for name, value in api.response().items() if name != "output"}
    sent = {"in the end": done, "all items": [], "the call": done[:1]}[left_out]
    bed.answers(api.stream(*api.opening(), *api.text_events("Hello")[:-1], *sent, ended))

    *_, answered = found = events(bed.respond(NATIVE, stream=True))

    items = [(each["output_index"], each["item"]) for each in found if each["type"] == "response.output_item.done"]
    assert items == [(0, said), (1, called)]
    assert answered["response"]["output"] == [said, called]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))


def without(value: Any, name: str, *, null: bool) -> Any:
    """A payload in which no object has this field, or has null there."""
    if isinstance(value, list):
        return [without(each, name, null=null) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without(each, name, null=null) for key, each in value.items() if key != name}
    return {**kept, name: None} if null and name in value else kept


def with_call(*, index: int = 1) -> list[Body]:
    """The events of a text and of a call, with all that OpenAI's own have."""
    said, called = api.message("Hello"), api.call("f", '{"a":1}', index)
    at = {"item_id": called["id"], "output_index": index}
    text = [each | {"logprobs": []} if "output_text" in each["type"] else each for each in api.text_events("Hel", "lo")]
    begun = called | {"arguments": "", "status": "in_progress"}
    return [
        *api.opening(), *text,
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        {"type": "response.function_call_arguments.delta", **at, "delta": '{"a":1}'},
        {"type": "response.function_call_arguments.done", **at, "name": "f", "arguments": '{"a":1}'},
        {"type": "response.output_item.done", "output_index": index, "item": called},
        api.completed(said, called),
    ]  # fmt: skip


LEFT_OUT = [
    "nothing", "id", "item_id", "output_index", "content_index", "call_id", "status", "role", "annotations", "logprobs",
    "object", "created_at", "tools", "tool_choice", "parallel_tool_calls", "input_tokens_details", "total_tokens",
    "reasoning_tokens", "content", "text", "arguments", "delta", "part", "item",
]  # fmt: skip


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
def test_a_strict_client_reads_a_stream_that_lacks_what_it_relies_on(bed: NativeBed, left_out: str, null: bool) -> None:
    bed.answers(api.stream(*without(with_call(), left_out, null=null)))

    client = openai.OpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=0, _strict_response_validation=True)
    with client, client.responses.stream(model=bed.name(NATIVE), input="hi") as stream:
        final = stream.get_final_response()

    assert final.output_text == "Hello"
    (called,) = [item for item in final.output if item.type == "function_call"]
    assert (called.name, called.arguments) == ("f", '{"a":1}')
    assert called.call_id


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("null", [False, True], ids=["missing", "null"])
def test_a_strict_client_reads_an_answer_that_lacks_what_it_relies_on(
    bed: NativeBed, left_out: str, null: bool
) -> None:
    bed.answers(json_reply(without(with_call()[-1]["response"], left_out, null=null)))

    client = openai.OpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=0, _strict_response_validation=True)
    with client:
        answer = client.responses.create(model=bed.name(NATIVE), input="hi")

    assert answer.status == "completed"
    assert [item.type for item in answer.output] == ["message", "function_call"]


def test_a_whole_answer_to_a_request_for_events_is_given_in_events(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello"), api.call("f", '{"a":1}', 1)))

    client = openai.OpenAI(base_url=bed.gateway.base_url, api_key=KEY, max_retries=0, _strict_response_validation=True)
    with client, client.responses.stream(model=bed.name(NATIVE), input="hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert deltas == ["Hello"]
    assert [item.type for item in final.output] == ["message", "function_call"]


@pytest.mark.parametrize("in_the_end", [True, False])
def test_events_for_a_whole_answer_are_given_whole(bed: NativeBed, in_the_end: bool) -> None:
    said = api.message("Hello")
    bed.answers(
        api.stream(*api.opening(), *api.text_events("Hel", "lo"), api.completed(*([said] if in_the_end else [])))
    )

    answer = bed.respond(NATIVE)

    assert (answer.json["status"], answer.json["output"]) == ("completed", [said])
    assert bed.record_of(answer)["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_events_that_stop_are_no_answer(bed: NativeBed, stream: bool) -> None:
    bed.answers(api.stream(*api.opening(), *api.text_events("Hel", "lo")))

    answer = bed.respond(NATIVE, stream=stream)

    assert answer.status == 502 or events(answer)[-2]["type"] == "response.failed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_client_gets_an_answer_in_whichever_form_it_comes(bed: NativeBed, stream: bool) -> None:
    bed.answers(api.whole(api.message("Hello")) if stream else api.text_stream("Hel", "lo"))

    answer = ask(bed, stream=stream)

    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "Hello"


def test_what_a_response_says_of_its_end_counts(bed: NativeBed) -> None:
    cut = api.response(api.message("Hel"), status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    ending: Body = {"type": "response.completed", "response": cut}
    bed.answers(api.stream(*api.opening(), *api.text_events("Hel"), ending))

    assert events(bed.respond(NATIVE, stream=True))[-1]["type"] == "response.incomplete"


def test_what_came_with_an_item_is_in_the_end_too(bed: NativeBed) -> None:
    payloads = with_call()
    payloads[-1]["response"]["output"] = without(payloads[-1]["response"]["output"], "content", null=False)
    bed.answers(api.stream(*payloads))

    *_, answered = events(bed.respond(NATIVE, stream=True))

    assert answered["response"]["output"][0]["content"][0]["text"] == "Hello"


def test_an_end_without_a_response_is_filled_in(bed: NativeBed) -> None:
    said = api.message("Hello")
    bed.answers(api.stream(*api.opening(), *api.text_events("Hello"), {"type": "response.completed"}))

    *_, answered = found = events(bed.respond(NATIVE, stream=True))

    assert [each["type"] for each in found].count("response.completed") == 1
    assert (answered["response"]["status"], answered["response"]["output"]) == ("completed", [said])


@pytest.mark.parametrize("stream", [False, True])
def test_counts_in_the_words_of_chat_are_put_into_those_of_the_door(bed: NativeBed, stream: bool) -> None:
    ended = api.completed(api.message("Hello"))
    ended["response"]["usage"] = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    whole = json_reply(ended["response"])
    bed.answers(api.stream(*api.opening(), *api.text_events("Hello"), ended) if stream else whole)

    answer = bed.respond(NATIVE, stream=stream)

    usage = (events(answer)[-1]["response"] if stream else answer.json)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (9, 2, 11)
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_a_failure_after_created_goes_elsewhere(bed: NativeBed) -> None:
    quota = {"type": "error", "code": "insufficient_quota", "message": "no credit", "param": None}
    bed.answers(api.stream(*api.opening(), quota))

    found = events(bed.respond(GROUP, stream=True))

    assert [each["type"] for each in found[:2]] == ["response.created", "response.in_progress"]
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert bed.b.requests[-1].json["messages"] == [{"role": "user", "content": "hi"}]


def test_an_upstream_that_fails_is_replaced_by_one_of_another_dialect(bed: NativeBed) -> None:
    bed.answers(error(503))

    answer = bed.respond(GROUP)

    assert answer.json["output"][0]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("model", [GROUP, RESUMED])
def test_a_stream_that_breaks_after_content_fails(bed: NativeBed, model: str) -> None:
    found = events(bed.broken(model, Close()))

    assert [each["type"] for each in found[-2:]] == ["response.failed", "error"]
    assert found[-1]["error"]["code"] == "upstream_stream_truncated"


def test_a_failed_response_is_a_failure(bed: NativeBed) -> None:
    failed = api.response(status="failed", error={"code": "server_error", "message": "It broke."})

    found = events(bed.broken(NATIVE, {"type": "response.failed", "response": failed}))

    assert [each["type"] for each in found[-2:]] == ["response.failed", "error"]
    assert "It broke." in found[-1]["error"]["message"]
    assert found[-2]["response"]["id"] != api.UPSTREAM_ID


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("context_length_exceeded", 400, "context_length_exceeded"),
        ("invalid_prompt", 400, "invalid_prompt"),
        ("image_too_large", 400, "image_too_large"),
        ("failed_to_download_image", 400, "failed_to_download_image"),
        ("rate_limit_exceeded", 429, "rate_limit_exceeded"),
        ("server_is_overloaded", 503, "overloaded"),
        ("server_error", 502, "upstream_error"),
    ],
)
def test_the_code_of_a_failed_response_says_whose_fault_it_is(
    bed: NativeBed, code: str, status: int, said: str, stream: bool
) -> None:
    failed = api.response(status="failed", error={"code": code, "message": "It failed."})
    event: Body = {"type": "response.failed", "response": failed}
    bed.answers(api.stream(*api.opening(), event) if stream else json_reply(failed))

    answer = bed.respond(NATIVE, stream=stream)

    assert (answer.status, answer.error["code"]) == (status, said)


def test_heartbeats_before_the_upstream_begins_make_no_second_beginning(bed: NativeBed) -> None:
    bed.answers([Wait(1.0), *api.text_stream("Hi")])

    found = events(bed.respond(NATIVE, stream=True))

    kinds = [each["type"] for each in found]
    assert kinds.count("response.created") == 1
    assert kinds[-1] == "response.completed"
    assert [each["sequence_number"] for each in found] == list(range(len(found)))


def test_what_chat_has_no_words_for_is_refused_where_only_chat_is_left(bed: NativeBed) -> None:
    bed.answers(error(503))

    answer = bed.respond(GROUP, tools=[{"type": "code_interpreter"}])

    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert bed.asked(f"m-{bed.number}").keys() == {"a"}


@pytest.mark.parametrize(
    "fields", [{"background": True}, {"conversation": "conv_1"}, {"previous_response_id": "resp_x"}]
)
def test_what_belongs_to_the_account_of_the_upstream_is_nobodys(bed: NativeBed, fields: Any) -> None:
    assert bed.respond(NATIVE, **fields).status == 400


def test_a_conversation_goes_on_without_the_upstreams_memory(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello")))

    first = bed.respond(NATIVE, "one").json
    bed.respond(NATIVE, "two", previous_response_id=first["id"])

    assert bed.sent["input"][0]["content"] == "one"
    assert bed.sent["input"][1] == api.message("Hello")
    assert bed.sent["input"][2]["content"] == "two"
    assert ("previous_response_id" in bed.sent, bed.sent["store"]) == (False, False)


def test_reasoning_that_the_upstream_cannot_read_stays_here(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello")))
    sealed: list[Any] = [
        {"type": "reasoning", "summary": [], "encrypted_content": text} for text in ("gw1.AAAA", "theirs", None)
    ]

    bed.respond(NATIVE, [{"role": "user", "content": "hi"}, *sealed])

    assert bed.sent["input"][1:] == [sealed[1]]


# Clients that speak Chat Completions


def ask(bed: NativeBed, **fields: Any) -> Answer:
    """Ask the upstream that speaks no chat for a completion."""
    return bed.ask(bed.name(NATIVE), **fields)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_reasoning_goes_back_with_the_calls_that_came_of_it(bed: NativeBed, stream: bool) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"}
    output = [thought, api.call("f", '{"a": 1}', 1)]
    events = [*api.opening(), api.completed(*output)]
    bed.answers(api.stream(*events) if stream else api.whole(*output), api.whole(api.message("Done")))
    history = user("hi")
    fields: Body = {"reasoning_effort": "low", "tools": [{"type": "function", "function": {"name": "f"}}]}
    told = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

    ask(bed, messages=history, stream=stream, **fields)
    assert bed.sent["include"] == ["reasoning.encrypted_content"]
    history += [{"role": "assistant", "content": None, "tool_calls": [told]}]
    history += [{"role": "tool", "tool_call_id": "call_1", "content": "ok"}]
    ask(bed, messages=history, **fields)

    assert bed.sent["input"][1:3] == output


def test_a_chat_request_is_translated(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hello")))
    call = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    url = "https://a.example/b.png"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hi"},
                                     {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]},
        {"role": "assistant", "content": "Look:", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "ok"},
    ]  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}

    answer = ask(
        bed, messages=messages, tools=[{"type": "function", "function": {"name": "f"}}], max_tokens=50, seed=7,
        tool_choice={"type": "function", "function": {"name": "f"}}, response_format=form, reasoning_effort="low",
    )  # fmt: skip

    assert answer.json["choices"][0]["message"]["content"] == "Hello"
    assert answer.json["usage"]["prompt_tokens"] == 9
    assert answer.header("x-gateway-warnings") == "seed"
    assert bed.sent == {
        "model": f"m-{bed.number}", "store": False, "instructions": "Be brief.", "max_output_tokens": 50,
        "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"},
                                         {"type": "input_image", "image_url": url, "detail": "low"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Look:"}]},
            {"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_0", "output": "ok"},
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        "tools": [{"type": "function", "name": "f", "parameters": None, "strict": False}],
        "tool_choice": {"type": "function", "name": "f"},
    }  # fmt: skip


def test_a_chat_stream_is_translated(bed: NativeBed) -> None:
    bed.answers(api.text_stream("Hel", "lo"))

    answer = ask(bed, stream=True, stream_options={"include_usage": True})

    assert (answer.text, answer.stream_error) == ("Hello", None)
    assert answer.deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 2
    assert answer.chunks[-2]["choices"][0]["finish_reason"] == "stop"


ADDED = {"type": "response.output_item.added", "output_index": 0, "item": api.call("f", "")}
WAYS = {
    "deltas": [
        ADDED,
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": ":1}"},
    ],
    "done": [ADDED, {"type": "response.output_item.done", "output_index": 0, "item": api.call("f", '{"a":1}')}],
    "completed": [],
}


@pytest.mark.parametrize("way", WAYS)
def test_arguments_come_whole_whichever_event_has_them(bed: NativeBed, way: str) -> None:
    bed.answers(api.stream(*api.opening(), *WAYS[way], api.completed(api.call("f", '{"a":1}'))))

    answer = ask(bed, stream=True, tools=[{"type": "function", "function": {"name": "f"}}])

    entries = [entry for delta in answer.deltas for entry in delta.get("tool_calls", ())]
    assert {entry["index"] for entry in entries} == {0}
    assert (entries[0]["id"], entries[0]["function"]["name"]) == ("call_0", "f")
    assert "".join(entry["function"]["arguments"] for entry in entries) == '{"a":1}'
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_incomplete_response_was_cut(bed: NativeBed) -> None:
    bed.answers(api.whole(api.message("Hel"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}))

    assert ask(bed).json["choices"][0]["finish_reason"] == "length"


def test_a_stream_without_its_last_event_is_cut(bed: NativeBed) -> None:
    bed.answers(api.stream(*api.opening(), *api.text_events("Hel")))

    answer = ask(bed, stream=True)

    assert answer.stream_error is not None
    assert answer.stream_error["code"] == "upstream_stream_truncated"


def test_an_error_in_the_stream_is_one(bed: NativeBed) -> None:
    bed.answers(api.stream(*api.opening(), {"type": "error", "code": "server_error", "message": "It broke."}))

    answer = ask(bed, stream=True)

    assert answer.status == 502
    assert "It broke." in answer.error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("pieces", "text"),
    [(("one S", "TO", "P two"), "one "), (("one S", "TO"), "one STO"), (("STOP",), ""), (("one", " END"), "one ")],
)
def test_an_answer_ends_at_a_stop_string_that_the_upstream_does_not_know(
    bed: NativeBed, pieces: tuple[str, ...], text: str, stream: bool
) -> None:
    bed.answers(api.text_stream(*pieces) if stream else api.whole(api.message("".join(pieces))))

    answer = ask(bed, stop=["STOP", None, "END"], stream=stream)

    assert "stop" not in bed.sent
    choice = (answer.chunks[-1] if stream else answer.json)["choices"][0]
    assert (answer.text if stream else choice["message"]["content"]) == text
    assert choice["finish_reason"] == "stop"
    assert not stream or answer.stream_error is None


def test_the_upstream_is_let_go_at_a_stop_string(bed: NativeBed) -> None:
    bed.answers(api.stream(*api.opening(), *api.text_events("one STOP")[:3], Hang()))

    answer = ask(bed, stop="STOP", stream=True, stream_options={"include_usage": True})

    assert (answer.text, answer.stream_error) == ("one ", None)
    assert bed.a.requests[-1].closes_within(SETTLE_S)
    assert bed.record_of(answer)["outcome"] == "ok"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_messages_is_told_which_stop_string_it_was(bed: NativeBed, stream: bool) -> None:
    bed.answers(api.text_stream("one ST", "OP") if stream else api.whole(api.message("one STOP")))
    body = {"model": bed.name(NATIVE), "max_tokens": 9, "messages": user(), "stop_sequences": ["STOP"]}
    raw = json.dumps(body | {"stream": stream}).encode()
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")]

    answer = bed.send(
        build_request("POST", "/v1/messages", bed.gateway.host, bed.gateway.port, headers=headers, body=raw)
    )

    ended = events(answer)[-2]["delta"] if stream else answer.json
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "STOP")


@pytest.mark.parametrize("fields", [{"stop": [1]}, {"n": 2}])
def test_what_cannot_be_said_is_refused(bed: NativeBed, fields: Any) -> None:
    answer = ask(bed, **fields)

    assert (answer.status, answer.error["param"]) == (400, next(iter(fields)))


def test_one_that_speaks_both_gets_each_in_its_own_words(bed: NativeBed) -> None:
    bed.answers(sse(*text_chunks("Hi")), api.text_stream("Ho"))

    chat = bed.ask(bed.name(BOTH), stream=True, messages=user())
    native = bed.respond(BOTH, stream=True)

    assert chat.text == "Hi"
    assert events(native)[-1]["response"]["output"][0]["content"][0]["text"] == "Ho"
    assert [seen.path for seen in bed.a.requests[-2:]] == ["/v1/chat/completions", "/v1/responses"]
