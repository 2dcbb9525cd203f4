"""Flask-Limiter on the gateway's windows: its own settings mean what its documentation says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Response, g
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from one_api.api import error_handlers
from one_api.config import Config, ConfigError
from one_api.limits.storage import STRATEGY, KeyWindows, Surroundings, WindowStorage
from one_api.serving.bridge import await_
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig
from one_api.utils.auth import KeyRing
from one_api.utils.limiter import KeyLimiter

KEYS = KeyRing((KeyConfig(key=Secret("sk-a"), name="alice"), KeyConfig(key=Secret("sk-b"), name="bob")))


class _Parts:
    """What a request is served with, as far as the limiter asks."""

    keys = KEYS
    limits: Any = None


def make(**settings: Any) -> Flask:
    """An application with one route and these settings of Flask's."""
    app = Flask(__name__)
    app.config.update(settings)

    @app.before_request
    def begin() -> None:
        g.snapshot = _Parts()

    app.extensions["test"] = KeyLimiter(app, Config(), lambda: 1)
    app.add_url_rule("/", "page", lambda: "page")
    return app


def statuses(app: Flask, count: int, key: str = "sk-a", address: str = "10.0.0.1") -> list[int]:
    """Ask so often; returns the statuses."""
    client, headers = app.test_client(), {"Authorization": f"Bearer {key}"}
    return [client.get("/", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code for _ in range(count)]


def test_a_default_limit_is_for_each_caller() -> None:
    app = make(RATELIMIT_DEFAULT="2/minute")

    assert statuses(app, 3) == [200, 200, 429]
    assert statuses(app, 3, "sk-b") == [200, 200, 429]
    # Without a key that is known it is the address that counts.
    assert statuses(app, 3, "unknown") == [200, 200, 429]
    assert statuses(app, 1, "other", "10.0.0.2") == [200]


@pytest.mark.parametrize("setting", ["RATELIMIT_DEFAULT", "RATELIMIT_APPLICATION"])
def test_the_narrowest_of_several_periods_counts(setting: str) -> None:
    assert statuses(make(**{setting: "3/hour;5/minute"}), 4) == [200, 200, 200, 429]
    assert statuses(make(**{setting: "9/day;2/minute"}), 3) == [200, 200, 429]


def test_a_meta_limit_and_a_cost_count() -> None:
    app = make(RATELIMIT_DEFAULT="4/minute", RATELIMIT_DEFAULTS_COST=2)

    assert statuses(app, 3) == [200, 200, 429]


def test_headers_are_sent_if_they_are_enabled() -> None:
    with make(RATELIMIT_DEFAULT="5/minute", RATELIMIT_HEADERS_ENABLED=True).test_client() as client:
        answer = client.get("/", headers={"Authorization": "Bearer sk-a"})

    assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("5", "4")
    assert 1 <= int(answer.headers["Retry-After"]) <= 61


def test_the_kill_switch_switches_everything_off() -> None:
    app = make(RATELIMIT_ENABLED=False, RATELIMIT_DEFAULT="1/minute")

    assert statuses(app, 5) == [200] * 5
    assert not app.extensions["test"].enabled


def test_without_its_settings_its_hooks_are_left_out() -> None:
    app = make()

    assert statuses(app, 3) == [200] * 3
    assert app.after_request_funcs == {}
    assert app.extensions["limiter"] == {app.extensions["test"]}


@pytest.mark.parametrize("uri", ["memory://", "one-api+memory:", "redis://127.0.0.1:6379/0"])
def test_its_storage_goes_before_that_of_the_configuration(uri: str) -> None:
    limiter: KeyLimiter = make(RATELIMIT_STORAGE_URI=uri).extensions["test"]

    assert limiter.storage.uri.endswith(uri)
    assert isinstance(limiter.storage, WindowStorage)
    assert isinstance(limiter.limiter, KeyWindows)


@pytest.mark.parametrize(
    "settings",
    [
        {"RATELIMIT_STORAGE_URI": "memcached://127.0.0.1:11211"},
        {"RATELIMIT_STORAGE_URI": "mongodb://user:pass-word@127.0.0.1"},
        {"RATELIMIT_STRATEGY": "fixed-window"},
    ],
)
def test_what_cannot_be_kept_here_is_an_error_at_the_start(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**settings)

    assert next(iter(settings)) in str(caught.value)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["memory:", "file:", "redis://127.0.0.1:6379/0"])
@pytest.mark.parametrize("limit", ["3/5 seconds", "3/minute", "3/2 hours", "3/day"])
def test_the_storages_are_those_of_the_limits_library(scheme: str, limit: str, tmp_path: Path) -> None:
    """Another program that uses the library alone: the storage is found by its scheme, any strategy of windows fits."""
    around: Any = {"around": Surroundings(tmp_path, "test", call_s=5)}
    storage: Any = storage_from_string(f"one-api+{scheme}", **around)
    windows, item = MovingWindowRateLimiter(storage), parse(limit)
    name = f"{tmp_path.name}-{limit}"  # Redis is shared with other tests
    try:
        assert windows.get_window_stats(item, name).remaining == 3
        assert [windows.hit(item, name) for _ in range(4)] == [True, True, True, False]
        assert not windows.test(item, name)
        stats = windows.get_window_stats(item, name)
        assert (stats.remaining, windows.hit(item, f"{name}-other", cost=3)) == (0, True)
        windows.clear(item, name)
        assert windows.hit(item, name)
    finally:
        windows.clear(item, name)
        windows.clear(item, f"{name}-other")
        await_(storage.store.aclose())


def test_the_strategy_is_known_by_its_name() -> None:
    assert make(RATELIMIT_STRATEGY="moving-window").extensions["test"].limiter.__class__ is KeyWindows
    assert make(RATELIMIT_STRATEGY=STRATEGY).extensions["test"].limiter.__class__ is KeyWindows


def test_a_refusal_is_written_as_every_other_error() -> None:
    app = make(RATELIMIT_DEFAULT="1/minute")
    _Parts.limits = SimpleNamespace(limiter=app.extensions["test"])
    error_handlers.register(app)
    assert statuses(app, 1) == [200]

    with app.test_client() as client:
        answer = client.get("/", headers={"Authorization": "Bearer sk-a"})

    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    error = answer.get_json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("rate_limit_exceeded", "requests", None)
    assert error["message"].startswith("Rate limit reached: 1 per 1 minute. Try again in ")


def test_an_answer_of_the_operators_own_is_sent_as_it_is() -> None:
    app = make(RATELIMIT_DEFAULT="1/minute", RATELIMIT_ON_BREACH_CALLBACK=lambda _: Response("Slower!", 429))
    error_handlers.register(app)
    assert statuses(app, 1) == [200]

    with app.test_client() as client:
        answer = client.get("/", headers={"Authorization": "Bearer sk-a"})

    assert (answer.status_code, answer.text) == (429, "Slower!")
