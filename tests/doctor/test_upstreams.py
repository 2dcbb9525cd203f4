"""What the examination finds at upstreams: their answers are scripted, their failures come from real sockets."""

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import responses

from one_api.config import Config
from one_api.doctor.asking import Answer, NoAnswer, Question, ask, skew
from one_api.doctor.finding import Finding
from one_api.doctor.upstreams import of_upstreams
from one_api.settings.adapters import ClaudeConfig, LocalConfig, OpenAIConfig
from one_api.settings.kinds import Proxy, Secret
from one_api.settings.sections import GroupConfig, TargetConfig
from tests.faults.test_before_content import serving
from tests.support.actions import Chop, Close, Flood, Hang, Script, Send
from tests.support.gateway import free_port
from tests.support.proxy import ScriptedProxy
from tests.support.upstream import ScriptedUpstream

MODELS = {"data": [{"id": "gpt-5"}, {"id": "gpt-5-mini"}]}
OPENAI, CLAUDE = "https://eu.example/v1/models", "https://claude.example/v1/models"
KEY = Secret("sk-upstream-secret")
CERTIFICATES = Path(__file__).parents[1] / "faults" / "certificates"


@pytest.fixture
def upstream() -> Iterator[responses.RequestsMock]:
    """Answers requests as the test says."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def openai(**settings: Any) -> Config:
    """A configuration with one server that speaks OpenAI's dialect."""
    whole: dict[str, Any] = {"base_url": "https://eu.example/v1", "api_key": KEY} | settings
    return Config(adapters={"eu": OpenAIConfig(**whole)})


def examined(config: Config) -> list[Finding]:
    """What is found; its lines hold no secret."""
    found = of_upstreams(config)
    assert KEY.reveal() not in "\n".join(map(str, found))
    return found


def with_key(upstream: responses.RequestsMock, url: str, header: str, value: str, **answer: Any) -> None:
    """Answer requests with the right key; all others are refused."""
    upstream.get(url, match=[responses.matchers.header_matcher({header: value})], **answer)
    upstream.get(url, status=401)


def test_a_good_upstream_is_ok(upstream: responses.RequestsMock) -> None:
    with_key(upstream, OPENAI, "authorization", "Bearer sk-upstream-secret", json=MODELS)

    assert list(map(str, examined(openai()))) == ["ok       adapters.eu: eu.example answers and lists 2 models"]


@pytest.mark.parametrize(
    ("settings", "header", "value"),
    [
        ({"api_key": KEY}, "x-api-key", "sk-upstream-secret"),
        ({"api_key": KEY, "key_header": "bearer"}, "authorization", "Bearer sk-upstream-secret"),
        ({"api_key": Secret("sk-ant-oat-1")}, "authorization", "Bearer sk-ant-oat-1"),
    ],
)
def test_claude_gets_its_key_as_from_its_adapter(
    upstream: responses.RequestsMock, settings: dict[str, Any], header: str, value: str
) -> None:
    with_key(upstream, CLAUDE, header, value, json={"data": [{"id": "claude-5"}]})

    found = examined(Config(adapters={"c": ClaudeConfig(base_url="https://claude.example", **settings)}))

    assert [each.state for each in found] == ["ok"]
    assert upstream.calls[0].request.headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("status", "settings", "state", "words"),
    [
        (401, {}, "problem", "refuses the key"),
        (401, {"api_key": None}, "problem", "asks for a key"),
        (403, {}, "problem", "may not be used"),
        (403, {"api_key": None}, "problem", "asks for a key"),
        (404, {}, "problem", "base_url"),
        (404, {"models": ("gpt-5",)}, "ok", "has no model list"),
        (307, {}, "problem", "redirect"),
        (407, {}, "problem", "proxy"),
        (429, {}, "warning", "limit"),
        (500, {}, "problem", "status 500"),
        (503, {"models": ("gpt-5",)}, "problem", "status 503"),
    ],
)
def test_a_status_is_explained(
    upstream: responses.RequestsMock, status: int, settings: dict[str, Any], state: str, words: str
) -> None:
    upstream.get(OPENAI, status=status, json={"error": {"message": "bad sk-upstream-secret"}})

    (found,) = examined(openai(**settings))

    assert found.state == state
    assert words in str(found)


