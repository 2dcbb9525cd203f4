"""What a client sends reaches the upstream as it is, and what the upstream answers reaches the client as it is."""

import gzip
import json
import zlib
from typing import Any

import pytest

from tests.support import Action, chunked, completion, event, json_reply, reply, sse, text_chunks, tokens

from .bed import KEY, UPSTREAM_KEYS, Answer, Bed, Body, user

#: What every answer of the chat route carries, beside `content-length` or `transfer-encoding`.
HEADERS = {
    "date", "content-type", "cache-control", "x-request-id", "x-gateway-attempts", "x-gateway-deployment",
    "openai-processing-ms", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
}  # fmt: skip


def exact(text: bytes) -> Any:
    """The JSON value with its number forms told apart, and its keys in their order."""
    return json.loads(
        text,
        parse_int=lambda digits: ("int", digits),
        parse_float=lambda digits: ("float", float(digits)),
        object_pairs_hook=lambda pairs: ("object", pairs),
    )


def fields_of(text: bytes) -> dict[str, Any]:
    """The top-level fields of an `exact` object."""
    kind, pairs = exact(text)
    assert kind == "object"
    return dict(pairs)


def raw_body(model: str, *fields: str) -> bytes:
    """A request's body with these fields as they are."""
    start = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}]'
    return ", ".join([start, *fields]).encode() + b"}"


# The request's body

NUMBERS = [
    "0", "-0.0", "1", "1.0", "-1.5", "100.0", "9007199254740993", "18446744073709551615", "-9223372036854775808",
    "12345678901234567890123456789012345678901234567890", "0.1", "3.141592653589793", "1e3", "1.5E-7", "5e-324",
    "1.7976931348623157e308",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_keeps_its_value_and_form_at_any_depth(bed: Bed, number: str) -> None:
    model = bed.model()
    fields = [
        f'"top": {number}',
        f'"list": [[{number}], {{"deep": [{number}]}}]',
        f'"logit_bias": {{"50256": {number}}}',
    ]

    answer = bed.post(raw_body(model, *fields))

    assert answer.status == 200
    sent = fields_of(bed.last(model).body)
    wanted = fields_of(("{" + ", ".join(fields) + "}").encode())
    assert {key: sent[key] for key in wanted} == wanted


@pytest.mark.parametrize("field", ["temperature", "top_p", "max_tokens", "seed", "presence_penalty"])
@pytest.mark.parametrize("number", ["1", "1.0", "0", "0.7"])
def test_a_known_parameter_keeps_its_form_too(bed: Bed, field: str, number: str) -> None:
    model = bed.model()

    bed.post(raw_body(model, f'"{field}": {number}'))

    assert fields_of(bed.last(model).body)[field] == exact(number.encode())


#: A body that no re-encoding leaves as it is, but for its model; in two parts.
VERBATIM = (
    b'{"top_p":0.10,"user":null,"messages":[{"content":[{"text":"Hi","type":"text","n":1E2}],"role":"user","x":{"b":1.50,'
    b'"a":null}}],"temperature":1.0,"max_tokens":null,"seed":12345678901234567890123,"model":',
    b',"tools":[{"function":{"parameters":{"z":{"minimum":-0.0,"default":1e-07},"a":null},"name":"f"},'
    b'"type":"function"}],"logit_bias":{"9":-1e2,"10":100.00},"stop":null,"n":1,"presence_penalty":0e0%b}',
)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b"", b""),
        (b',"stream":false', b',"stream":false'),
        (b',"stream":null,"stream_options":null', b',"stream":null,"stream_options":null'),
        (b',"stream":true', b',"stream":true,"stream_options":{"include_usage":true}'),
        (b',"stream_options":{"include_usage":true,"x":1.0},"stream":true',) * 2,
    ],
)
def test_the_body_reaches_the_upstream_in_its_own_order_and_forms(bed: Bed, asked: bytes, sent: bytes) -> None:
    model = bed.model()
    head, tail = VERBATIM

    assert bed.post(head + f'"a/{model}"'.encode() + tail % asked).status == 200

    assert bed.last(model).body == head + f'"{model}"'.encode() + tail % sent


@pytest.mark.parametrize(
    "key", ["self", "cls", "request", "body", "kwargs", "upstream", "generate_completion", "timeout"]
)
def test_no_key_of_a_client_reaches_the_code(bed: Bed, key: str) -> None:
    assert bed.sent(**{key: {"a": 1}})[key] == {"a": 1}


