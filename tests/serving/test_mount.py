"""Where the gateway's own paths begin."""

from typing import Any

import pytest

from one_api.config import Config, ConfigError
from one_api.serving.mount import Mount


def applied(mount: Mount, path: str, script_name: str = "", peer: str = "127.0.0.1", **headers: str) -> tuple[str, str]:
    """The prefix and the path of a request."""
    environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": script_name, "REMOTE_ADDR": peer}
    environ |= {f"HTTP_X_FORWARDED_{name}": value for name, value in headers.items()}
    mount.apply(environ)
    return environ["SCRIPT_NAME"], environ["PATH_INFO"]


@pytest.mark.parametrize("root_path", ["/llm", "/llm/"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [("/llm/v1/x", "/v1/x"), ("/v1/x", "/v1/x"), ("/llm", "/"), ("/llm/", "/"), ("/llmx", "/llmx"), ("", "")],
)
def test_the_prefix_is_taken_off_once(root_path: str, path: str, expected: str) -> None:
    assert applied(Mount(root_path), path) == ("/llm", expected)


def test_what_the_server_has_taken_off_stays_off() -> None:
    assert applied(Mount("/llm"), "/v1", script_name="/llm") == ("/llm", "/v1")
    assert applied(Mount(), "/v1", script_name="/other") == ("/other", "/v1")
    assert applied(Mount(), "/v1") == ("", "/v1")


@pytest.mark.parametrize(
    ("peer", "prefix", "expected"),
    [
        ("127.0.0.1", "/ai", "/ai"),
        ("::ffff:127.0.0.1", "/ai/", "/ai"),
        ("::1", "/ai", "/ai"),
        ("127.0.0.1", "/first, /last", "/last"),
        ("127.0.0.1", "/a/b", "/a/b"),
        ("10.0.0.1", "/ai", ""),
        ("", "/ai", ""),
        ("127.0.0.1", "ai", ""),
        ("127.0.0.1", "//evil.example", ""),
        ("127.0.0.1", "/a b", ""),
        ("127.0.0.1", "/<script>", ""),
        ("127.0.0.1", "/", ""),
    ],
)
def test_a_prefix_is_read_from_trusted_proxies_alone(peer: str, prefix: str, expected: str) -> None:
    mount = Mount("", ["127.0.0.0/8", "::1"])

    assert applied(mount, f"{expected}/v1", peer=peer, PREFIX=prefix) == (expected, "/v1")


@pytest.mark.parametrize(
    ("name", "value"), [("SCRIPT_NAME", "llm"), ("SCRIPT_NAME", "/a//b"), ("TRUSTED_PROXIES", "proxy"),
                        ("TRUSTED_PROXIES", "10.0.0.0/99")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"SCRIPT_NAME|server\.trusted_proxies"):
        Config.load({name: value})