@pytest.mark.parametrize("body", ["<html>welcome</html>", "", '{"data": 1}', '[{"x": 1}]'])
def test_what_is_no_model_list_is_a_problem_unless_the_models_are_configured(
    upstream: responses.RequestsMock, body: str
) -> None:
    upstream.get(OPENAI, body=body)

    wanted, listed = examined(openai(api_key=None)), examined(openai(api_key=None, models=("gpt-5",)))

    assert (wanted[0].state, listed[0].state) == ("problem", "warning")


def test_a_model_that_is_not_listed_is_named_with_its_neighbour(upstream: responses.RequestsMock) -> None:
    upstream.get(OPENAI, json=MODELS)
    groups = {"fast": GroupConfig(targets=("eu/gpt-5-mni", TargetConfig(model="eu/gpt-5")), fallbacks=("us/x",))}
    config = Config(adapters=openai(api_key=None, models=("gpt-5", "llama")).adapters, model_groups=groups)

    warnings = [str(found) for found in examined(config) if found.state == "warning"]

    assert [line.partition("model ")[2] for line in warnings] == [
        "'llama'. Correct the name, or ask its provider for access",
        "'gpt-5-mni'. Did you mean gpt-5-mini?",
    ]


def test_a_list_that_needs_no_key_says_nothing_of_the_key(upstream: responses.RequestsMock) -> None:
    upstream.get(OPENAI, json=MODELS)

    assert "whether the key is accepted was not checked" in str(examined(openai())[-1])


@pytest.mark.parametrize(("ahead_s", "words"), [(400, "ahead of"), (-400, "behind"), (0, None)])
def test_a_clock_that_is_far_away_is_a_warning(
    upstream: responses.RequestsMock, ahead_s: int, words: str | None
) -> None:
    upstream.get(OPENAI, json=MODELS, headers={"date": formatdate(time.time() + ahead_s, usegmt=True)})

    warnings = [str(found) for found in examined(openai(api_key=None)) if found.state == "warning"]

    assert [words in line for line in warnings if words] == ([True] if words else [])


@pytest.mark.parametrize(
    ("date", "age", "expected"),
    [
        (formatdate(1000, usegmt=True), None, 0),
        (formatdate(900, usegmt=True), "100", 0),
        (formatdate(900, usegmt=True), "many", -100),
        ("yesterday", None, None),
        (None, "5", None),
    ],
)
def test_the_skew_counts_the_time_in_a_cache(date: str | None, age: str | None, expected: float | None) -> None:
    assert skew(date, age, 1000) == expected


# Connections that fail


def at(port: int, scheme: str = "http", **settings: Any) -> Config:
    """A configuration with an upstream at a port of this machine."""
    return openai(base_url=f"{scheme}://127.0.0.1:{port}/v1", **settings)


def test_an_upstream_that_is_not_there_is_a_problem() -> None:
    (found,) = examined(at(free_port()))

    assert (found.state, "nothing listens" in found.what) == ("problem", True)


def test_a_host_without_an_address_is_a_problem() -> None:
    (found,) = examined(openai(base_url="http://no-such-host.invalid/v1"))

    assert (found.state, "host name is not known" in found.what) == ("problem", True)


def test_what_speaks_no_tls_is_a_problem(plain: int) -> None:
    (found,) = examined(at(plain, "https"))

    assert (found.state, "certificate" in found.what) == ("problem", True)


