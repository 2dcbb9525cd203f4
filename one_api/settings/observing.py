"""What can be set of how a gateway is observed: its log, its metrics, its traces."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from one_api.settings.addresses import mend_credential
from one_api.settings.kinds import Seconds, Secret
from one_api.settings.validation import checked, mended


def _check_endpoint(url: str) -> tuple[str, str] | None:
    """Return what keeps an address from being a collector's: what stands behind it would be in the log."""
    if "?" in url or "#" in url:
        return "has a query or a fragment", "Put what the collector has to know into OTEL_EXPORTER_OTLP_HEADERS"
    return None


#: An address of HTTP, with or without a path, if there is one.
Endpoint: TypeAlias = Annotated[
    Annotated[str, Meta(pattern=r"^https?://[^\s/]+(/[^\s]*)?\Z")] | None, checked(_check_endpoint)
]


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line per request."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    #: The part of 1 of those requests that went well which get a line; all others always do.
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/metrics``."""

    #: What a scraper sends as ``Authorization: Bearer``. Left out: only processes of this machine may scrape, and not
    #: through a proxy.
    token: Annotated[Secret | None, mended(mend_credential)] = None
    #: Count requests, tokens and cost for each key, too. Danger: the names of keys are in the answer.
    per_key: bool = False


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traces; they need the extra ``otel``."""

    #: Where a collector takes OTLP over HTTP, without ``/v1/traces``. Left out, there are no traces.
    endpoint: Endpoint = None
    #: The whole address for traces, where it is not the endpoint with ``/v1/traces``; it comes before that.
    traces_endpoint: Endpoint = None
    #: There are no traces, whatever else is set.
    disabled: bool = False
    #: The part of 1 of all requests whose traces are kept. Those that failed, failed over or were slow always are.
    ratio: Annotated[float, Meta(ge=0, le=1)] = 0.05
    #: A request that took longer than this is slow.
    slow_s: Seconds = 60.0
    #: What a caller's ``traceparent`` means: its trace goes on; the one of its request is linked to it; nothing.
    trust_trace: Literal["continue", "link", "ignore"] = "continue"
    #: Traces that are kept in a second only because their caller wants it, for each key.
    forced_per_s: Annotated[int, Meta(ge=0, le=100_000)] = 10

    @property
    def url(self) -> str | None:
        """Where traces are sent; None when there are none."""
        if self.disabled:
            return None
        return self.traces_endpoint or (f"{self.endpoint.rstrip('/')}/v1/traces" if self.endpoint else None)
