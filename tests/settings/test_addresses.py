"""Addresses, credentials and hosts as people write them: mended with a warning, or refused with the cure."""

import pytest

from one_api.config import ConfigError, Loaded, load
from one_api.settings.adapters import ClaudeConfig, OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.settings.validation import Problem

KEY = "sk-canary-7f3a9c"


def read(**variables: str) -> Loaded:
    """What is read of these variables alone."""
    return load({"ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "k", **variables})


def refused(**variables: str) -> Problem:
    """The one error in these variables."""
    with pytest.raises(ConfigError) as caught:
        read(**variables)
    (problem,) = caught.value.problems
    return problem


def base_url(loaded: Loaded, name: str) -> str:
    """The address of an adapter."""
    adapter = loaded.config.adapters[name]
    assert isinstance(adapter, OpenAIConfig | ClaudeConfig)
    return adapter.base_url


def api_key(loaded: Loaded, name: str) -> str:
    """The key of an adapter."""
    adapter = loaded.config.adapters[name]
    assert isinstance(adapter, OpenAIConfig | ClaudeConfig)
    assert adapter.api_key is not None
    return adapter.api_key.reveal()


# Credentials


@pytest.mark.parametrize(
    "written",
    [f"{KEY}\n", f"{KEY}\r\n", f"\ufeff{KEY}", f"\t {KEY}", f'"{KEY}"', f"'{KEY}'", f"Bearer {KEY}", f"{KEY}\u200b"],
)
@pytest.mark.parametrize(("variable", "adapter"), [("OPENAI_API_KEY", "openai"), ("CLAUDE_API_KEY", "claude")])
def test_what_surrounds_a_key_is_left_out_with_a_warning(written: str, variable: str, adapter: str) -> None:
    loaded = read(**{variable: written})

    (warning,) = loaded.warnings
    assert api_key(loaded, adapter) == KEY
    assert warning.where == variable
    assert KEY not in str(warning)


@pytest.mark.parametrize("written", ["sk-one\nsk-two", "sk one", "sk-\x00", "schlüssel", "sk-…"])
@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "CLAUDE_API_KEY"])
def test_a_key_that_cannot_be_sent_is_an_error_that_names_the_variable(written: str, variable: str) -> None:
    problem = refused(**{variable: written})

    assert problem.where == variable
    assert written not in str(problem)


# Upstreams


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1/chat/completions/", "https://h/v1"),
        ("https://h/v1/Chat/Completions", "https://h/v1"),
        ("http://h:8000/v1/completions", "http://h:8000/v1"),
        ("http://h/v1/models", "http://h/v1"),
        ("http://h/openai/v1/embeddings", "http://h/openai/v1"),
        (" http://h/v1\n", "http://h/v1"),
        ('"http://h/v1"', "http://h/v1"),
        ("<http://h/v1>", "http://h/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("https://api.groq.com/", "https://api.groq.com/openai/v1"),
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/api/chat", "http://localhost:11434/v1"),
    ],
)
def test_an_address_that_is_nearly_right_is_mended_with_a_warning(written: str, meant: str) -> None:
    loaded = read(OPENAI_BASE_URL=written)

    (warning,) = loaded.warnings
    assert base_url(loaded, "openai") == meant
    assert warning.where == "OPENAI_BASE_URL"
    assert meant in warning.fix


@pytest.mark.parametrize("ending", ["/v1/messages", "/v1/messages/", "/v1/messages/count_tokens", "/v1/models"])
def test_an_address_of_claudes_dialect_is_mended_too(ending: str) -> None:
    loaded = read(CLAUDE_BASE_URL=f"https://h/anthropic{ending}")

    assert base_url(loaded, "claude") == "https://h/anthropic"
    assert [warning.where for warning in loaded.warnings] == ["CLAUDE_BASE_URL"]


