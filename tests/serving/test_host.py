"""What is the name in a ``Host`` header, and what is none."""

import pytest

from one_api.serving.host import name_in


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LLM.Example:8443", "llm.example"),
        ("my_gateway:", "my_gateway"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_name_is_read_without_port_and_brackets(host: str, name: str) -> None:
    assert name_in(host) == name


@pytest.mark.parametrize(
    "host", ["", ":80", "a b", "a/b", "u@a", "a:b", "a:80:80", "a:123456", "[::1", "::1", "[x]", "[::1]a", "a" * 256]
)
def test_what_is_no_name_is_none(host: str) -> None:
    assert name_in(host) is None
