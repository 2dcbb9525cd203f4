"""Requests to upstreams go through the proxy that is configured: HTTP and SOCKS5, with and without TLS."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.bed import CERTIFICATES
from tests.faults.test_before_content import serving
from tests.support import Gateway, RawClient, ScriptedUpstream, post_chat
from tests.support.proxy import Passage, ScriptedProxy

from .bed import Answer, adapter, yaml

SECRET = "user:pa%20ss"
PLAIN = "user:pa ss"


@dataclass(frozen=True)
class ProxyBed:
    """A gateway whose adapters ask in different ways, each with one model of its own name."""

    gateway: Gateway
    proxy: ScriptedProxy
    strict: ScriptedProxy
    ports: dict[str, int]

    def ask(self, model: str, **fields: object) -> Answer:
        """Ask for a completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
        with RawClient(self.gateway.host, self.gateway.port, timeout_s=10.0) as client:
            client.send(post_chat(self.gateway.host, self.gateway.port, body))
            answer = client.read_response()
        return Answer(answer.status, answer.headers, answer.body)


@pytest.fixture(scope="module")
def proxied() -> Iterator[ProxyBed]:
    with contextlib.ExitStack() as held:
        upstream = held.enter_context(ScriptedUpstream())
        tls = int(held.enter_context(serving("other-name")).rpartition(":")[2].removesuffix("/v1"))
        open_, strict, closed = (ScriptedProxy(), ScriptedProxy(PLAIN), ScriptedProxy(refuses=True))
        for each in (open_, strict, closed):
            held.enter_context(each)
        plain, secure = f"http://upstream.test:{upstream.port}/v1", f"https://other.example:{tls}/v1"
        routes = {
            "http": (plain, open_.url("http")), "https": (secure, open_.url("http")),
            "http-secret": (plain, strict.url("http", SECRET)), "https-secret": (secure, strict.url("http", SECRET)),
            "socks": (plain, open_.url("socks5")), "socks-tls": (secure, open_.url("socks5h")),
            "socks-secret": (plain, strict.url("socks5", SECRET)),
            "http-wrong": (secure, strict.url("http", "user:hunter2")),
            "socks-wrong": (plain, strict.url("socks5", "user:hunter2")),
            "refused": (secure, closed.url("http")), "socks-refused": (plain, closed.url("socks5")),
            "gone": (plain, "socks5://127.0.0.1:9"), "gone-http": (plain, "http://127.0.0.1:9"),
            "loopback": (upstream.base_url, closed.url("http")), "environment": (plain, "environment"),
            "excepted": (f"http://excepted.invalid:{upstream.port}/v1", "environment"), "none": (plain, None),
        }  # fmt: skip
        adapters = {
            name: adapter(url, [name], **({} if proxy is None else {"proxy": proxy}))
            for name, (url, proxy) in routes.items()
        }
        gateway = Gateway(
            config_yaml=yaml(adapters=adapters, rate_limit={"enabled": False}),
            env={
                "SSL_CERT_FILE": str(CERTIFICATES / "ca.pem"),
                "http_proxy": open_.url("http"),
                "NO_PROXY": "excepted.invalid",
            },
        )
        ports = {"upstream.test": upstream.port, "other.example": tls}
        yield ProxyBed(held.enter_context(gateway), open_, strict, ports)


@pytest.mark.parametrize(
    ("model", "kind", "host", "credentials"),
    [
        ("http", "forward", "upstream.test", None), ("https", "connect", "other.example", None),
        ("http-secret", "forward", "upstream.test", PLAIN), ("https-secret", "connect", "other.example", PLAIN),
        ("socks", "socks5", "upstream.test", None), ("socks-tls", "socks5", "other.example", None),
        ("socks-secret", "socks5", "upstream.test", PLAIN), ("environment", "forward", "upstream.test", None),
    ],
)  # fmt: skip
def test_a_request_goes_through_its_proxy(
    proxied: ProxyBed, model: str, kind: str, host: str, credentials: str | None
) -> None:
    proxy = proxied.strict if credentials else proxied.proxy
    proxy.passages.clear()

    answer = proxied.ask(model)

    assert answer.status == 200, answer.body
    assert proxy.passages[-1] == Passage(kind, host, proxied.ports[host], credentials)


@pytest.mark.parametrize("model", ["http", "socks"])
def test_streams_do_too(proxied: ProxyBed, model: str) -> None:
    answer = proxied.ask(model, stream=True)

    assert (answer.text, answer.stream_error) == ("Hello", None)


def test_an_address_of_this_machine_is_asked_directly(proxied: ProxyBed) -> None:
    assert proxied.ask("loopback").status == 200


@pytest.mark.parametrize(
    "model", ["http-wrong", "socks-wrong", "refused", "socks-refused", "gone", "gone-http", "none", "excepted"]
)
def test_without_a_way_the_upstream_cannot_be_reached(proxied: ProxyBed, model: str) -> None:
    answer = proxied.ask(model)

    assert answer.status in (502, 503), answer.body
    assert "could not be reached" in answer.error["message"]
    assert "hunter2" not in answer.body.decode() + proxied.gateway.log