@pytest.mark.parametrize(
    ("variable", "written", "says"),
    [
        ("OPENAI_BASE_URL", "https://h/v1/messages", "CLAUDE_BASE_URL"),
        ("CLAUDE_BASE_URL", "https://h/v1/chat/completions", "OPENAI_BASE_URL"),
        ("OPENAI_BASE_URL", "https://h/v 1", "https://h/v1"),
        ("OPENAI_BASE_URL", "api.example.com/v1", "https://api.example.com/v1"),
        ("OPENAI_BASE_URL", "localhost:8000/v1", "http://localhost:8000/v1"),
        ("OPENAI_BASE_URL", "https:/api.example.com/v1", "https://api.example.com/v1"),
        ("OPENAI_BASE_URL", "https://https://api.example.com/v1", "https://api.example.com/v1"),
        ("OPENAI_BASE_URL", "https://api.example.com/v1/chat/completions?version=1", "https://api.example.com/v1,"),
        ("OPENAI_BASE_URL", "api.openai.com", "https://api.openai.com/v1"),
        ("CLAUDE_BASE_URL", "api.anthropic.com", "https://api.anthropic.com"),
        *(
            ("OPENAI_BASE_URL", f"https://{host}/v1", "host")
            for host in (
                "x..y",
                "-x.y",
                "x\\v1",
                "256.1.1.1",
                "1.2.3.4.5",
                "x,y",
                "<host>",
                "{resource}.openai.azure.com",
                "a" * 64,
            )
        ),
    ],
)
def test_an_address_that_cannot_be_right_is_an_error_with_the_cure(variable: str, written: str, says: str) -> None:
    problem = refused(**{variable: written})

    assert problem.where == variable
    assert says in problem.fix


@pytest.mark.parametrize("written", [KEY, f"http://user:{KEY}@h/v1/chat/completions", f"{KEY}/v1"])
def test_a_secret_in_the_place_of_an_address_is_not_repeated(written: str) -> None:
    assert KEY not in str(refused(OPENAI_BASE_URL=written))


@pytest.mark.parametrize(
    "host",
    ["gateway_1", "x.y.", "münchen.de", "10.0.0.1", "127.1", "[::1]", "[fe80::1%25eth0]:8000", "xn--p1ai", "a--b.c"],
)
def test_any_host_that_may_be_one_is_taken(host: str) -> None:
    address = f"https://{host}/v1"

    assert base_url(read(OPENAI_BASE_URL=address, OPENAI_API_KEY=KEY), "openai") == address


# Hosts


@pytest.mark.parametrize(
    ("written", "host"),
    [("[::1]", "::1"), ("::1", "::1"), (" 127.0.0.1 ", "127.0.0.1"), ("localhost", "localhost"), ("[::]", "::"),
     ("127.8.0.1", "127.8.0.1"), ("gateway_1.internal", "gateway_1.internal")],
)  # fmt: skip
def test_a_host_may_be_written_as_people_do(written: str, host: str) -> None:
    loaded = read(HOST=written)

    assert (loaded.config.server.host, loaded.warnings) == (host, ())


@pytest.mark.parametrize(
    ("written", "says"),
    [("localhost:8000", "HOST=localhost"), ("http://127.0.0.1", "HOST=127.0.0.1"), ("[::1]:80", "HOST=[::1]"),
     ("*", "0.0.0.0"), ("256.1.1.1", "127.0.0.1"), ("a b", "127.0.0.1"), ("[::1", "::1"), ("::g", "::1")],
)  # fmt: skip
def test_a_host_that_cannot_be_one_is_an_error_with_the_cure(written: str, says: str) -> None:
    problem = refused(HOST=written)

    assert problem.where == "HOST"
    assert says in problem.fix


def test_every_loopback_address_may_do_without_keys() -> None:
    assert load({"ONE_API_ENV_FILE": "/dev/null", "HOST": "127.0.0.2"}).config.server.host == "127.0.0.2"
    assert refused(HOST="0.0.0.0", API_KEYS="").where == "HOST"


# Secrets


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert OpenAIConfig(api_key=Secret("ä")) == OpenAIConfig(api_key=Secret("ä"))
    assert {Secret("a"), Secret("a"), Secret("b")} == {Secret("b"), Secret("a")}