def test_keys_within_a_value_keep_their_order(bed: Bed) -> None:
    model = bed.model()
    schema = '"response_format": {"type": "json_schema", "json_schema": {"z": 1, "a": {"y": [2], "b": null}, "": {}}}'

    bed.post(raw_body(model, schema))

    assert fields_of(bed.last(model).body)["response_format"] == fields_of(b"{%s}" % schema.encode())["response_format"]


def test_unknown_fields_pass_at_every_depth(bed: Bed) -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"ttl": "5m"}}
    fields = {
        "top_k": 40, "chat_template_kwargs": {"enable_thinking": False}, "provider": {"order": ["x"]}, "cls": 1,
        "self": 1, "kwargs": {"args": []}, "extra_body": {"a": None}, "user": None, "logit_bias": None, "": [],
        "messages": [{"role": "user", "content": [part], "x": 1}],
        "tools": [{"type": "function", "function": {"name": "f", "strict": None, "y": {}}, "z": 0}],
    }  # fmt: skip

    sent = bed.sent(**fields)

    del sent["model"]
    assert sent == fields


@pytest.mark.parametrize("field", ["temperature", "top_p", "max_tokens", "stream", "stream_options", "tools"])
def test_null_is_the_same_as_absent(bed: Bed, field: str) -> None:
    assert bed.sent(**{field: None}).get(field) is None


def test_text_in_any_script_passes(bed: Bed) -> None:
    text = 'Grüße, 你好, 👋🏽, \u2028\x00\x7f\t"\\/'

    sent = bed.sent(messages=user(text), **{"ключ": "значение"})

    assert sent["messages"][0]["content"] == text
    assert sent["ключ"] == "значение"


def test_text_is_sent_as_it_is_and_not_escaped(bed: Bed) -> None:
    model = bed.model()

    bed.ask(model, messages=user("你好"))

    assert "你好".encode() in bed.last(model).body


def test_of_two_fields_with_one_name_the_last_counts(bed: Bed) -> None:
    model = bed.model()

    bed.post(raw_body(model, '"top_k": 1', '"top_k": 2'))

    assert bed.last(model).body.count(b"top_k") == 1
    assert bed.last(model).json["top_k"] == 2


def test_the_model_is_sent_under_the_upstreams_name(bed: Bed) -> None:
    model = bed.model()

    answer = bed.ask(f"a/{model}")

    assert bed.last(model).json["model"] == model
    assert answer.status == 200


def test_a_long_conversation_passes(bed: Bed) -> None:
    messages = [{"role": "user", "content": f"{i} " + "long " * 2000} for i in range(300)]

    assert bed.sent(messages=messages)["messages"] == messages


# The request's headers

CANARY = "canary-0123456789"


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_headers_stay_here(bed: Bed, stream: bool) -> None:
    model = bed.model()
    headers = {
        "Cookie": f"session={CANARY}", "X-Stainless-Lang": CANARY, "X-Stainless-Retry-Count": CANARY,
        "Idempotency-Key": CANARY, "User-Agent": CANARY, "OpenAI-Organization": CANARY, "OpenAI-Project": CANARY,
        "X-Request-Id": CANARY, "Accept-Language": CANARY, "X-Forwarded-For": CANARY, "Referer": CANARY,
        "Proxy-Authorization": CANARY, "X-Api-Key": KEY, "Accept": "text/odd", "Accept-Encoding": "br",
    }  # fmt: skip

    assert bed.ask(model, stream=stream, headers=headers).status == 200

    seen = bed.last(model)
    assert {name.lower() for name, _ in seen.headers} == {
        "host", "accept", "accept-encoding", "user-agent", "authorization", "content-type", "content-length"
    }  # fmt: skip
    assert CANARY not in str(seen.headers)
    assert seen.headers.first("accept-encoding") == "gzip, deflate"


def test_the_upstream_gets_its_own_key(bed: Bed) -> None:
    model = bed.model("pair")
    bed.a.on(model, json_reply({}, 500))

    assert bed.ask(model).status == 200

    for name, upstream in (("a", bed.a), ("b", bed.b)):
        (seen,) = [seen for seen in upstream.requests if seen.model == model]
        assert seen.headers.all("authorization") == [f"Bearer {UPSTREAM_KEYS[name]}"]


