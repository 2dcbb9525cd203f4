"""Errors that a person can act on: whose fault they are, and what the upstream said, before content and after it."""

from collections.abc import Iterator
from typing import Any

import pytest

from one_api.app import build_registry
from one_api.config import Config
from one_api.errors import UpstreamError, UpstreamFailed
from one_api.settings.adapters import AdapterConfig, OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.settings.sections import ErrorsConfig, KeyConfig
from tests.support import ScriptedUpstream, error, event, json_reply, reply, sse, text_chunks

from .bed import UPSTREAM_KEYS, Bed, Body, user

NO_TOOLS = {
    "error": {"message": "No endpoints found that support tool use. See https://openrouter.ai/docs", "code": 404}
}
TOO_DEAR = {"error": {"message": "This request requires more credits, or fewer max_tokens. You requested up to 65536 "
                      "tokens, but can only afford 3919.", "code": 402}}  # fmt: skip
FLAGGED = {"error": {"message": "The model requires moderation. Your input was flagged.", "code": 403}}
BAD_KEY = [
    {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}
]
ARREARS = {
    "error": {"code": "Arrearage", "type": "Arrearage", "message": "please make sure your account is in good standing"}
}
TPM = {"error": {"message": "Request too large on tokens per minute (TPM): Limit 6000", "type": "tokens",
                 "code": "rate_limit_exceeded"}}  # fmt: skip

#: What one request alone is at fault for: status, body, and words that the client reads.
OWN: dict[str, tuple[int, Body, str]] = {
    "no tools": (404, NO_TOOLS, "support tool use"),
    "too dear": (402, TOO_DEAR, "can only afford 3919"),
    "no images": (400, {"error": "registry.ollama.ai/x does not support images"}, "does not support images"),
}
#: What the operator or a limit is at fault for: status, body, and what the client gets.
OPERATOR: dict[str, tuple[int, Any, int, str]] = {
    "key": (400, BAD_KEY, 502, "upstream_authentication_error"),
    "bill": (400, ARREARS, 503, "upstream_quota_exhausted"),
    "limit": (413, TPM, 429, "rate_limit_exceeded"),
    "model": (400, {"error": {"message": "Model Not Exist"}}, 502, "upstream_error"),
}


@pytest.mark.parametrize("case", OWN)
def test_a_request_that_nobody_can_serve_gets_status_and_words(bed: Bed, case: str, stream: bool) -> None:
    status, body, words = OWN[case]
    model = bed.model()
    bed.a.on(model, json_reply(body, status))

    answer = bed.ask(model, stream=stream)

    assert answer.status == status
    assert words in answer.error["message"]
    assert "openrouter" not in answer.error["message"]


@pytest.mark.parametrize("case", OWN)
def test_it_is_served_elsewhere_and_harms_no_other_request(bed: Bed, case: str, stream: bool) -> None:
    status, body, _ = OWN[case]
    model = bed.model("pair")
    bed.a.on(model, json_reply(body, status), sse(*text_chunks("Hi")) if stream else json_reply(bed_answer()))

    first, second = bed.ask(model, stream=stream), bed.ask(model, stream=stream)

    assert (first.status, first.header("x-gateway-deployment")) == (200, f"b/{model}")
    assert (second.status, second.header("x-gateway-deployment")) == (200, f"a/{model}")


