"""What an error is called in a response that failed after its stream had begun."""

import math

from one_api.dialects.json import JSONObject
from one_api.errors import GatewayError, NoDeployment, UpstreamError, UpstreamOverloaded

#: Codes that clients know, by ours and by those that upstreams send.
_CODES = {
    "context_length_exceeded": "context_length_exceeded",
    "insufficient_quota": "insufficient_quota",
    "upstream_quota_exhausted": "insufficient_quota",
    "rate_limit_exceeded": "rate_limit_exceeded",
    "content_policy_violation": "invalid_prompt",
    "content_filter": "invalid_prompt",
    "invalid_prompt": "invalid_prompt",
}


def failure_of(error: GatewayError) -> JSONObject:
    """Return the ``error`` of a failed response.

    Codex reads from the code whether to ask again, and from the text when.
    """
    code = _CODES.get(error.code or "")
    if code is None and isinstance(error, (NoDeployment, UpstreamOverloaded)):
        code = "server_is_overloaded"
    message = error.message
    if code == "rate_limit_exceeded" and (wait_s := error.wait_s) is not None:
        message = f"{message} Please try again in {max(1, math.ceil(wait_s))}s."
    return {"code": code or "server_error", "message": message}


def error_of(error: GatewayError) -> JSONObject:
    """Return an error before any answer: as chat's, but what is an upstream's messages was this client's input."""
    body = error.to_openai()
    if isinstance(error, UpstreamError) and error.param is not None and error.param.partition("[")[0] == "messages":
        body["error"]["param"] = "input"
    return body
