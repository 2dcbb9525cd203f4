"""Whose fault an upstream's error is: every row of the table, by what real servers send."""

import time
from typing import Any

import pytest

from one_api.dialects import json
from one_api.dialects.error_body import read_value
from one_api.errors import (
    UpstreamExhausted,
    UpstreamMisconfigured,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnsuitable,
)
from one_api.upstream.error_table import TABLE, Fault, fault_of, status_of
from one_api.upstream.errors import Reports

F = Fault


def openai(message: str, code: Any = None, kind: str | None = None) -> dict[str, Any]:
    """A report in OpenAI's envelope."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def claude(kind: str, message: str = "something is wrong") -> dict[str, Any]:
    """A report in Anthropic's."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def minimax(code: int, words: str = "x") -> dict[str, Any]:
    """MiniMax answers with 200."""
    return {"base_resp": {"status_code": code, "status_msg": words}}


def baidu(code: int, words: str = "x") -> dict[str, Any]:
    """So does Baidu's older interface."""
    return {"error_code": code, "error_msg": words}


#: Status (None: 200, or inside a stream), body, whose fault.
CASES: list[tuple[int | None, dict[str, Any], Fault]] = [
    # The operator's limit
    (413, openai("Request too large for model `x` in organization `org_1` on tokens per minute (TPM): Limit 6000, "
                 "Requested 12328, please reduce your message size", "rate_limit_exceeded", "tokens"), F.LIMIT),
    (413, openai("Request too large on tokens per day (TPD): Limit 9"), F.LIMIT),
    (400, openai("requests per minute exceeded"), F.LIMIT),
    (429, openai("Rate limit reached"), F.LIMIT),
    (429, openai("The engine is currently overloaded", None, "engine_overloaded_error"), F.LIMIT),
    (429, {"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing "
                     "details.", "status": "RESOURCE_EXHAUSTED"}}, F.LIMIT),
    (403, openai("x", None, "rate_limit_reached_error"), F.LIMIT),
    (400, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, F.LIMIT),
    (500, openai("An error occurred (ThrottlingException) when calling Converse"), F.LIMIT),
    (None, minimax(1002, "rate limit"), F.LIMIT),
    (None, baidu(18, "Open api qps request limit reached"), F.LIMIT),
    (429, openai("您当前使用该API的并发数过高", "1302"), F.LIMIT),
    (429, claude("rate_limit_error"), F.LIMIT),
    (403, {"statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in 05:12:33."}, F.LIMIT),
    (400, openai("You have exceeded your call rate limit"), F.LIMIT),
    (None, openai("Rate limit is exceeded. Try again in 17 seconds."), F.LIMIT),
    (403, openai("Quota exceeded for quota metric 'requests'"), F.LIMIT),
    # The operator's bill
    (402, openai("Insufficient Balance", "invalid_request_error", "unknown_error"), F.NO_CREDIT),
    (402, {}, F.NO_CREDIT),
    (402, openai("You requested up to 32000 tokens, or fewer max_tokens, but can only afford 0."), F.NO_CREDIT),
    (400, openai("Access denied, please make sure your account is in good standing.", "Arrearage", "Arrearage"),
     F.NO_CREDIT),
    (400, {"code": "Arrearage", "message": "x"}, F.NO_CREDIT),
    (403, openai("Access denied due to overdue account"), F.NO_CREDIT),
    (403, openai("x", "AccountOverdueError"), F.NO_CREDIT),
    (403, openai("用户额度不足", "insufficient_user_quota"), F.NO_CREDIT),
    (429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), F.NO_CREDIT),
    (429, openai("Your account is suspended, check your plan", None, "exceeded_current_quota_error"), F.NO_CREDIT),
    (429, openai("您的账户已欠费,请充值后重试", "1113"), F.NO_CREDIT),
    (500, openai("insufficient balance in the wallet"), F.NO_CREDIT),
    (None, minimax(1008, "insufficient balance"), F.NO_CREDIT),
    (400, claude("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), F.NO_CREDIT),
    (402, claude("billing_error"), F.NO_CREDIT),
    (None, claude("billing_error"), F.NO_CREDIT),
    (403, {"code": "The caller does not have permission to execute the specified operation",
           "error": "Your newly created team doesn't have any credits or licenses yet."}, F.NO_CREDIT),
    (400, claude("invalid_request_error", "You have reached your specified API usage limits. You will regain access on "
                 "2026-01-01 at 00:00 UTC."), F.NO_CREDIT),
    (429, {"error": "You have exceeded your monthly included credits for Inference Providers."}, F.NO_CREDIT),
    (429, {"message": "Monthly usage limit exceeded for your plan"}, F.NO_CREDIT),
    (403, {"code": "personal-team-blocked:spending-limit", "error": "x"}, F.NO_CREDIT),
    (403, openai("Key limit exceeded (total limit). Manage it using https://x.y", 403), F.NO_CREDIT),
    # The operator's key, account or country
    (401, openai("Incorrect API key provided", "invalid_api_key"), F.CREDENTIAL),
    (403, {}, F.CREDENTIAL),
    (400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                     "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}, F.CREDENTIAL),
    (400, openai("API key expired. Please renew the API key."), F.CREDENTIAL),
    (400, openai("User location is not supported for the API use."), F.CREDENTIAL),
    (400, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, F.CREDENTIAL),
    (403, openai("Country, region, or territory not supported", "unsupported_country_region_territory"), F.CREDENTIAL),
    (403, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, F.CREDENTIAL),
    (403, openai("The security token included in the request is invalid."), F.CREDENTIAL),
    (400, openai("This organization has been disabled."), F.CREDENTIAL),
    (403, openai("Your account was flagged and suspended"), F.CREDENTIAL),
    (429, openai("账户存违规行为,账号已被锁定", "1121"), F.CREDENTIAL),
    (None, minimax(1004, "login fail"), F.CREDENTIAL),
    (None, baidu(110, "Access token invalid or no longer valid"), F.CREDENTIAL),
    (401, claude("authentication_error", "invalid x-api-key"), F.CREDENTIAL),
    (407, {}, F.CREDENTIAL),
    (403, openai("Project `p` does not have access to model `m`", "model_not_found"), F.CLOSED),
    (403, claude("permission_error", "Your account has no access to this model."), F.CLOSED),
    # The operator's model or address
    (404, {"detail": "Not Found"}, F.MODEL),
    (404, openai("File Not Found", 404, "not_found_error"), F.MODEL),
    (404, openai("Invalid URL (POST /v1/v1/chat/completions)"), F.MODEL),
    (404, openai("The model `x` does not exist or you do not have access to it.", "model_not_found"), F.MODEL),
    (404, openai("No endpoints found for nousresearch/hermes-3:free.", 404), F.MODEL),
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}, F.MODEL),
    (400, openai("Model Not Exist", "invalid_request_error"), F.MODEL),
    (400, openai("foo/bar is not a valid model ID", 400), F.MODEL),
    (400, openai("Invalid model: mistral-huge", "1500"), F.MODEL),
    (400, openai("No models loaded. Please load a model in the developer page"), F.MODEL),
    (400, openai("模型不存在,请检查模型代码", "1211"), F.MODEL),
    (404, claude("not_found_error", "model: claude-nope"), F.MODEL),
    (400, openai("The model `llama3` has been decommissioned and is no longer supported.", "model_decommissioned"),
     F.MODEL),
    (400, {"message": "Invocation of model ID x with on-demand throughput isn't supported."}, F.MODEL),
    (410, {}, F.MODEL),
    (405, {"detail": "Method Not Allowed"}, F.MODEL),
    (400, openai("The plain HTTP request was sent to HTTPS port"), F.MODEL),
    (400, openai("Client sent an HTTP request to an HTTPS server."), F.MODEL),
    # One request's own, another deployment may do
    (404, openai("No endpoints found that support tool use. To learn more, visit: https://x.y", 404), F.UNSUITABLE),
    (404, openai("No endpoints found that support the provided 'tool_choice' value.", 404), F.UNSUITABLE),
    (404, openai("No endpoints found that support image input", 404), F.UNSUITABLE),
    (404, openai("No allowed providers are available for the selected model.", 404), F.UNSUITABLE),
    (402, openai("This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can "
                 "only afford 3919.", 402), F.UNSUITABLE),
    (402, openai("Prompt tokens limit exceeded: 230799 > 91442."), F.UNSUITABLE),
    (400, openai("registry.ollama.ai/library/gemma3:4b does not support tools", None, "api_error"), F.UNSUITABLE),
    (400, openai('"auto" tool choice requires --enable-auto-tool-choice'), F.UNSUITABLE),
    (400, openai("This model doesn't support image inputs."), F.UNSUITABLE),
    (400, {"error": '"qwen3-coder" does not support thinking'}, F.UNSUITABLE),
    (404, openai("No endpoints found matching your data policy (Zero data retention).", 404), F.UNSUITABLE),
    (400, openai("Failed to call a function. Please adjust your prompt.", "tool_use_failed"), F.UNSUITABLE),
    (400, openai("Failed to generate JSON.", "json_validate_failed", "invalid_request_error"), F.UNSUITABLE),
    (404, openai("No such File object: file-abc123456"), F.UNSUITABLE),
    (401, openai("Failed to download the image from https://x.y/z.png: 401"), F.UNSUITABLE),
    (403, openai("Could not fetch the file"), F.UNSUITABLE),
    (404, openai("The model `x` does not support Embeddings API", 404), F.UNSUITABLE),
    (410, openai("No such File object: file-abc123456"), F.UNSUITABLE),
    (400, openai("Function calling is not enabled for models/gemma-3"), F.UNSUITABLE),
    (400, openai("Invalid content type. image_url is only supported by certain models."), F.UNSUITABLE),
    (400, openai("At most 0 image(s) may be provided in one request."), F.UNSUITABLE),
    (500, openai("image input is not supported - hint: you may need to provide the mmproj"), F.UNSUITABLE),
    (501, openai("This server does not support embeddings", 501, "not_supported_error"), F.UNSUITABLE),
    (403, claude("permission_error", "This beta is not open to your organization."), F.UNSUITABLE),
    # One request's own, and refused for what it says
    (403, openai("openai/gpt-4 requires moderation on OpenAI. Your input was flagged.", 403), F.REFUSED),
    (403, openai("Request blocked by a guardrail"), F.REFUSED),
    (400, openai("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                 "content_filter"), F.REFUSED),
    (400, openai("Input data may contain inappropriate content.", "data_inspection_failed"), F.REFUSED),
    (400, openai("The request was rejected because it was considered high risk", None, "content_filter"), F.REFUSED),
    (400, openai("your prompt was flagged as potentially violating our usage policy.", "invalid_prompt"),
     F.REFUSED),
    (400, openai("Content Exists Risk", "invalid_request_error", "invalid_request_error"), F.REFUSED),
    (400, openai("系统检测到输入或生成内容可能包含不安全或敏感内容", "1301"), F.REFUSED),
    (None, minimax(1026, "input new_sensitive"), F.REFUSED),
    (400, openai("The request failed because the input text may contain sensitive information.", "X"), F.REFUSED),
    (403, {"code": "The caller does not have permission to execute the specified operation",
           "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}, F.REFUSED),
    (None, {"error": {"message": "Content Exists Risk"}}, F.REFUSED),
    (400, openai("x", "prohibited_content"), F.REFUSED),
    (400, claude("invalid_request_error", "Output blocked by content filtering policy"), F.REFUSED),
    # One request's own, and too long
    (400, openai("This model's maximum context length is 10000 tokens. However, you requested 10515 tokens", 400),
     F.TOO_LONG),
    (400, openai("x", "context_length_exceeded"), F.TOO_LONG),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "n_ctx": 9,
                     "type": "exceed_context_size_error"}}, F.TOO_LONG),
    (400, {"error": "Trying to keep the first 15857 tokens when context the overflows."}, F.TOO_LONG),
    (400, openai("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]"), F.TOO_LONG),
    (400, openai("The input token count (2000000) exceeds the maximum number of tokens (1048576)."), F.TOO_LONG),
    (400, openai("max_tokens must be at least 1, got -186."), F.TOO_LONG),
    (400, openai("The input (9000 tokens) is longer than the model's context length (8192 tokens).", 400), F.TOO_LONG),
    (422, openai("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` "
                 "tokens and 512 `max_new_tokens`"), F.TOO_LONG),
    (422, {"error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000"}, F.TOO_LONG),
    (500, openai("prompt is too long: context window exceeded"), F.TOO_LONG),
    (None, {"error": {"message": "This model's maximum context length is 4096 tokens."}}, F.TOO_LONG),
    (400, claude("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"
                 ", decrease input length or `max_tokens` and try again"), F.TOO_LONG),
    (400, openai("Input tokens exceed the configured limit of 272000 tokens."), F.TOO_LONG),
    (400, openai("Unable to submit request because the input token count is 4000 but model only supports up to 3276."),
     F.TOO_LONG),
    (400, openai("You passed 4001 tokens. However, the model's context length is only 32768 tokens."), F.TOO_LONG),
    (400, {"error": "This model's maximum prompt length is 131072 but the request contains 200000."}, F.TOO_LONG),
    (400, openai("Invalid request: Your request exceeded model token limit: 8192"), F.TOO_LONG),
    (400, openai("Total tokens of image and text exceed max message tokens", "InvalidParameter"), F.TOO_LONG),
    (400, openai("Input length 40000 exceeds the maximum length 32768", "InvalidParameter"), F.TOO_LONG),
    (400, openai("x", "model_max_prompt_tokens_exceeded"), F.TOO_LONG),
    (413, openai("Request body too large for gpt-4o. Max size: 8000 tokens.", "tokens_limit_reached"), F.TOO_LONG),
    (400, {"message": "Malformed input request: expected maxLength: 40960, actual: 50000"}, F.TOO_LONG),
    (None, minimax(2013, "invalid params, context window exceeds limit"), F.TOO_LONG),
    (400, openai("Input is too long. Max input tokens: 4096"), F.TOO_LONG),
    (400, claude("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), F.TOO_LONG),
    # One request's own
    (400, openai("tools[0].name is missing"), F.REQUEST),
    (400, openai("Could not fetch image from https://x.y"), F.REQUEST),
    (422, {"detail": [{"loc": ["body", "top_p"], "msg": "Input should be a valid number"}]}, F.REQUEST),
    (413, {}, F.REQUEST),
    (400, openai("max_tokens is too large: 5000. This model supports at most 4096 completion tokens."), F.REQUEST),
    (400, openai("too many tokens: max tokens must be less than or equal to 4096, the maximum output"), F.REQUEST),
    (None, openai("no", None, "invalid_request_error"), F.REQUEST),
    (None, minimax(2013, "invalid params"), F.REQUEST),
    (400, claude("invalid_request_error", "max_tokens: 9 > 8"), F.REQUEST),
    # The upstream's own
    (503, {}, F.OVERLOADED),
    (529, claude("overloaded_error"), F.OVERLOADED),
    (None, openai("busy", None, "overloaded_error"), F.OVERLOADED),
    (500, openai("x", None, "engine_overloaded_error"), F.OVERLOADED),
    (500, openai("x", "server_is_overloaded", "server_error"), F.OVERLOADED),
    (498, {"error": {"message": "Flex tier capacity exceeded"}}, F.OVERLOADED),
    (504, {}, F.TIMEOUT),
    (524, {}, F.TIMEOUT),
    (None, minimax(1001, "timeout"), F.TIMEOUT),
    (500, claude("timeout_error"), F.TIMEOUT),
    (307, {}, F.REDIRECT),
    (500, openai("CUDA out of memory"), F.FAILED),
    (None, {"error": "text"}, F.FAILED),
    (418, {}, F.FAILED),
    (522, {}, F.FAILED),
    (403, {"message": "Attention Required! | Cloudflare: Sorry, you have been blocked"}, F.FAILED),
    (403, {"message": "Just a moment..."}, F.FAILED),
    (500, claude("api_error"), F.FAILED),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "fault"), CASES)
def test_status_and_words_say_whose_fault_it_is(status: int | None, body: dict[str, Any], fault: Fault) -> None:
    report = read_value(body)

    assert fault_of(report, status_of(report, status)) is fault


def test_every_row_has_a_case() -> None:
    hit = set()
    for status, body, _ in CASES:
        report = read_value(body)
        found = status_of(report, status)
        hit |= {next((place for place, row in enumerate(TABLE) if row.fits(found, report)), None)}

    assert [TABLE[place] for place in range(len(TABLE)) if place not in hit] == []


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
@pytest.mark.parametrize(
    "words",
    ["messages.0.content is missing", "temperature must be at most 2", "Unsupported value: 'top_k'",
     "tool_call_id 'call_1' was not found in the messages", "Invalid token at position 3 of the grammar"],
)  # fmt: skip
def test_ordinary_words_leave_the_decision_to_the_status(status: int, words: str) -> None:
    assert fault_of(read_value(openai(words)), status) is fault_of(read_value({}), status)


@pytest.mark.parametrize("quote", ["'{}'", '"{}"', "`{}`", "'x' {}'", "'x'y {} z'"])
@pytest.mark.parametrize("words", ["API key not valid", "insufficient balance", "model not found", "too many requests"])
def test_what_a_server_quotes_of_the_request_lets_nothing_rest(words: str, quote: str) -> None:
    echo = quote.format(words)

    assert fault_of(read_value(openai(f"Invalid value: {echo}. Supported values are: 'user'")), 400) is F.REQUEST
    assert fault_of(read_value({"detail": f"unexpected role {echo}"}), 422) is F.REQUEST


def test_what_names_a_place_in_the_request_is_the_requests_own() -> None:
    body = {"error": {"message": "Unknown role insufficient balance", "param": "messages[0].role", "code": None}}

    assert fault_of(read_value(body), 400) is F.REQUEST


# What becomes of it


def error(status: int | None, body: dict[str, Any], **headers: str) -> Any:
    """The error that a report becomes."""
    reports = Reports()
    return reports.error_of_payload(body) if status is None else reports.error_of(status, json.encode(body), headers)


@pytest.mark.parametrize(("status", "body", "fault"), [case for case in CASES if case[2] in (F.UNSUITABLE, F.REFUSED)])
def test_a_request_that_one_deployment_cannot_serve_harms_nobody_else(
    status: int | None, body: dict[str, Any], fault: Fault
) -> None:
    found = error(status, body)

    assert type(found) is (UpstreamUnsuitable if fault is F.UNSUITABLE else UpstreamRejected)
    assert (found.retry_elsewhere, found.cooldown_s, found.counts_as_failure) == (fault is F.UNSUITABLE, 0, False)
    assert found.status == (status if status in (400, 402, 403, 404, 422) else 400)


@pytest.mark.parametrize(
    ("status", "body", "fault"), [case for case in CASES if case[2] in (F.LIMIT, F.NO_CREDIT, F.CREDENTIAL, F.MODEL)]
)
def test_what_is_the_operators_is_tried_elsewhere_and_rests(
    status: int | None, body: dict[str, Any], fault: Fault
) -> None:
    kind = {F.LIMIT: UpstreamRateLimited, F.NO_CREDIT: UpstreamExhausted}.get(fault, UpstreamMisconfigured)

    found = error(status, body)

    assert isinstance(found, kind)
    assert found.retry_elsewhere
    assert found.cooldown_s > 0
    assert not found.counts_as_failure
    assert found.status not in (400, 401)


def test_an_account_without_credit_is_reported_in_our_words(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports("deepseek")

    with caplog.at_level("WARNING"):
        found = reports.error_of(402, json.encode(openai("Insufficient Balance")), {})

    assert "Insufficient" not in found.message
    assert "has no credit left" in found.message
    assert "adapter deepseek: the account at the upstream has no credit: Insufficient Balance" in caplog.text


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [({}, openai("slow down"), 5), ({"retry-after": "7"}, openai("try again in 9m"), 7),
     ({}, openai("Please try again in 9.5s"), 9.5), ({}, openai("try again in 20m0s"), 300)],
)  # fmt: skip
def test_a_limit_rests_as_long_as_headers_or_words_say(
    headers: dict[str, str], body: dict[str, Any], seconds: float
) -> None:
    assert error(429, body, **headers).cooldown_s == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7s"}, 7), ({"retry-after": "1m30s"}, 90), ({"retry-after": "850ms"}, 0.85),
        ({"retry-after": "1H"}, 300), ({"retry-after": "soon"}, 5), ({"ratelimit-reset": "9"}, 9),
        ({"x-ratelimit-reset": "12.5"}, 12.5), ({"x-ratelimit-reset": "1000000001"}, 1),
        ({"ratelimit-reset": "9", "retry-after": "7"}, 7), ({"ratelimit-reset": "?"}, 5),
        ({"retry-after": "7, 3"}, 7), ({"retry-after": "2001-01-01T00:00:00Z"}, 1),
        ({"x-ratelimit-reset-requests": "8s"}, 8), ({"X-RateLimit-Reset-Tokens-Minute": "11.5"}, 11.5),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "99",
          "x-ratelimit-reset-tokens": "1m3s", "x-ratelimit-remaining-tokens": "0"}, 63),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "99"}, 5),
        ({"x-ratelimit-reset-after": "6"}, 6), ({"ratelimit": "limit=10, remaining=0, reset=13"}, 13),
        ({"ratelimit": '"default";r=0;t=14'}, 14), ({"anthropic-ratelimit-tokens-reset": "2001-01-01T00:00:00Z"}, 1),
        ({"anthropic-ratelimit-requests-reset": "2001-01-01T00:00:00Z", "anthropic-ratelimit-requests-remaining": "5"},
         5),
    ],
)  # fmt: skip
def test_a_wait_may_be_written_otherwise_than_in_seconds(headers: dict[str, str], seconds: float) -> None:
    assert error(429, openai("slow down"), **headers).cooldown_s == seconds


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_moment_of_a_limits_end_is_a_wait(scale: int) -> None:
    headers = {"x-ratelimit-reset": str(int((time.time() + 60) * scale))}

    assert 50 < error(429, openai("slow down"), **headers).cooldown_s <= 60


@pytest.mark.parametrize(
    "form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y", "%Y-%m-%dT%H:%M:%SZ"]
)
@pytest.mark.parametrize("header", ["retry-after", "x-ratelimit-reset"])
def test_a_wait_may_be_a_moment_in_any_zone_of_ours(monkeypatch: pytest.MonkeyPatch, form: str, header: str) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    moment = time.strftime(form, time.gmtime(time.time() + 60))

    try:
        assert 50 < error(429, openai("slow down"), **{header: moment}).cooldown_s <= 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_limit_that_was_not_reached_is_no_wait() -> None:
    assert error(503, openai("busy"), **{"ratelimit-reset": "200"}).cooldown_s < 200
