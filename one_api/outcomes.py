"""What came of a request, as a closed list by whose doing it was: for metrics, logs and traces.

One table maps the tree of errors to it; a class that is not in the table fails a test.
"""

from typing import Literal, TypeAlias

from one_api.errors import (
    AccountsUnavailable,
    BudgetExceeded,
    ClientTooSlow,
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NoDeployment,
    OutOfDescriptors,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    ShuttingDown,
    Unauthorized,
    UnknownModel,
    UnknownPath,
    Unpriced,
    UnsupportedMediaType,
    UpstreamBroken,
    UpstreamClosed,
    UpstreamError,
    UpstreamExhausted,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnfit,
    UpstreamUnreachable,
    UpstreamUnsuitable,
)

Outcome: TypeAlias = Literal[
    "ok",
    "cached",
    "client_invalid",
    "client_auth",
    "client_limited",
    "client_gone",
    "upstream_rejected",
    "upstream_limited",
    "upstream_failed",
    "upstream_timeout",
    "upstream_broken",
    "upstream_config",
    "gateway_unavailable",
    "gateway_shutdown",
    "gateway_bug",
]

#: Every class of the tree of errors, and what came of a request that ended with one.
OF_ERRORS: dict[type[GatewayError], Outcome] = {
    GatewayError: "gateway_bug",
    InvalidRequest: "client_invalid",
    Unauthorized: "client_auth",
    Forbidden: "client_auth",
    UnknownModel: "client_invalid",
    UnknownPath: "client_invalid",
    MethodNotAllowed: "client_invalid",
    RequestTimeout: "client_invalid",
    RequestTooLarge: "client_invalid",
    UnsupportedMediaType: "client_invalid",
    RateLimited: "client_limited",
    BudgetExceeded: "client_limited",
    InternalError: "gateway_bug",
    AccountsUnavailable: "gateway_unavailable",
    Unpriced: "gateway_unavailable",
    NoDeployment: "gateway_unavailable",
    ShuttingDown: "gateway_shutdown",
    ClientTooSlow: "client_gone",
    UpstreamError: "upstream_failed",
    UpstreamRejected: "upstream_rejected",
    UpstreamUnsuitable: "upstream_rejected",
    UpstreamMisconfigured: "upstream_config",
    UpstreamClosed: "upstream_config",
    UpstreamExhausted: "upstream_limited",
    UpstreamRateLimited: "upstream_limited",
    UpstreamUnreachable: "upstream_failed",
    UpstreamFailed: "upstream_failed",
    UpstreamRedirected: "upstream_failed",
    UpstreamOverloaded: "upstream_failed",
    UpstreamTimeout: "upstream_timeout",
    UpstreamBroken: "upstream_broken",
    UpstreamTruncated: "upstream_broken",
    OutOfDescriptors: "gateway_unavailable",
    UpstreamUnfit: "upstream_broken",
}


def outcome_of(error: GatewayError) -> Outcome:
    """Return what came of a request that ended with ``error``; an adapter's own class counts as its base."""
    return next(OF_ERRORS[kind] for kind in type(error).__mro__ if kind in OF_ERRORS)
