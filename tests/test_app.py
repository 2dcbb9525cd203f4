"""``create_app``: what it is built from, and what ``app.config`` says of it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from one_api.app import create_app
from one_api.config import Config, ConfigError
from one_api.settings.adapters import AdapterConfig, LocalConfig, OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig

PAGE = "https://app.example"
BASE = {"TESTING": True, "LOCAL_MODELS_ENABLED": False}


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The log is left as it was."""
    logger = logging.getLogger("one_api")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a ``.env`` that a mapping does not read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("API_KEYS=sk-of-the-file\nPORT=1")
    monkeypatch.setenv("API_KEYS", "sk-of-the-environment")


def models_status(app: Flask, key: str) -> int:
    """What a key gets."""
    return app.test_client().get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


@pytest.mark.parametrize("keys", ["sk-first-000,bob:sk-second-00", ["sk-first-000", "bob:sk-second-00"]])
def test_a_mapping_has_the_names_of_the_variables(keys: object) -> None:
    app = create_app({**BASE, "API_KEYS": keys})

    assert [models_status(app, key) for key in ("sk-first-000", "sk-second-00")] == [200, 200]
    assert [models_status(app, key) for key in ("sk-of-the-file", "sk-of-the-environment")] == [401, 401]
    assert app.testing


def test_the_settings_in_effect_are_in_the_applications_configuration_with_secrets_masked() -> None:
    given = {"API_KEYS": "sk-first-000", "OPENAI_API_KEY": "sk-upstream-1", "RATE_LIMIT_REQUESTS": 7, "DEBUG": False}

    app = create_app({**BASE, **given, "ADMIN_KEY": "sk-operator", "MINE": "kept"})

    shown = {name: app.config[name] for name in (*given, "ADMIN_KEY", "OPENAI_BASE_URL", "HOST", "PORT", "MINE")}
    assert shown == {
        "API_KEYS": ["***-000"],
        "OPENAI_API_KEY": "***",
        "RATE_LIMIT_REQUESTS": 7,
        "DEBUG": False,
        "ADMIN_KEY": "***",
        "OPENAI_BASE_URL": "https://api.openai.com/v1",
        "HOST": "127.0.0.1",
        "PORT": 8000,
        "MINE": "kept",
    }
    assert (app.config["LOCAL_MODELS_ENABLED"], app.config["LOCAL_MODELS_DIR"]) == (False, None)
    assert not any(secret in repr(app.config) for secret in ("sk-first", "sk-upstream", "sk-operator"))


def test_they_are_there_for_a_configuration_too() -> None:
    keys = (KeyConfig(key=Secret("sk-first-000")),)
    adapters: dict[str, AdapterConfig] = {
        "openai": OpenAIConfig(base_url="http://up:1/v1", models=()),
        "local": LocalConfig(models_dir="gguf"),
    }

    app = create_app(Config(api_keys=keys, adapters=adapters))

    assert app.config["OPENAI_BASE_URL"] == "http://up:1/v1"
    assert (app.config["LOCAL_MODELS_ENABLED"], app.config["LOCAL_MODELS_DIR"]) == (True, "gguf")
    assert app.config["OPENAI_API_KEY"] is None


def test_what_is_wrong_in_a_mapping_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        create_app({**BASE, "PORT": "many", "RATE_LIMIT_ENABLED": "perhaps"})

    assert [problem.where for problem in caught.value.problems] == ["PORT", "RATE_LIMIT_ENABLED"]


def test_a_mapping_may_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("api_keys: [{key: sk-of-the-yaml}]")

    app = create_app({**BASE, "ONE_API_CONFIG": str(tmp_path / "more.yaml")})

    assert models_status(app, "sk-of-the-yaml") == 200


# Keys of Flask-CORS: https://corydolphin.com/flask-cors/


def page(**settings: Any) -> FlaskClient:
    """A client of an application with these settings."""
    return create_app({**BASE, "API_KEYS": "sk-first-000", **settings}).test_client()


def preflight(client: FlaskClient, origin: str = PAGE, path: str = "/v1/models") -> Any:
    """The answer to a browser's question before a call."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-mine"}
    return client.options(path, headers=headers)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (PAGE, PAGE, True),
        (f"http://a.example,{PAGE}", PAGE, True),
        ([PAGE], "https://app.example.evil", False),
        ([], PAGE, False),
        ("*", PAGE, True),
        (r"https://.*\.example$", "https://app.example.evil", False),
        (r"https://.*\.example$", "https://www.app.example", True),
        ([r"https://[a-z]+\.example$"], PAGE, True),
    ],
)
def test_origins_may_be_patterns(origins: object, origin: str, allowed: bool) -> None:
    answer = preflight(page(CORS_ORIGINS=origins), origin)

    assert (answer.status_code == 204) is allowed
    assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed


@pytest.mark.parametrize(
    ("setting", "header", "value"),
    [
        ({"CORS_MAX_AGE": 5}, "Access-Control-Max-Age", "5"),
        ({"CORS_METHODS": ["GET"]}, "Access-Control-Allow-Methods", "GET"),
        ({"CORS_ALLOW_HEADERS": ["x-other"]}, "Access-Control-Allow-Headers", None),
        ({"CORS_EXPOSE_HEADERS": "x-request-id"}, "Access-Control-Expose-Headers", "x-request-id"),
        ({"CORS_SUPPORTS_CREDENTIALS": True}, "Access-Control-Allow-Credentials", "true"),
        ({"CORS_ORIGINS": "*", "CORS_SEND_WILDCARD": True}, "Access-Control-Allow-Origin", "*"),
        ({"CORS_RESOURCES": r"/v1/chat/.*"}, "Access-Control-Allow-Origin", None),
        ({"CORS_RESOURCES": {r"/v1/*": {"origins": "https://b.example"}}}, "Access-Control-Allow-Origin", None),
        ({"CORS_AUTOMATIC_OPTIONS": False}, "Access-Control-Allow-Origin", PAGE),
        ({"CORS_VARY_HEADER": False}, "Vary", None),
    ],
)
def test_each_key_means_what_it_means_to_flask_cors(setting: dict[str, Any], header: str, value: str | None) -> None:
    answer = preflight(page(**{"CORS_ORIGINS": [PAGE], **setting}))

    assert answer.headers.get(header) == value


def test_no_preflight_is_answered_where_flask_cors_is_told_not_to() -> None:
    assert preflight(page(CORS_ORIGINS=[PAGE], CORS_AUTOMATIC_OPTIONS=False)).status_code == 401


def test_the_operators_pages_stay_closed_whatever_is_set() -> None:
    answer = preflight(page(CORS_ORIGINS="*", CORS_RESOURCES=r".*", ADMIN_KEY="k"), path="/admin/config")

    assert "Access-Control-Allow-Origin" not in answer.headers
