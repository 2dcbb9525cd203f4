"""Errors in Anthropic's form, and with the words that its clients act on."""

import re

from one_api.dialects.json import JSONObject
from one_api.dialects.parameter_names import IN_MESSAGES, in_messages, is_foreign, with_own_names
from one_api.errors import GatewayError, UpstreamError, UpstreamUnreachable

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
#: Codes of accounts that are empty: to try again later is of no use.
_SPENT = frozenset({"insufficient_quota", "upstream_quota_exhausted"})
#: What servers say of a prompt that is too long; the sizes are those of the prompt and of the room for it.
_SIZES = (
    # OpenAI, vLLM: "maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages,
    # 1000 in the completion)", "... your messages resulted in 9000 tokens", "... your request has 9000 input tokens".
    re.compile(r"maximum context length is (?P<room>\d+)\D.*?(?P<asked>\d+)(?: input)? tokens", re.DOTALL),
    # llama.cpp: "the request (9000 tokens) exceeds the available context size (8192 tokens)".
    re.compile(r"\((?P<asked>\d+) tokens\) exceeds[^(]*\((?P<room>\d+) tokens\)"),
    # Anthropic: "prompt is too long: 9000 tokens > 8192 maximum".
    re.compile(r"too long: (?P<asked>\d+) tokens > (?P<room>\d+)"),
)
#: What they say of a prompt and the length of the answer that are too long together; vLLM: "(32000 > 8192 - 500)".
_PARTS = (
    re.compile(r"\((?P<prompt>\d+) in the (?:messages|prompt)[^,]*, (?P<answer>\d+) in the completion\)"),
    re.compile(r"\((?P<answer>\d+) > \d+ - (?P<prompt>\d+)\)"),
)


def status_of(error: GatewayError) -> int:
    """Return the status with which Anthropic's clients know what to do."""
    if error.code in _SPENT:
        return 429
    if error.code == "model_not_allowed":  # Claude Code explains a model that it may not use by this status alone
        return 404
    if error.status == 503 or isinstance(error, UpstreamUnreachable):
        return 529
    return error.status


def error_of(error: GatewayError) -> JSONObject:
    """Return the error object: its type and message, and with ``details`` what the SDK asks for."""
    status = status_of(error)
    if error.code in _SPENT:
        kind = "billing_error"
    else:
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    found: JSONObject = {"type": kind, "message": message_of(error)}
    if error.code == "thread_unsupported_request":
        found["details"] = {"error_code": error.code}
    return found


def to_anthropic(error: GatewayError, request_id: str = "") -> JSONObject:
    """Return the body of an answer that is an error."""
    return {"type": "error", "error": error_of(error), "request_id": request_id}


def headers_of(error: GatewayError) -> dict[str, str]:
    """Return the headers that go with it; what our own attempts could not mend, the client's cannot either.

    Claude Code would try again for minutes.
    """
    found = error.headers()
    tried = isinstance(error, UpstreamError) and status_of(error) >= 500
    if tried or error.status == 401 or error.code in _SPENT:
        found["x-should-retry"] = "false"
    return found


def message_of(error: GatewayError) -> str:
    """Return the message, with Anthropic's names where chat's are others: it begins with the place of what is wrong.

    That of a prompt which is too long is Anthropic's own, at which clients shorten it.
    """
    if error.code == "context_length_exceeded":
        return too_long(error.message)
    if is_foreign(error, IN_MESSAGES):
        return error.message
    message = with_own_names(error.message, in_messages)
    where = in_messages(error.param) if error.param is not None else None
    return message if where == error.param else f"{where}: {message}"


def too_long(message: str) -> str:
    """Return Anthropic's sentence for what a server says of a prompt that is too long."""
    sizes, parts = _first(_SIZES, message), _first(_PARTS, message)
    if sizes is None:
        return message if "prompt is too long" in message else f"prompt is too long: {message}"
    asked, room = int(sizes["asked"]), int(sizes["room"])
    if parts is not None and int(parts["prompt"]) < room:
        return (
            f"input length and `max_tokens` exceed context limit: {parts['prompt']} + {parts['answer']} > {room}, "
            "decrease input length or `max_tokens` and try again"
        )
    return f"prompt is too long: {asked} tokens > {room} maximum" if asked > room else f"prompt is too long: {message}"


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> re.Match[str] | None:
    return next((found for pattern in patterns if (found := pattern.search(text))), None)
