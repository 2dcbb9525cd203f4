"""What a person sees who opens the gateway's address in a browser, and that programs see what they always saw."""

import html
import re
from collections.abc import Iterator

import pytest

from tests.support import Gateway

from .bed import Answer, Bed, adapter, running_bed, yaml

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def browse(bed: Bed, path: str = "/", accept: str = CHROME, method: str = "GET", **headers: str) -> Answer:
    """What a browser gets."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return bed.get(path, method=method, key=None, headers={"Accept": accept, **more})


def text_of(answer: Answer) -> str:
    """What the page says, without its marks."""
    return html.unescape(re.sub(r"<[^>]+>", "", answer.body.decode()))


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/docs", "/docs/", "/?from=mail"])
def test_a_browser_gets_a_page(bed: Bed, path: str) -> None:
    answer = browse(bed, path)

    assert (answer.status, answer.header("content-type")) == (200, "text/html; charset=utf-8")
    assert "<script" not in answer.body.decode()
    assert (answer.header("content-security-policy") or "").startswith("default-src 'none'")
    assert "Ready." in text_of(answer)
    assert "已就绪" in text_of(answer)


def test_the_page_shows_lines_that_can_be_copied(bed: Bed) -> None:
    shown = text_of(browse(bed))

    for line in (
        f"curl {bed.gateway.base_url}/chat/completions", f'base_url="{bed.gateway.base_url}"', "/v1/models",
        "/openapi.json", '"model": "solo-0"',
    ):  # fmt: skip
        assert line in shown


def test_the_address_is_the_one_that_the_browser_used(bed: Bed) -> None:
    request = b"GET / HTTP/1.1\r\nHost: llm.example:8443\r\nAccept: text/html\r\n\r\n"

    assert "curl http://llm.example:8443/v1/chat/completions" in text_of(bed.send(request))


def test_a_stranger_is_not_shown_a_model(bed: Bed) -> None:
    shown = text_of(browse(bed, X_Forwarded_For="203.0.113.7"))

    assert '"model": "MODEL"' in shown
    assert "solo-" not in shown


def test_a_head_request_has_no_body(bed: Bed) -> None:
    request = f"HEAD / HTTP/1.1\r\nHost: a\r\nAccept: {CHROME}\r\nConnection: close\r\n\r\n".encode()

    with bed.connect() as client:
        client.send(request)
        head = client.read_head()

    assert (head.status, head.headers.first("content-type")) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("accept", "path", "method"),
    [
        ("*/*", "/", "GET"),
        ("application/json", "/v1", "GET"),
        ("application/json, text/html;q=0.9", "/docs", "GET"),
        ("application/json, text/html", "/", "GET"),
        (CHROME, "/nowhere", "GET"),
        (CHROME, "/", "POST"),
        ("text/html;q=0", "/", "GET"),
    ],
)
def test_programs_get_json_as_ever(bed: Bed, accept: str, path: str, method: str) -> None:
    answer = browse(bed, path, accept, method)

    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.fixture(scope="module")
def unready() -> Iterator[Bed]:
    """A gateway that has nothing to serve."""
    with Gateway(config_yaml=yaml(adapters={"a": adapter("http://127.0.0.1:9/v1", None)})) as gateway:
        yield Bed(gateway, {})


def test_a_gateway_that_is_not_ready_says_why(unready: Bed) -> None:
    reason = unready.get("/ready", key=None).json["reason"]

    shown = text_of(browse(unready))

    assert f"Running, not ready: {reason}" in shown
    assert f"尚未就绪：{reason}" in shown


# Below a path


@pytest.fixture(scope="module", params=["variable", "setting", "server", "gunicorn's variable"])
def below(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A gateway below /llm, however it was put there."""
    ways: dict[str, dict[str, str]] = {
        "variable": {"SCRIPT_NAME": "/llm"},
        "setting": {},
        "server": {"GUNICORN_CMD_ARGS": "--root-path /llm"},
        "gunicorn's variable": {"GUNICORN_CMD_ARGS": "-e SCRIPT_NAME=/llm/"},
    }
    server = {"root_path": "/llm"} if request.param == "setting" else {}
    with running_bed(server, env=ways[request.param]) as bed:
        yield bed


@pytest.mark.parametrize("prefix", ["/llm", ""], ids=["kept", "stripped"])
def test_everything_works_below_a_path(below: Bed, prefix: str) -> None:
    assert below.get(f"{prefix}/health", key=None).status == 200
    assert below.get(f"{prefix}/v1/models/solo-0").json["id"] == "solo-0"
    assert below.get(f"{prefix}/openapi.json", key=None).json["servers"] == [{"url": "/llm"}]
    assert "/llm/v1" in below.get(f"{prefix}/nowhere").error["message"]
    assert f"curl {below.gateway.url}/llm/v1/chat/completions" in text_of(browse(below, f"{prefix}/"))


@pytest.mark.parametrize("path", ["/llmx/health", "/other/health", "/llm/llm/health"])
def test_another_prefix_is_none(below: Bed, path: str) -> None:
    assert below.get(path).status == 404


FORWARDED = {"X_Forwarded_Prefix": "/ai", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "llm.example"}


@pytest.mark.parametrize(
    ("proxies", "believed"), [("127.0.0.0/8", True), ("127.0.0.1,10.0.0.1", True), ("10.0.0.1", False), ("", False)]
)
def test_a_proxy_is_believed_when_it_is_trusted(proxies: str, believed: bool) -> None:
    with Gateway(env={"TRUSTED_PROXIES": proxies}) as gateway:
        bed = Bed(gateway, {})

        shown = text_of(browse(bed, **FORWARDED))

        assert ("curl https://llm.example/ai/v1/" in shown) is believed
        assert (f"curl {gateway.url}/v1/" in shown) is not believed
        assert (browse(bed, "/ai/health", **FORWARDED).status == 200) is believed
