"""Every error that a client can meet, as one tree.

GatewayError                    status  code
├── InvalidRequest              400     the row of the table that was broken
├── Unauthorized                401     invalid_api_key
├── Forbidden                   403
├── UnknownModel                404     model_not_found
├── UnknownPath                 404     unknown_url
├── MethodNotAllowed            405     method_not_supported
├── RequestTimeout              408     request_timeout
├── RequestTooLarge             413     request_too_large
├── UnsupportedMediaType        415     unsupported_media_type
├── RateLimited                 429     rate_limit_exceeded
├── BudgetExceeded              429     budget_exceeded
├── InternalError               500     internal_error: always a bug of ours
├── AccountsUnavailable         503     accounts_unavailable
├── Unpriced                    503     unpriced
├── NoDeployment                503     no_backend_available
├── ShuttingDown                503     server_shutdown
├── ClientTooSlow               503     client_too_slow
└── UpstreamError
    ├── UpstreamRejected        as upstream said: the caller's request
    │   └── UpstreamUnsuitable  as upstream said: this deployment cannot serve this request, another may
    ├── UpstreamMisconfigured   502     upstream_authentication_error: our credential or model name
    │   └── UpstreamClosed      403     the account may not use this model
    ├── UpstreamExhausted       503     upstream_quota_exhausted: the account there has no credit
    ├── UpstreamRateLimited     429     rate_limit_exceeded
    ├── UpstreamUnreachable     502     upstream_error, upstream_tls: nothing was sent
    ├── UpstreamFailed          502     upstream_error
    │   └── UpstreamRedirected  502     upstream_redirect
    ├── UpstreamOverloaded      503     overloaded
    ├── UpstreamTimeout         504     upstream_timeout
    ├── UpstreamBroken          502     upstream_invalid_response
    │   └── UpstreamTruncated   502     upstream_stream_truncated: a stream without its end
    ├── OutOfDescriptors        503     gateway_overloaded: no further connection can be opened here
    └── UpstreamUnfit           502     upstream_invalid_json: whole, and not in the form that was asked for

An upstream error carries its rule for the attempt loop:

- ``retry_same``: the same deployment may be asked again, after a short wait;
- ``retry_elsewhere``: another deployment may be asked;
- ``cooldown_s``: how long the deployment gets no request, whatever its circuit breaker says;
- ``counts_as_failure``: the circuit breaker and the success rate of the deployment count it.

Nothing changes an error after it was made: whatever differs from its class goes into the constructor.
"""

import errno
import math
from collections.abc import Mapping
from typing import Any, ClassVar

#: How long to wait after a 429 or 503 whose time is not known, in seconds: some clients repeat none without it.
_DEFAULT_WAIT_S = 1.0


class GatewayError(Exception):
    """An answer other than success. ``message`` is for the client: it says what to do, and holds no secret."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    #: Which of the caller's limits refused the request.
    limit: str | None = None
    #: ``x-should-retry``: False when the same request cannot succeed later; None leaves it to the status.
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        more_headers: Mapping[str, str] | None = None,
        limit: str | None = None,
    ) -> None:
        """What is None stays as the class has it; ``more_headers`` go with the answer."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self._more_headers = dict(more_headers or {})
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type
        if code is not None:
            self.code = code
        if limit is not None:
            self.limit = limit

    @property
    def wait_s(self) -> float | None:
        """How long the client should wait before it repeats the request, in seconds; None leaves that to the client."""
        if self.retry_after_s is None and self.status in (429, 503) and self.should_retry is None:
            return _DEFAULT_WAIT_S
        return self.retry_after_s

    def to_openai(self) -> dict[str, Any]:
        """Return the body that OpenAI's clients read: ``{"error": {...}}`` with all four keys."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with the answer; most of them steer the client's retries."""
        found = dict(self._more_headers)
        if (wait_s := self.wait_s) is not None:
            found["retry-after"] = str(max(1, math.ceil(wait_s)))
            if wait_s < 1:
                found["retry-after-ms"] = str(max(1, math.ceil(wait_s * 1000)))
        if self.should_retry is not None:
            found["x-should-retry"] = "true" if self.should_retry else "false"
        return found


class InvalidRequest(GatewayError):
    """The request itself is wrong; ``param`` names the place."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(GatewayError):
    """No key, or a key that is not ours."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """A known key without the right to do this."""

    status = 403
    type = "permission_error"


class UnknownModel(GatewayError):
    """No deployment serves this model id."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownPath(GatewayError):
    """No route has this path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(GatewayError):
    """The path exists, the method on it does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class RequestTimeout(GatewayError):
    """The request's body did not arrive within its deadline."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class RequestTooLarge(GatewayError):
    """The request's body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaType(GatewayError):
    """The request's body is not JSON in UTF-8, or is encoded."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimited(GatewayError):
    """This key has used up one of its limits."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class BudgetExceeded(GatewayError):
    """A budget of this key, its team or of all keys has too little left; ``retry_after_s`` is when it renews."""

    status = 429
    type = "insufficient_quota"
    code = "budget_exceeded"
    limit = "budget"
    should_retry = False


