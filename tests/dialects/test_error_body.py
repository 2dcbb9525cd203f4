"""Error bodies in every shape seen, read as one report."""

import json
from typing import Any

import pytest

from one_api.dialects.error_body import read, read_value
from one_api.dialects.payloads import ErrorPayload, check_error

BAD_KEY = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT",
                     "details": [{"@type": "t/ErrorInfo", "reason": "API_KEY_INVALID"}]}}  # fmt: skip
PLACES = {"detail": [{"type": "float_type", "loc": ["body", "top_p"], "msg": "Input should be a valid number"},
                     {"type": "missing", "loc": ["body", "model"], "msg": "Field required"}]}  # fmt: skip
PLACED = "top_p: Input should be a valid number; model: Field required"

#: Shape -> the body, its words, and some of what else it says.
SHAPES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "OpenAI": ({"error": {"message": "No.", "type": "t", "param": "p", "code": "c"}}, "No.",
               {"type": "t", "param": "p", "code": "c"}),
    "text": ({"error": "model 'x' not found"}, "model 'x' not found", {}),
    "an error in an error": ({"error": {"error": {"message": "No.", "code": "c"}}}, "No.", {"code": "c"}),
    "vLLM": ({"object": "error", "message": "No.", "type": "BadRequestError", "code": 400}, "No.",
             {"type": "BadRequestError", "status": 400}),
    "Google": (BAD_KEY, "API key not valid.", {"status": 400}),
    "Google's list": ([BAD_KEY], "API key not valid.", {"status": 400}),
    "FastAPI": (PLACES, PLACED, {"param": "top_p", "code": None, "type": None}),
    "FastAPI in words": ({"detail": "Not authenticated"}, "Not authenticated", {}),
    "Mistral": ({"object": "error", "message": PLACES, "type": "invalid_request_error", "param": None}, PLACED,
                {"type": "invalid_request_error"}),
    "Cloudflare": ({"result": None, "success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
                   "Authentication error", {}),
    "Anthropic": ({"type": "error", "error": {"type": "api_error", "message": "No."}}, "No.",
                  {"is_claude": True, "type": "api_error"}),
    "MiniMax": ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "insufficient balance",
                {"code": "minimax:1008", "status": None}),
    "Baidu": ({"error_code": 18, "error_msg": "Open api qps request limit reached"},
              "Open api qps request limit reached", {"code": "baidu:18"}),
    "DashScope": ({"code": "InvalidApiKey", "message": "Invalid API-key provided.", "request_id": "r"},
                  "Invalid API-key provided.", {"code": "InvalidApiKey"}),
    "Zhipu": ({"error": {"code": "1113", "message": "您的账户已欠费"}}, "您的账户已欠费", {"code": "1113"}),
    "Chinese proxies": ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, "404 NOT_FOUND", {"status": 500}),
    "AWS": ({"__type": "com.amazon.coral#ThrottlingException", "Message": "Rate exceeded"}, "Rate exceeded",
            {"type": "ThrottlingException"}),
    "AWS in a stream": ({"throttlingException": {"message": "Rate exceeded"}}, "Rate exceeded",
                        {"type": "throttlingException"}),
    "words in data": ({"code": 500, "data": {"err_msg": "No."}}, "No.", {"status": 500}),
    "words in a header": ({"header": {"code": 10013, "message": "No.", "sid": "x"}}, "No.", {}),
    "RFC 9457": ({"type": "about:blank", "title": "Forbidden", "detail": "No such plan", "status": 403},
                 "No such plan", {"status": 403}),
    "Spring": ({"timestamp": "x", "status": 404, "error": "Not Found", "path": "/v1"}, "Not Found", {"status": 404}),
    "OpenRouter": ({"error": {"message": "Provider returned error", "code": 400,
                              "metadata": {"raw": json.dumps({"error": {"message": "Too hot."}})}}},
                   "Too hot.", {"status": 400}),
    "JSON in a string": (json.dumps(json.dumps({"error": {"message": "No.", "code": "c"}})), "No.", {"code": "c"}),
    "JSON as the message": ({"error": {"message": json.dumps(BAD_KEY), "code": 400}}, "API key not valid.", {}),
    "JSON in a sentence": ({"error": {"message": 'Provider said (404): {"error": {"message": "No."}}'}}, "No.", {}),
    "a list of texts": ({"errors": ["No.", "Never."]}, "No.; Never.", {}),
    "empty": ({"error": {}}, "", {}),
    "nothing of use": ({"a": [1, None, True]}, "", {}),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_is_read(shape: str) -> None:
    body, words, facts = SHAPES[shape]

    report = read(body.encode() if isinstance(body, str) else json.dumps(body).encode())

    assert report.message == words
    assert {name: getattr(report, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"upstream connect error\n", "upstream connect error"),
        (b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>",
         "502 Bad Gateway"),
        (b"<!DOCTYPE html><title>x | 524</title><style>p{}</style><h1>A timeout &amp; more</h1>",
         "x | 524: A timeout & more"),
        (b"<html><script>var a = '{}'</script><p>Sign in</p></html>", "Sign in"),
        (b"", ""), (b"null", ""), (b"12", ""), (b"\x00\x01\xff\xfe\x80", ""), (b'{"error": {"mess', '{"error": {"mess'),
        (b"{" * 5000, "{" * 4096), (b'"text"', "text"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_gives_its_words(body: bytes, words: str) -> None:
    assert read(body).message == words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Response": {"Error": {"Code": "InvalidParameter", "Message": "No."}, "RequestId": "x"}}, "No."),
        ({"ResponseMetadata": {"RequestId": "x", "Error": {"Code": "C", "Message": "No."}}}, "No."),
        ({"code": "c", "description": "No."}, "No."),
        ({"result": {"error": "No."}}, "No."),
        ({"errors": {"messages": ["No.", "Never."]}}, "No."),
        ({"error": {"message": {"text": "No."}}}, "No."),
        ({"ok": False, "failures": [{"id": 1, "cause": {"Text": "No."}}]}, "No."),
    ],
)
def test_words_are_found_in_a_shape_that_is_new_to_us(body: Any, words: str) -> None:
    assert read_value(body).message == words