# The answer's body


def test_unknown_fields_of_an_answer_survive(bed: Bed) -> None:
    model, whole = bed.model(), completion("Hi", annotations=[{"type": "x"}], audio={"id": "a"}, odd={"deep": [1.0]})
    whole |= {"system_fingerprint": "fp", "service_tier": "default", "timings": {"ms": 1.50}, "odd": None}
    whole["choices"][0] |= {"native_finish_reason": "STOP", "content_filter_results": {"hate": {"filtered": False}}}
    whole["usage"] |= {"cost": 0.00001, "prompt_tokens_details": {"cached_tokens": 4}, "big": 2**70}
    bed.a.on(model, json_reply(whole))

    assert bed.ask(model).json == whole


def test_unknown_fields_of_a_stream_survive(bed: Bed) -> None:
    chunks = text_chunks("Hi", usage=tokens(1, 2))
    for number, chunk in enumerate(chunks[:-1]):
        chunk |= {"system_fingerprint": "fp", "obfuscation": "x" * number, "odd": {"n": 1.0}}
        chunk["choices"][0] |= {"native_finish_reason": None, "odd": number}
        chunk["choices"][0]["delta"] |= {"odd": [number]}
    chunks[-1]["usage"] |= {"cost": 1e-05, "completion_tokens_details": {"reasoning_tokens": 1}}

    answer = bed.stream(sse(*chunks), stream_options={"include_usage": True})

    # What comes with the finish reason goes out before it, which waits for the end.
    *words, ending = chunks[:-1]
    (choice,) = ending["choices"]
    last = ending | {"choices": [{key: value for key, value in choice.items() if key != "native_finish_reason"}]}
    last["choices"][0]["finish_reason"] = None
    ending["choices"][0]["delta"] = {}
    assert answer.chunks[:-1] == [*words, last, ending]
    assert answer.chunks[-1]["usage"] == chunks[-1]["usage"]


def test_numbers_of_an_answer_keep_their_form(bed: Bed) -> None:
    model = bed.model()
    odd = ", ".join(NUMBERS)
    text = json.dumps(completion("Hi"))[:-1] + f', "odd": [{odd}]}}'
    bed.a.on(model, reply(text.encode(), headers={"Content-Type": "application/json"}))

    assert fields_of(bed.ask(model).body)["odd"] == exact(f"[{odd}]".encode())


LOGPROBS = {
    "content": [
        {"token": "H", "logprob": -0.25, "bytes": [72], "top_logprobs": [{"token": "J", "logprob": -9.0}]},
    ],
    "refusal": None,
}  # fmt: skip


def test_log_probabilities_pass(bed: Bed) -> None:
    model, whole, chunks = bed.model(), completion("H"), text_chunks("H")
    whole["choices"][0]["logprobs"] = chunks[1]["choices"][0]["logprobs"] = LOGPROBS
    bed.a.on(model, json_reply(whole), sse(*chunks))

    answer, streamed = bed.ask(model, logprobs=True), bed.ask(model, stream=True, logprobs=True)

    assert answer.json["choices"][0]["logprobs"] == LOGPROBS
    assert [chunk["choices"][0]["logprobs"] for chunk in streamed.chunks] == [None, LOGPROBS, None]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_one_name(bed: Bed, name: str) -> None:
    model, first = bed.model(), text_chunks()[0]
    pieces = [{**first, "choices": [{"index": 0, "delta": {name: piece}}]} for piece in ("hm", " so")]
    said = completion(None)
    said["choices"][0]["message"][name] = "hm so"
    bed.a.on(model, json_reply(said), sse(first, *pieces, *text_chunks("Hi")[1:]))

    whole, streamed = bed.ask(model), bed.ask(model, stream=True)

    message = whole.json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm so", None)
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed.chunks]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["hm", " so"]
    assert all("reasoning" not in each for each in [message, *deltas])
    assert streamed.text == "Hi"


def test_reasoning_details_pass_as_they_are(bed: Bed) -> None:
    model, details = bed.model(), [{"type": "reasoning.text", "text": "hm", "index": 0, "signature": "s"}]
    bed.a.on(model, json_reply(completion("Hi", reasoning="hm", reasoning_details=details)))

    message = bed.ask(model).json["choices"][0]["message"]

    assert (message["reasoning_details"], message["reasoning_content"]) == (details, "hm")