def bed_answer() -> Body:
    """A whole answer."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}


def test_refused_content_is_never_routed_around(bed: Bed, stream: bool) -> None:
    model = bed.model("pair")
    bed.a.on(model, json_reply(FLAGGED, 403))

    answers = [bed.ask(model, stream=stream) for _ in range(2)]

    assert [answer.status for answer in answers] == [403, 403]
    assert answers[0].error["code"] == "content_filter"
    assert "Your input was flagged" in answers[0].error["message"]
    assert bed.asked(model) == {"a": 2}


@pytest.mark.parametrize("case", OPERATOR)
def test_the_operators_fault_is_tried_elsewhere_and_rests(bed: Bed, case: str, stream: bool) -> None:
    status, body, _, _ = OPERATOR[case]
    model = bed.model("pair")
    bed.a.on(model, json_reply(body, status))

    answers = [bed.ask(model, stream=stream) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert bed.asked(model) == {"a": 1, "b": 2}


@pytest.mark.parametrize("case", OPERATOR)
def test_the_operators_fault_is_not_the_clients(bed: Bed, case: str, stream: bool) -> None:
    status, body, shown, code = OPERATOR[case]
    model = bed.model()
    bed.a.on(model, json_reply(body, status))

    answer = bed.ask(model, stream=stream)

    assert (answer.status, answer.error["code"]) == (shown, code)


def test_an_unpaid_bill_is_in_the_log_in_the_upstreams_words_and_for_the_client_in_ours(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(ARREARS, 400))

    answer = bed.ask(model)

    assert "has no credit left" in answer.error["message"]
    assert "good standing" not in answer.error["message"]
    bed.gateway.wait_for_log("please make sure your account is in good standing")


# What the upstream said

PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>nginx/1.2</body></html>"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (error(500, {"error": {"message": "CUDA out of memory"}}),
         "The upstream failed with status 500. It said: CUDA out of memory"),
        (error(502, PAGE.decode()), "The upstream failed with status 502. It said: 502 Bad Gateway"),
        (error(503, {"detail": "warming up"}), "The upstream is overloaded. It said: warming up"),
        (error(504, "no answer from 10.0.0.7:8000"), "The upstream timed out. It said: no answer from [removed]"),
        (error(401, {"message": "Wrong key"}), "The upstream refused this gateway's credential. It said: Wrong key"),
        (error(422, {"detail": [{"loc": ["body", "top_p"], "msg": "too large", "type": "x"}]}), "top_p: too large"),
        (error(500, b""), "The upstream failed with status 500."),
        (reply(b'{"error": {"message": "{\\"error\\": {\\"message\\": \\"Busy\\"}}"}}', 500),
         "The upstream failed with status 500. It said: Busy"),
    ],
)  # fmt: skip
def test_the_client_reads_what_the_upstream_said(bed: Bed, script: Any, message: str, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, script)

    assert bed.ask(model, stream=stream).error["message"] == message


@pytest.mark.parametrize(
    "payload",
    [{"error": {"message": "CUDA out of memory", "code": 500}}, {"error": "CUDA out of memory"},
     {"object": "error", "message": "CUDA out of memory", "code": 500}],
)  # fmt: skip
def test_the_event_that_ends_a_stream_says_it_too(bed: Bed, payload: Body) -> None:
    answer = bed.stream_in_two_parts(text_chunks("one", finish=None), [event(payload)])

    assert answer.stream_error is not None
    assert answer.stream_error["message"].endswith("It said: CUDA out of memory")


# Its limits


def test_the_limits_of_an_upstream_come_with_its_429(bed: Bed, stream: bool) -> None:
    model = bed.model()
    limits = {
        "x-ratelimit-limit-tokens": "6000",
        "X-RateLimit-Remaining-Requests": "0",
        "x-ratelimit-reset-tokens": "7m12s",
    }
    bed.a.on(
        model,
        error(429, {"error": {"message": "slow down"}}, headers={**limits, "x-ratelimit-key": UPSTREAM_KEYS["a"]}),
    )

    answer = bed.ask(model, stream=stream)

    assert answer.header("x-upstream-ratelimit-limit-tokens") == "6000"
    assert answer.header("x-upstream-ratelimit-remaining-requests") == "0"
    assert answer.header("x-upstream-ratelimit-reset-tokens") == "7m12s"
    assert answer.header("x-upstream-ratelimit-key") is None
    assert answer.header("x-ratelimit-limit-tokens") is None


@pytest.mark.parametrize("status", [200, 500])
def test_they_do_not_come_with_anything_else(bed: Bed, status: int) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(bed_answer(), status, {"x-ratelimit-limit-tokens": "6000"}))

    assert bed.ask(model).header("x-upstream-ratelimit-limit-tokens") is None


# Hidden


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    """An upstream of a configuration that hides what upstreams say."""
    with ScriptedUpstream() as running:
        yield running


@pytest.mark.parametrize(
    ("status", "kept"), [(500, "The upstream failed with status 500."), (400, "The upstream refused the request."),
                         (429, "The upstream's rate limit is reached.")]
)  # fmt: skip
async def test_what_upstreams_say_can_be_hidden(upstream: ScriptedUpstream, status: int, kept: str) -> None:
    adapter = OpenAIConfig(base_url=upstream.base_url, models=("m",))
    registry = build_registry(Config(adapters={"a": adapter}, errors=ErrorsConfig(upstream_text="hide")))
    upstream.on("m", error(status, {"error": {"message": "CUDA out of memory", "code": "odd"}}))

    try:
        with pytest.raises(UpstreamError) as caught:
            await registry.generate_completion(model="m", messages=user())
    finally:
        await registry.aclose()

    assert caught.value.message == kept


async def test_every_secret_of_the_configuration_is_looked_for(upstream: ScriptedUpstream) -> None:
    other = OpenAIConfig(base_url="http://other:1/v1", api_key=Secret("another-upstreams-key"), models=("x",))
    adapters: dict[str, AdapterConfig] = {"a": OpenAIConfig(base_url=upstream.base_url, models=("m",)), "b": other}
    registry = build_registry(Config(api_keys=(KeyConfig(key=Secret("the-key-of-a-client")),), adapters=adapters))
    upstream.on("m", error(500, "seen: another-upstreams-key, the-key-of-a-client"))

    try:
        with pytest.raises(UpstreamFailed) as caught:
            await registry.generate_completion(model="m", messages=user())
    finally:
        await registry.aclose()

    assert caught.value.message.endswith("It said: seen: [removed], [removed]")
