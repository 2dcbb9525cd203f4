"""What an error is called in a response that failed after its stream had begun."""

import math
import re

from one_api.dialects.json import JSONObject
from one_api.dialects.parameter_names import IN_RESPONSES, in_responses, is_foreign, with_own_names
from one_api.errors import GatewayError, NoDeployment, UnknownModel, UpstreamError, UpstreamOverloaded

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
#: Of an account at an upstream that is empty.
_SPENT = "upstream_quota_exhausted"
#: Of a model that the key may not use. OpenAI's word for it is that of a model that there is not, and the only one of
#: which Codex knows that to ask again is of no use.
_NOT_ALLOWED = "model_not_allowed"
#: With these statuses the same request fails each time.
_FAULTS_OF_REQUESTS = (400, 413, 422)
#: What a sentence ends with.
_ENDS = (".", "!", "?")


def failure_of(error: GatewayError) -> JSONObject:
    """Return the ``error`` of a failed response.

    Codex reads from the code whether to ask again, and from the text when.
    """
    code = _CODES.get(error.code or "")
    if code is None and isinstance(error, (NoDeployment, UpstreamOverloaded)):
        code = "server_is_overloaded"
    if code is None and error.status in _FAULTS_OF_REQUESTS:
        code = "invalid_prompt"
    message = error_of(error)["error"]["message"]
    if code == "rate_limit_exceeded" and (wait_s := error.wait_s) is not None:
        message = f"{message}{'' if message.endswith(_ENDS) else '.'} Please try again in {max(1, math.ceil(wait_s))}s."
    return {"code": code or "server_error", "message": message}


def status_of(error: GatewayError) -> int:
    """Return the status for clients: Codex repeats any 5xx thirty times, and no lack of quota."""
    return 429 if error.code == _SPENT else error.status


def error_of(error: GatewayError) -> JSONObject:
    """Return an error in the form of chat's, but with the names that the parameters have in this dialect."""
    body = error.to_openai()
    if is_foreign(error, IN_RESPONSES):
        return body
    found, param = body["error"], error.param
    if error.code == _SPENT:
        found["type"] = found["code"] = _CODES[_SPENT]
    if error.code == _NOT_ALLOWED:
        found["code"] = UnknownModel.code
    found["message"] = with_own_names(error.message, in_responses)
    if param is None:
        return body
    found["param"] = in_responses(param)
    # The door itself refuses `messages` as such a word, without a code.
    is_clients_own = param == "messages" and error.code is None and not isinstance(error, UpstreamError)
    if re.match(r"messages\b", param) and not is_clients_own:
        found["param"] = "input"
    return body