def test_a_big_answer_passes(bed: Bed) -> None:
    model, text = bed.model(), "wörd " * 2_000_000
    bed.a.on(model, json_reply(completion(text)))

    assert bed.ask(model).json["choices"][0]["message"]["content"] == text


def test_a_big_stream_passes(bed: Bed) -> None:
    pieces = [f"{number} " + "x" * 20_000 for number in range(300)]

    answer = bed.stream(sse(*text_chunks(*pieces)))

    assert (answer.text, answer.stream_error) == ("".join(pieces), None)


def test_the_usage_that_was_asked_for_on_our_account_is_hidden(bed: Bed) -> None:
    model = bed.model()

    answer = bed.ask(model, stream=True)

    assert bed.last(model).json["stream_options"] == {"include_usage": True}
    assert all("usage" not in chunk and chunk["choices"] for chunk in answer.chunks)


@pytest.mark.parametrize("options", [{"include_usage": False}, {"include_obfuscation": False}, {"odd": 1}, {}])
def test_other_stream_options_pass(bed: Bed, options: Body) -> None:
    model = bed.model()

    answer = bed.ask(model, stream=True, stream_options=options)

    assert bed.last(model).json["stream_options"] == {**options, "include_usage": True}
    assert all("usage" not in chunk for chunk in answer.chunks)


def test_an_answer_that_is_not_streamed_is_not_asked_for_usage(bed: Bed) -> None:
    assert "stream_options" not in bed.sent()


# The answer's headers

NOISE = {
    "Set-Cookie": f"a={CANARY}", "Server": CANARY, "Alt-Svc": CANARY, "X-Request-Id": CANARY, "X-Secret": CANARY,
    "OpenAI-Organization": CANARY, "CF-Ray": CANARY, "X-RateLimit-Limit-Requests": CANARY, "Via": CANARY,
    "Strict-Transport-Security": CANARY, "Access-Control-Allow-Origin": "*", "X-Gateway-Deployment": CANARY,
    "X-Should-Retry": "true", "Connection": "x-secret", "Cache-Control": f"max-age={CANARY}", "ETag": CANARY,
    "Content-Disposition": CANARY, "X-Gateway-Attempts": CANARY, "Location": CANARY,
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_only_headers_of_our_own_reach_the_client(bed: Bed, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("Hi"), headers=NOISE) if stream else json_reply(completion("Hi"), headers=NOISE))

    answer = bed.ask(model, stream=stream)

    framing = {"transfer-encoding", "x-accel-buffering"} if stream else {"content-length"}
    assert {name for name, _ in answer.headers} == HEADERS | framing
    assert len(answer.headers) == len(HEADERS | framing)
    assert CANARY not in str(answer.headers)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_only_headers_of_our_own_come_with_an_error(bed: Bed, status: int) -> None:
    model = bed.model()
    bed.a.on(model, json_reply({"error": {"message": "no"}}, status, NOISE))

    answer = bed.ask(model)

    names = {name for name, _ in answer.headers} - {"x-should-retry", "connection"}
    waits = {"retry-after"} if status == 429 else set()
    assert names == (HEADERS - {"x-gateway-deployment"}) | {"content-length"} | waits
    assert CANARY not in str(answer.headers)


def encoded(coding: str) -> list[Action]:
    """A JSON answer in a content coding."""
    body = json.dumps(completion("Hi")).encode()
    data = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    return reply(data, headers={"Content-Type": "application/json", "Content-Encoding": coding})


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_answer_reaches_the_client_plain(bed: Bed, coding: str) -> None:
    model = bed.model()
    bed.a.on(model, encoded(coding))

    answer = bed.ask(model, headers={"Accept-Encoding": "gzip"})

    assert answer.json["choices"][0]["message"]["content"] == "Hi"
    assert answer.header("content-encoding") is None


def test_a_compressed_stream_reaches_the_client_plain(bed: Bed) -> None:
    body = gzip.compress(b"".join(event(chunk) for chunk in text_chunks("Hi", "there")) + b"data: [DONE]\n\n")
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}

    answer: Answer = bed.stream(chunked(body[:20], body[20:], headers=headers))

    assert (answer.text, answer.stream_error, answer.header("content-encoding")) == ("Hithere", None, None)
