"""Texts of upstreams: what is taken out by value, what by its looks, and what stays."""

import base64
from urllib.parse import quote, unquote

import pytest

from one_api.settings.adapters import OpenAIConfig
from one_api.settings.kinds import Proxy, Secret, Storage
from one_api.settings.sections import CacheConfig, KeyConfig
from one_api.upstream.scrubbing import MAX_TEXT, REMOVED, Scrubber, addresses_in, secrets_in

KEY = "qV7+bN2/xK9~wL4.tR8="
PASSWORD = "hunter2"
SCRUBBER = Scrubber(iter([KEY, PASSWORD]), ["http://vllm:8000/v1", "https://llm.corp-7.acme/v1"])

FORMS = {
    "whole": KEY,
    "small letters": KEY.lower(),
    "capitals": KEY.upper(),
    "percent-encoded": quote(KEY, safe=""),
    "hexadecimal": KEY.encode().hex(),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 with a user": base64.b64encode(f"u:{KEY}".encode()).decode(),
    "on two lines": f"{KEY[:9]}\n{KEY[9:]}",
    "spaced": " ".join(KEY),
    "with what nobody sees": "\u200b".join(KEY),
    "its first half": KEY[:10],
    "its second half": KEY[10:],
    "in quotes": f'"{KEY}"',
    "glued": f"a{KEY}b",
    "at the end of a part": f"key={KEY[:7]}",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_taken_out_in_any_form(form: str) -> None:
    cleaned = SCRUBBER.clean(f"The request had {FORMS[form]}")

    assert REMOVED in cleaned
    assert not [KEY[at : at + 6] for at in range(len(KEY) - 5) if KEY[at : at + 6].lower() in cleaned.lower()]


@pytest.mark.parametrize("before", [*range(MAX_TEXT - 24, MAX_TEXT + 1), *range(8 * MAX_TEXT - 22, 8 * MAX_TEXT)])
def test_no_beginning_of_a_secret_is_left_by_the_cut(before: int) -> None:
    cleaned = SCRUBBER.clean("." * before + KEY)

    assert len(cleaned) <= MAX_TEXT
    assert KEY[:3] not in cleaned


@pytest.mark.parametrize("length", [3, 4, 5])
def test_a_text_that_is_no_more_than_the_beginning_of_a_secret_stays(length: int) -> None:
    assert SCRUBBER.clean(KEY[:length]) == KEY[:length]


@pytest.mark.parametrize("text", ["the password hunter2", "HUNTER2!", "redis://:hunter2@db"])
def test_a_short_password_is_taken_out_whole(text: str) -> None:
    assert PASSWORD not in SCRUBBER.clean(text).lower()


def test_a_word_is_no_secret() -> None:
    assert Scrubber(["none", "EMPTY", ""]).clean("none of it is EMPTY") == "none of it is EMPTY"


KEYS = [
    "sk-proj-abcDEF0123456789", "AIzaSyA0123456789abc", "eyJhbGciOi.eyJzdWIi.c2ln",
    "gsk_abcdef0123",
    "0123456789abcdef0123456789abcdef", "sk-ab...wxyz", "Bearer abc.def-ghi",
    "key-1***************cd",
    "org-AbCdEf123456",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_what_looks_like_a_key_is_taken_out(key: str) -> None:
    assert Scrubber().clean(f"The key {key} is wrong") == f"The key {REMOVED} is wrong"


ADDRESSES = [
    "https://api.openai.com/v1?x=1", "http://10.0.0.5:8000/v1", "10.1.2.3", "127.0.0.1:9", "::1",
    "[fe80::1]:80", "2001:db8::7334", "api.internal:8443/v1", "localhost:11434", "vllm:8000",
    "llm.corp-7.acme", "gpu-node-3:8000", "ops@example.org", "wss://x.y/z",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_taken_out(address: str) -> None:
    assert SCRUBBER.clean(f"Cannot connect to {address} now") == f"Cannot connect to {REMOVED} now"


@pytest.mark.parametrize(
    "text",
    ["messages.0.content.1.text: field required", "Model gpt-4.1-mini, llama3.1:8b and claude-3.5 at 12:30:45",
     "tools.function.name is not a string", "the code 1113: 余额 3.50", "Limit 6000, Requested 12,328 (5.5 s)",
     "request req_0123456789abcdef0123456789abcdef01", "a **bold** word, std::vector and e.g. this",
     "skeleton keys, keyboard_layout, risk-free"],
)  # fmt: skip
def test_ordinary_words_stay(text: str) -> None:
    assert SCRUBBER.clean(text) == text


def test_a_text_becomes_one_line_of_clean_characters() -> None:
    assert Scrubber().clean(" a\r\n\tb\x00\x1b[31m\ud800 c ") == "a b [31m? c"


@pytest.mark.parametrize(("name", "kept"), [("rate_limit", "rate_limit"), (KEY, None), ("sk-proj-abcdef123456", None),
                                            ("x" * 129, None), (None, None), ("", None)])  # fmt: skip
def test_a_name_is_clean_or_nothing(name: str | None, kept: str | None) -> None:
    assert SCRUBBER.name(name) == kept


@pytest.mark.parametrize("proxy", ["http://user:pr%40xy-w@10.0.0.1:3128", "socks5://pr%40xy-w@proxy:1080"])
def test_the_password_of_a_proxy_is_a_secret(proxy: str) -> None:
    config = OpenAIConfig(base_url="http://up:1/v1", proxy=Proxy(proxy))

    scrubber = Scrubber(secrets_in({"a": config}), addresses_in({"a": config}))

    for written in ("pr%40xy-w", "pr@xy-w", "PR@XY-W"):
        assert scrubber.clean(f"407 for {written} here") == f"407 for {REMOVED} here"


@pytest.mark.parametrize("password", ["p", "pass", "seven77", "p%40ss"])
def test_a_short_password_is_taken_out_of_the_login_of_a_proxy(password: str) -> None:
    scrubber = Scrubber(secrets_in(OpenAIConfig(proxy=Proxy(f"http://user:{password}@10.0.0.1:3128"))))
    sent = base64.b64encode(f"user:{unquote(password)}".encode()).decode()

    cleaned = scrubber.clean(f"407: Proxy-Authorization was {sent}, refused")

    assert cleaned.rstrip("=") == f"407: Proxy-Authorization was {REMOVED}{'=' * sent.count('=')}, refused"


def test_the_configuration_knows_its_secrets_and_addresses() -> None:
    parts = (
        KeyConfig(key=Secret("client-key")),
        {"a": OpenAIConfig(base_url="http://up:1/v1", api_key=Secret("up-key"))},
        CacheConfig(storage=Storage("redis://:p%40ss@db:6379/0")),
    )

    login = base64.b64encode(b":p@ss").decode().rstrip("=")
    assert set(secrets_in(parts)) == {"client-key", "up-key", "p%40ss", "p@ss", login}
    assert {"http://up:1/v1", "redis://:p%40ss@db:6379/0"} == set(addresses_in(parts))
