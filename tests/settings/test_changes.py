"""What differs between two configurations, and what of it a running process takes over."""

import pytest

from one_api.config import Config
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.changes import applicable, changed_paths, digest_of, is_same_adapter
from one_api.settings.kinds import Secret, Storage
from one_api.settings.observing import LogConfig
from one_api.settings.sections import CacheConfig, KeyConfig, RateLimitConfig, ServerConfig


def keyed(*names: str) -> Config:
    """A configuration with a key of each name."""
    return Config(api_keys=tuple(KeyConfig(key=Secret(f"sk-{name}"), name=name) for name in names))


def adapters(**api_keys: str) -> Config:
    """A configuration with an adapter for each, by the key of its upstream."""
    return Config(adapters={name: OpenAIConfig(api_key=Secret(key)) for name, key in api_keys.items()})


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        (Config(), Config(), []),
        (keyed("a"), keyed("a"), []),
        (keyed("a", "b"), keyed("a"), ["api_keys", "api_keys.b"]),
        (adapters(x="one"), adapters(x="two"), ["adapters.x.api_key"]),
        (Config(), Config(server=ServerConfig(heartbeat_s=3)), ["server.heartbeat_s"]),
        (adapters(x="1", y="2"), adapters(y="2", x="1"), ["adapters"]),
    ],
    ids=["nothing", "equal keys", "a key less", "a credential", "a setting", "the order of adapters"],
)
def test_changes_are_named_by_place_and_show_in_the_digest(old: Config, new: Config, paths: list[str]) -> None:
    assert changed_paths(old, new) == paths
    assert (digest_of(old) == digest_of(new)) is (paths == [])


def test_neither_places_nor_texts_hold_a_secret() -> None:
    new = Config(cache=CacheConfig(storage=Storage("redis://u:pass-word@h:1/0")), api_keys=keyed("a").api_keys)

    shown = repr(changed_paths(Config(), new)) + digest_of(new)

    assert "pass-word" not in shown
    assert "sk-a" not in shown


@pytest.mark.parametrize(
    ("new", "needed"),
    [
        (Config(server=ServerConfig(port=1, commit_s=2)), ["server.port"]),
        (Config(log=LogConfig(format="json")), ["log.format"]),
        (Config(rate_limit=RateLimitConfig(storage=Storage("memory"), concurrent=3)), ["rate_limit.storage"]),
        (Config(rate_limit=RateLimitConfig(requests_per_minute=5)), []),
    ],
    ids=["port", "log", "storage", "live"],
)
def test_what_only_a_start_can_change_stays_and_the_rest_is_applied(new: Config, needed: list[str]) -> None:
    running = Config()

    applied, paths = applicable(running, new)

    assert paths == needed
    assert changed_paths(applied, new) == needed
    assert (applied.server.port, applied.log.format) == (running.server.port, running.log.format)
    assert applied.server.commit_s == new.server.commit_s


def test_an_adapter_serves_on_when_only_routing_differs() -> None:
    old = OpenAIConfig(api_key=Secret("k"))

    assert is_same_adapter(old, OpenAIConfig(api_key=Secret("k"), weight=3, max_concurrency=5))
    assert not is_same_adapter(old, OpenAIConfig(api_key=Secret("other")))
