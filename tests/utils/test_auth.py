"""Keys: whose they are, and what a header must look like."""

import pytest

from one_api.contract import Caller
from one_api.errors import Unauthorized
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig
from one_api.utils.auth import KeyRing


def ring(*keys: str, **named: str) -> KeyRing:
    """A ring of unnamed and named keys."""
    unnamed = [KeyConfig(key=Secret(key)) for key in keys]
    return KeyRing((*unnamed, *(KeyConfig(key=Secret(key), name=name) for name, key in named.items())))


def bearer(key: str) -> dict[str, str]:
    """The headers of OpenAI's clients."""
    return {"Authorization": f"Bearer {key}"}


def test_a_key_belongs_to_its_name() -> None:
    found = ring(a="one", b="two")

    assert [found.authenticate(bearer(key)).name for key in ("one", "two")] == ["a", "b"]


def test_a_key_without_a_name_has_one_that_does_not_tell_it() -> None:
    names = [ring("sk-secret").authenticate(bearer("sk-secret")).name, ring("other").authenticate(bearer("other")).name]

    assert all(name.startswith("key-") and len(name) == 12 for name in names)
    assert names[0] != names[1]
    assert names[0] == ring("x", "sk-secret").authenticate(bearer("sk-secret")).name


@pytest.mark.parametrize("header", ["bearer sk-1", "BEARER sk-1", "Bearer  sk-1", "Bearer sk-1 "])
def test_the_scheme_may_be_spelled_in_any_case(header: str) -> None:
    assert ring(a="sk-1").authenticate({} if header is None else {"Authorization": header}).name == "a"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "No API key"),
        ("", "No API key"),
        ("sk-1", "is not `Bearer"),
        ("Bearer", "is not `Bearer"),
        ("Bearer ", "is not `Bearer"),
        ("Basic sk-1", "is not `Bearer"),
        ("Bearer two", "not known here"),
        ("Bearer sk-1 sk-1", "not known here"),
        ("Bearer SK-1", "not known here"),
        ("Bearer é", "not known here"),
    ],
)
def test_what_is_no_key_is_refused_with_a_reason(header: str | None, words: str) -> None:
    with pytest.raises(Unauthorized, match=words) as caught:
        ring(a="sk-1").authenticate({} if header is None else {"Authorization": header})

    assert "sk-1" not in caught.value.message


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "sk-1"},
        {"api-key": " sk-1 "},
        {"x-api-key": "sk-1", "api-key": "sk-1", "Authorization": "Bearer sk-1"},
        {"Authorization": "", "x-api-key": "sk-1"},
        {"Authorization": "Bearer ", "api-key": "sk-1"},
        {"Authorization": "Bearer sk-1", "x-api-key": ""},
        {"x-api-key": "with,comma"},
    ],
)
def test_every_header_that_clients_use_is_read(headers: dict[str, str]) -> None:
    assert ring(a="sk-1", b="with,comma").authenticate(headers).name in ("a", "b")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x-api-key": "other"}, "not known here"),
        ({"x-api-key": "sk-2", "Authorization": "Bearer sk-1"}, "different API keys"),
        ({"x-api-key": "wrong", "Authorization": "Bearer sk-1"}, "different API keys"),
        ({"api-key": "wrong", "x-api-key": "sk-1"}, "different API keys"),
        ({"x-api-key": "sk-1,sk-1"}, "not known here"),
        ({"Authorization": "Bearer sk-1,Bearer sk-1"}, "not known here"),
        ({"Authorization": "Basic sk-1", "x-api-key": "sk-1"}, "is not `Bearer"),
        ({"x-api-key": "Bearer sk-1"}, "not known here"),
    ],
)
def test_keys_that_differ_are_refused(headers: dict[str, str], words: str) -> None:
    with pytest.raises(Unauthorized, match=words) as caught:
        ring("sk-1", "sk-2").authenticate(headers)

    assert "sk-" not in caught.value.message


@pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer x"])
def test_without_keys_the_variable_is_named(header: str | None) -> None:
    with pytest.raises(Unauthorized, match="API_KEYS"):
        ring().authenticate({} if header is None else {"Authorization": header})


def test_a_ring_does_not_hold_the_keys() -> None:
    found = ring("sk-secret-one", name="sk-secret-two")

    assert "sk-secret" not in repr(vars(found))
    assert repr(found) == "KeyRing(2 keys)"


def test_further_keys_count_but_never_under_a_name_of_the_configuration() -> None:
    found = ring(a="one")
    more = {"two": Caller("b"), "three": Caller("a")}

    assert found.authenticate(bearer("two"), more.get) == Caller("b")
    with pytest.raises(Unauthorized, match="not known here"):
        found.authenticate(bearer("three"), more.get)


def test_each_caller_has_a_secret_of_its_own_that_is_not_shown() -> None:
    found = ring(a="one", b="two")
    callers = [found.authenticate(bearer(key)) for key in ("one", "two")]

    assert len({caller.secret for caller in callers}) == 2
    assert all(caller.secret and "secret" not in repr(caller) for caller in callers)