def test_codes_are_found_wherever_they_stand() -> None:
    azure = {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}
    cloudflare = {"success": False, "errors": [{"code": 10000, "message": "no"}]}

    assert {"content_filter", "responsibleaipolicyviolation"} <= read_value(azure).names
    assert "api_key_invalid" in read_value(BAD_KEY).names
    assert "cloudflare:10000" in read_value(cloudflare).names


@pytest.mark.parametrize(
    ("report", "seconds"),
    [
        ({"error": {"message": "Please try again in 9m38.016s. More?"}}, 578.016),
        ({"error": {"message": "try again in 850ms"}}, 0.85),
        ({"error": {"message": "Retry after 20 seconds"}}, 20),
        ({"error": {"message": "Please wait 36 seconds before retrying."}}, 36),
        ({"error": {"message": "Please try again in 2 minutes."}}, 120),
        ({"error": {"message": "try again in 1 hour, 5 min"}}, 3900),
        ({"error": {"message": "try again in 1 month"}}, None),
        ({"error": {"message": "x", "details": [{"@type": "t/RetryInfo", "retryDelay": "37s"}]}}, 37),
        ({"error": {"message": "x", "retry_after": 4}}, 4),
        ({"error": {"message": "x", "metadata": {"retry_after_seconds": 4.5}}}, 4.5),
        ({"error": {"message": "x", "retryAfter": "1m30s"}}, 90),
        ({"error": {"message": "x", "retry_after": True}}, None),
        ({"error": {"message": "try again in a moment"}}, None),
    ],
)
def test_a_body_says_when_to_come_back(report: dict[str, Any], seconds: float | None) -> None:
    assert read_value(report).retry_after_s == seconds


@pytest.mark.parametrize(
    "shape",
    [name for name, (body, *_) in SHAPES.items() if isinstance(body, dict) and name not in ("empty", "nothing of use")],
)
def test_a_report_with_status_200_is_known_as_one_and_handed_on_as_it_came(shape: str) -> None:
    body = SHAPES[shape][0]

    with pytest.raises(ErrorPayload) as caught:
        check_error(body)

    assert caught.value.payload is body


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{}], "base_resp": {"status_code": 0, "status_msg": ""}}, {"choices": [], "usage": {}}, {},
        {"choices": [{}], "detail": "x", "code": 1, "message": "x"}, {"error": None, "choices": []},
        {"object": "list", "data": []}, {"choices": [], "prompt_filter_results": [{"content_filter_results": {}}]},
    ],
)  # fmt: skip
def test_an_answer_is_no_report(answer: dict[str, Any]) -> None:
    check_error(answer)


def test_a_hostile_body_is_read_in_bounded_time_and_depth() -> None:
    nested: Any = "words"
    for _ in range(40):
        nested = {"error": nested}

    assert read_value(nested).message == ""
    assert read_value({"errors": [{"message": str(n)} for n in range(100_000)]}).message == "0; 1; 2; 3; 4"
