"""Calls from web pages: which origins, headers and methods a browser is told are fine."""

import os
from collections.abc import Iterator

import pytest

from one_api.config import Config, ConfigError
from tests.support import Gateway, error

from .bed import ADMIN_KEY, KEY, Answer, Bed, Body, running_bed

PAGE = "https://app.example"
#: As configured.
ORIGINS = [
    PAGE,
    "http://localhost:3000",
    "http://[::1]:3000",
    "http://[2001:DB8:0::1]:80",
    "https://secure.example:443",
]
STAINLESS = [
    f"x-stainless-{name}"
    for name in ("lang", "package-version", "os", "arch", "runtime", "runtime-version", "async", "retry-count",
                 "read-timeout", "timeout", "helper-method", "poll-helper")
]  # fmt: skip
EXPOSED = {
    "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "x-gateway-attempts", "x-gateway-deployment", "x-gateway-warnings", "x-gateway-cache", "x-gateway-cost", "age",
}  # fmt: skip


@pytest.fixture(scope="module")
def open_bed() -> Iterator[Bed]:
    """A gateway that two origins may call."""
    with running_bed({"cors_origins": ORIGINS}) as running:
        yield running


def preflight(bed: Bed, origin: str = PAGE, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    """The answer to a browser's question before the call."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return bed.get(path, method="OPTIONS", key=None, headers=asked | more)


def listed(answer: Answer, name: str) -> set[str]:
    """The entries of a header that is a list."""
    return {entry.strip().lower() for entry in (answer.header(name) or "").split(",") if entry.strip()}


@pytest.mark.parametrize(
    "origin", [PAGE, "http://localhost:3000", "http://[::1]:3000", "http://[2001:db8::1]", "https://secure.example"]
)
def test_a_preflight_of_the_official_client(open_bed: Bed, origin: str) -> None:
    wanted = ["authorization", "content-type", *STAINLESS]

    answer = preflight(open_bed, origin, Access_Control_Request_Headers=", ".join(wanted))

    assert answer.status in (200, 204)
    assert answer.header("access-control-allow-origin") == origin
    assert listed(answer, "access-control-allow-headers") == set(wanted)
    assert "post" in listed(answer, "access-control-allow-methods")
    assert int(answer.header("access-control-max-age") or 0) >= 60


@pytest.mark.parametrize(
    "wanted", ["user-agent, x-title, http-referer", "traceparent", "x-api-key, x-something-new", "x-stainless-lang"]
)
def test_whatever_header_a_page_wants_to_send_is_allowed(open_bed: Bed, wanted: str) -> None:
    answer = preflight(open_bed, Access_Control_Request_Headers=wanted)

    assert (answer.status, answer.body) == (204, b"")
    assert listed(answer, "access-control-allow-headers") == {name.strip() for name in wanted.split(",")}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nowhere", "/health"])
def test_a_preflight_is_answered_for_every_address(open_bed: Bed, path: str, method: str) -> None:
    answer = preflight(open_bed, path=path, Access_Control_Request_Method=method)

    assert answer.status == 204
    assert answer.header("access-control-allow-origin") == PAGE


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/admin/routes/m", "/v1/nowhere"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": PAGE}, {"Access-Control-Request-Method": "POST"},
     {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}],
    ids=["plain", "no method", "no origin", "another origin"],
)  # fmt: skip
def test_what_is_no_preflight_of_a_configured_origin_needs_a_key(open_bed: Bed, path: str, headers: Body) -> None:
    stranger = open_bed.get(path, method="OPTIONS", key=None, headers=headers)
    key = ADMIN_KEY if path.startswith("/admin") else KEY
    known = open_bed.get(path, method="OPTIONS", key=key, headers=headers)

    assert (stranger.status, stranger.header("allow")) == (401, None)
    assert known.status in (404, 405)


def test_pages_never_reach_what_is_for_the_operator(open_bed: Bed) -> None:
    asked = preflight(open_bed, path="/admin/routes/m")
    called = open_bed.get("/admin/routes/m", key=ADMIN_KEY, headers={"Origin": PAGE})

    assert asked.status == 401
    for answer in (asked, called):
        assert not [name for name, _ in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_from_a_page(open_bed: Bed, stream: bool) -> None:
    answer = open_bed.ask(open_bed.model(), stream=stream, headers={"Origin": PAGE})

    assert answer.status == 200
    assert answer.headers.all("access-control-allow-origin") == [PAGE]
    assert listed(answer, "access-control-expose-headers") == EXPOSED
    assert "origin" in listed(answer, "vary")


@pytest.mark.parametrize(
    "limits",
    [["limit-requests", "remaining-tokens", "reset-tokens"], ["limit-requests-day"], ["limit-audio-seconds"]],
)
def test_a_page_can_read_the_limits_of_an_upstream(open_bed: Bed, limits: list[str]) -> None:
    model = open_bed.model()
    sent = {f"x-ratelimit-{name}": "60" for name in limits}
    open_bed.a.on(model, error(429, {"error": {"message": "slow down"}}, headers=sent))

    answer = open_bed.ask(model, headers={"Origin": PAGE})

    shown = {f"x-upstream-ratelimit-{name}" for name in limits}
    assert {name for name, _ in answer.headers if name.startswith("x-upstream-")} == shown
    assert listed(answer, "access-control-expose-headers") == EXPOSED | shown


@pytest.mark.parametrize("key", ["wrong", None])
def test_an_error_can_be_read_by_the_page(open_bed: Bed, key: str | None) -> None:
    answer = open_bed.ask("unknown", key=key, headers={"Origin": PAGE})

    assert answer.status == 401
    assert answer.header("access-control-allow-origin") == PAGE


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "https://app.example.evil.example", "http://app.example", "https://app.example:444",
        "https://appxexample", "null", "https://xapp.example", "http://[::1]:3001", "http://[::2]:3000", "http://:",
            ],
)  # fmt: skip
def test_another_origin_is_not_let_in(open_bed: Bed, origin: str) -> None:
    asked, called = preflight(open_bed, origin), open_bed.ask(open_bed.model(), headers={"Origin": origin})

    for answer in (asked, called):
        assert not [name for name, _ in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origins", ["*", f"{PAGE},http://localhost:3000"])
def test_credentials_are_never_allowed(origins: str) -> None:
    with Gateway(env={"CORS_ORIGINS": origins}) as gateway:
        bed = Bed(gateway, {})
        for answer in (preflight(bed), bed.get("/v1/models", headers={"Origin": PAGE})):
            assert answer.header("access-control-allow-origin") in (PAGE, "*")
            assert answer.header("access-control-allow-credentials") is None


PATTERNS = ["https://*.example", "https://app.example/", "app.example", "https://a.example|.*", "https://[a-z]", "*.*",
            "http://[::1", "http://[:::]:3000", "http://[1.2.3.4]", "http://::1"]  # fmt: skip


@pytest.mark.parametrize("origin", PATTERNS)
def test_a_pattern_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors_origins\[0\]: (has a bad value|holds no)"):
        Config.load({"ONE_API_ENV_FILE": os.devnull, "CORS_ORIGINS": origin})


def test_without_origins_no_page_may_call(bed: Bed) -> None:
    for answer in (preflight(bed), bed.ask(bed.model(), headers={"Origin": PAGE})):
        assert not [name for name, _ in answer.headers if name.startswith("access-control-")]


def test_a_preflight_needs_no_key_and_asks_no_upstream(open_bed: Bed) -> None:
    before = len(open_bed.a.requests)

    answer = preflight(open_bed, path="/v1/models")

    assert answer.status == 204
    assert len(open_bed.a.requests) == before