class InternalError(GatewayError):
    """A bug of ours. The message says nothing of it; the log does, under the request's id."""

    code = "internal_error"


class AccountsUnavailable(GatewayError):
    """The database of keys and usage cannot be used now."""

    status = 503
    type = "server_error"
    code = "accounts_unavailable"


class Unpriced(GatewayError):
    """A budget binds the caller, and the price of the model is not known."""

    status = 503
    code = "unpriced"
    should_retry = False


class NoDeployment(GatewayError):
    """The model is known and nothing can serve it now."""

    status = 503
    code = "no_backend_available"


class ShuttingDown(GatewayError):
    """The process ends before the answer could."""

    status = 503
    code = "server_shutdown"


class ClientTooSlow(GatewayError):
    """A stream that others share was read so slowly that what waited for this client became too much."""

    status = 503
    code = "client_too_slow"


class UpstreamError(GatewayError):
    """Something went wrong at or on the way to an upstream; ``retry_after_s`` is the deployment's cooldown, too."""

    status = 502
    code: str | None = "upstream_error"
    #: May the same deployment be asked again, after a short wait?
    retry_same: ClassVar[bool] = False
    #: May another deployment be asked?
    retry_elsewhere: ClassVar[bool] = True
    #: Does it count against the health of this one?
    counts_as_failure: ClassVar[bool] = True
    #: How long this one gets no request when the upstream gave no time, in seconds.
    default_cooldown_s: ClassVar[float] = 0.0
    #: What the upstream said, cleaned, for the code that asked it; clients read ``message``, which may hide it.
    said: str = ""

    @property
    def cooldown_s(self) -> float:
        """How long this deployment gets no request, in seconds; 0 leaves it to its circuit breaker."""
        return self.default_cooldown_s if self.retry_after_s is None else self.retry_after_s


class UpstreamRejected(UpstreamError):
    """The upstream refused the caller's request (400, 413, 422): its status, code and message are passed on."""

    status = 400
    type = "invalid_request_error"
    code = None
    retry_elsewhere = False
    counts_as_failure = False


class UpstreamUnsuitable(UpstreamRejected):
    """This deployment cannot serve this one request and another may: no tools there, or too little credit for it."""

    retry_elsewhere = True


class UpstreamMisconfigured(UpstreamError):
    """The operator's credential, model name or address is wrong at the upstream."""

    code: str | None = "upstream_authentication_error"
    counts_as_failure = False
    default_cooldown_s = 1800.0
    should_retry = False


class UpstreamClosed(UpstreamMisconfigured):
    """The operator's account at the upstream may not use this model, and clients are to know."""

    status = 403
    type = "permission_error"
    code = None


class UpstreamExhausted(UpstreamError):
    """The operator's account at the upstream has no credit."""

    status = 503
    code = "upstream_quota_exhausted"
    counts_as_failure = False
    default_cooldown_s = 300.0
    should_retry = False


class UpstreamRateLimited(UpstreamError):
    """A limit of the operator's account at the upstream is reached for now."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_same = True
    counts_as_failure = False
    default_cooldown_s = 5.0


class UpstreamUnreachable(UpstreamError):
    """Connect, DNS or TLS failed: nothing of the request was sent."""


class UpstreamFailed(UpstreamError):
    """The upstream answered 5xx, or hung up."""

    retry_same = True


class UpstreamRedirected(UpstreamFailed):
    """The upstream answered with a redirect, which is never followed."""

    code = "upstream_redirect"
    retry_same = False


class UpstreamOverloaded(UpstreamError):
    """503 or 529 from an upstream."""

    status = 503
    code = "overloaded"
    retry_same = True


class UpstreamTimeout(UpstreamError):
    """A phase of the exchange took longer than its limit."""

    status = 504
    code = "upstream_timeout"


class UpstreamBroken(UpstreamError):
    """The upstream's answer is not what it claims to be: bad JSON, or bad events."""

    code = "upstream_invalid_response"


class UpstreamTruncated(UpstreamBroken):
    """A stream stopped before the upstream said that the answer was complete."""

    code = "upstream_stream_truncated"
    retry_same = True


class OutOfDescriptors(UpstreamError):
    """This process may open no further connection: its own limit is reached, and no upstream is at fault."""

    status = 503
    code = "gateway_overloaded"
    retry_elsewhere = False
    counts_as_failure = False

    @classmethod
    def default(cls) -> "OutOfDescriptors":
        """Return the error as clients read it wherever the system refuses."""
        return cls("The gateway has too many open connections: try again.", retry_after_s=1)

    @staticmethod
    def is_cause(error: BaseException) -> bool:
        """Return whether the system refused a file or connection because this process, or all, have too many."""
        return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


class UpstreamUnfit(UpstreamError):
    """The answer is whole and not in the form that was asked for: another may be, and the deployment is healthy."""

    code = "upstream_invalid_json"
    counts_as_failure = False