def test_what_speaks_no_http_is_a_problem(plain: int) -> None:
    (found,) = examined(at(plain))

    assert found.state == "problem"


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_not_there_is_a_problem_and_its_password_stays_secret(scheme: str) -> None:
    proxy = Proxy(f"{scheme}://me:proxy-password@127.0.0.1:{free_port()}")

    (found,) = examined(openai(base_url="http://eu.example/v1", proxy=proxy))

    assert (found.state, "proxy" in found.what) == ("problem", True)
    assert "proxy-password" not in str(found)


@pytest.fixture
def plain() -> Iterator[int]:
    """The port of a server that speaks neither HTTP nor TLS."""
    with ScriptedUpstream() as server:
        greeting: Script = [Send(b"220 mail.example ready\r\n\r\n"), Close()]
        server.on_connect(*[greeting] * 9)
        yield server.port


@pytest.mark.parametrize(
    ("certificate", "trusted", "state"),
    [
        ("valid", True, "ok"),
        ("valid", False, "problem"),
        ("expired", True, "problem"),
        ("self-signed", True, "problem"),
    ],
)
def test_certificates_are_trusted_as_the_system_trusts_them(
    monkeypatch: pytest.MonkeyPatch, certificate: str, trusted: bool, state: str
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))

    with serving(certificate) as url:
        (found, *_) = examined(openai(base_url=url, models=("m",)))

    assert found.state == state


@pytest.mark.parametrize(
    "script",
    [
        [Hang()],
        [Send(b"HTTP/1.1 200 OK\r\nx: "), Flood(1 << 30, b"x")],
        [Send(b"HTTP/1.1 200 OK\r\n"), Chop(b"x: y\r\n" * 90, 1, 0.05)],
        [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"), Chop(b" " * 500, 1, 0.05)],
    ],
    ids=["silent", "endless head", "slow head", "slow body"],
)
def test_an_answer_that_takes_for_ever_is_not_waited_for(script: Script) -> None:
    with ScriptedUpstream() as server:
        server.on_models(script)

        with pytest.raises(NoAnswer) as caught:
            ask(Question(f"{server.base_url}/models", answer_s=0.3))

    assert caught.value.fix


@pytest.mark.parametrize(("password", "state"), [("proxy-password", "ok"), ("wrong-password", "problem")])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upstream_is_asked_through_its_proxy(
    monkeypatch: pytest.MonkeyPatch, scheme: str, password: str, state: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    with ScriptedProxy("me:proxy-password") as proxy, ScriptedUpstream(["m"]) as plain, serving("valid") as tls:
        base_url = tls if scheme == "https" else plain.base_url
        url = base_url.replace("127.0.0.1", "localhost.example") if scheme == "http" else base_url
        way = Proxy(proxy.url("http", f"me:{password}"))
        answer = outcome(Question(f"{url}/models", proxy=way))

    assert ("problem" if isinstance(answer, NoAnswer) or answer.status == 407 else "ok") == state
    assert proxy.passages
    assert password not in repr(answer)


def outcome(question: Question) -> Answer | NoAnswer:
    """The answer, or why there is none."""
    try:
        return ask(question)
    except NoAnswer as error:
        return error


def test_a_model_that_may_be_on_another_page_is_not_missed(upstream: responses.RequestsMock) -> None:
    upstream.get(CLAUDE, json={"data": [{"id": "claude-5"}], "has_more": True})
    claude = ClaudeConfig(base_url="https://claude.example", models=("claude-4",))

    assert [found.state for found in examined(Config(adapters={"c": claude}))] == ["ok"]


def test_upstreams_are_found_one_by_one_in_the_order_of_the_configuration(upstream: responses.RequestsMock) -> None:
    upstream.get("http://a.example/v1/models", status=500)
    upstream.get("http://b.example/v1/models", json=MODELS)
    adapters = {name: OpenAIConfig(base_url=f"http://{name}.example/v1") for name in ("b", "a")}

    found = examined(Config(adapters={**adapters, "here": LocalConfig()}))

    assert [(each.where, each.state) for each in found] == [("adapters.b", "ok"), ("adapters.a", "problem")]
