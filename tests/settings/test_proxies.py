"""Which proxy leads to an upstream: none to this machine, and what the environment says only where it is asked."""

import pytest

from one_api.config import Config, ConfigError
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.addresses import is_loopback
from one_api.settings.kinds import Proxy
from one_api.settings.proxies import from_environment, proxy_for

URL = "https://api.example.com/v1"
PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "127.1",
        "::1",
        "::ffff:127.0.0.1",
        "2130706433",
    ],
)
def test_these_hosts_are_this_machine(host: str) -> None:
    assert is_loopback(host)
    url = f"http://[{host}]:80/v1" if ":" in host else f"http://{host}:80/v1"
    assert proxy_for(url, Proxy(PROXY)) is None
    assert from_environment(url, {"HTTP_PROXY": PROXY}) is None


@pytest.mark.parametrize(
    "host", ["localhost.example", "10.0.0.1", "128.0.0.1", "fe80::1", "example.com", "127.example"]
)
def test_these_are_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        (URL, {}, None),
        (URL, {"HTTPS_PROXY": PROXY}, PROXY),
        (URL, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        (URL, {"HTTP_PROXY": PROXY}, None),
        ("http://api.example.com", {"HTTP_PROXY": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        (URL, {"ALL_PROXY": "socks5://s:1080"}, "socks5://s:1080"),
        (URL, {"HTTPS_PROXY": "  ", "ALL_PROXY": PROXY}, PROXY),
        (URL, {"HTTPS_PROXY": "proxy:3128"}, PROXY),
    ],
)
def test_the_usual_variables(url: str, variables: dict[str, str], expected: str | None) -> None:
    assert from_environment(url, variables) == expected


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        (URL, "*", True), (URL, "other.com, api.example.com", True), (URL, "example.com", True),
        (URL, ".example.com", True), (URL, "*.example.com", True), (URL, "API.EXAMPLE.COM", True),
        (URL, "api.example.com:443", True), (URL, "api.example.com:8443", False), (URL, "ample.com", False),
        (URL, "other.com\tx.org", False), (URL, "", False), (URL, ".", False),
        ("https://10.1.2.3/v1", "10.0.0.0/8", True), ("https://10.1.2.3/v1", "10.1.2.3", True),
        ("https://11.1.2.3/v1", "10.0.0.0/8", False), ("https://[fd00::1]/v1", "fd00::/8", True),
        ("https://[fd00::1]:8443/v1", "[fd00::1]:8443", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_honoured(url: str, exceptions: str, direct: bool, name: str) -> None:
    assert (from_environment(url, {"HTTPS_PROXY": PROXY, name: exceptions}) is None) is direct


# The configuration


def load(tmp_path: object, proxy: str, **variables: str) -> Config:
    """A configuration with one adapter."""
    path = f"{tmp_path}/config.yaml"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"adapters: {{a: {{type: openai, base_url: '{URL}', proxy: '{proxy}'}}}}")
    return Config.load({"ONE_API_CONFIG": path, "ONE_API_ENV_FILE": f"{tmp_path}/none", **variables})


def proxy_in(config: Config) -> str | None:
    """The proxy of the one adapter."""
    adapter = config.adapters["a"]
    assert isinstance(adapter, OpenAIConfig)
    return adapter.proxy


@pytest.mark.parametrize("proxy", [PROXY, "http://u:p%40@h", "socks5://h:1080", "socks5h://u:p@[::1]:1080/"])
def test_a_proxy_can_be_set(tmp_path: object, proxy: str) -> None:
    assert proxy_in(load(tmp_path, proxy, HTTPS_PROXY="http://other:1")) == proxy


@pytest.mark.parametrize(
    "proxy", ["ftp://h:1", "h:3128", "http://", "http://h:0", "http://h:x", "http://h/path", "env"]
)
def test_what_is_no_proxy_is_an_error(tmp_path: object, proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"adapters\.a\.proxy: .*is not a proxy.*Write it like http://") as caught:
        load(tmp_path, proxy)
    assert len(caught.value.problems) == 1


def test_the_environment_is_read_only_when_that_is_said(tmp_path: object) -> None:
    variables = {"HTTPS_PROXY": PROXY}

    assert proxy_in(load(tmp_path, "environment", **variables)) == PROXY
    assert proxy_in(load(tmp_path, "environment")) is None
    assert proxy_in(load(tmp_path, "environment", **variables, NO_PROXY="example.com")) is None


def test_a_bad_variable_is_named_without_its_password(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="https_proxy: is not a proxy") as caught:
        load(tmp_path, "environment", https_proxy="ftp://user:hunter2@h:1")
    assert "hunter2" not in str(caught.value)


def test_a_password_never_shows_itself(tmp_path: object) -> None:
    assert "hunter2" not in repr(load(tmp_path, "http://user:hunter2@h:3128"))
