"""The adapter of ``docs/adapters.md``, exactly as it stands there, by each of the three ways, through real gunicorn."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_api.config import Config, ConfigError, load, masked
from one_api.settings.adapters import OutsideConfig
from one_api.settings.changes import digest_of
from one_api.upstream.scrubbing import secrets_in
from tests.support import Gateway, RawClient, Response, ScriptedUpstream, completion, error, json_reply, post_chat
from tests.support.launcher import REPOSITORY

PAGE = (REPOSITORY / "docs/adapters.md").read_text()
#: The blocks of code of the page, by language, in order.
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml", "toml")}
SECRET = "sk-parrot-5b1c77"
#: An adapter that stops in the middle, beside that of the page.
CUT = """
class CutParrot(ParrotAdapter):
    async def chunks(self, words):
        yield {"choices": [{"index": 0, "delta": {"content": words[0]}}]}

class DeafParrot(ParrotAdapter):
    async def generate_completion(self, **kwargs):
        raise ConnectionError(f"no answer, the key was {self.api_key}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the module of the page, and with what installing it as a package would leave."""
    place = tmp_path_factory.mktemp("parrots")
    (place / "parrot.py").write_text(BLOCKS["python"][0] + CUT)
    (place / "my_wsgi.py").write_text(BLOCKS["python"][1])
    (place / "parrot-1.0.dist-info").mkdir()
    (name,) = re.findall(r'^parrot = "(.+)"$', BLOCKS["toml"][0], re.MULTILINE)
    (place / "parrot-1.0.dist-info/entry_points.txt").write_text(f"[one_api.adapters]\nparrot = {name}\n")
    (place / "parrot-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    return place


WAYS = {
    "by its place": (BLOCKS["yaml"][0], "wsgi:app", "Hello"),
    "by an entry point": ("adapters: {mine: {type: parrot, settings: {greeting: Ahoy}}}", "wsgi:app", "Ahoy"),
    "in code": ("adapters: {}", "my_wsgi:app", "You said"),
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Gateway, str]]:
    """A gateway that serves it, and how it greets."""
    text, wsgi, greeting = WAYS[request.param]
    env = {"PARROT_KEY": SECRET}
    with Gateway(config_yaml=text, wsgi_app=wsgi, pythonpath=[folder], env=env) as gateway:
        yield gateway, greeting


def ask(gateway: Gateway, model: str, **fields: Any) -> Response:
    """An answer, a stream's whole body included."""
    body = {"model": model, "messages": [{"role": "user", "content": "Polly wants"}], **fields}
    with RawClient(gateway.host, gateway.port) as client:
        client.send(post_chat(gateway.host, gateway.port, body, "test-key"))
        return client.read_response()


def text_of(answer: Response) -> str:
    """The text of a stream that is complete."""
    *events, done = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    assert done == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_the_page_fits_thirty_lines() -> None:
    assert len(BLOCKS["python"][0].splitlines()) <= 32


@pytest.mark.parametrize("model", ["parrot", "mine/parrot"])
def test_it_answers_whole_and_streamed(way: tuple[Gateway, str], model: str) -> None:
    gateway, greeting = way

    whole, streamed = ask(gateway, model), ask(gateway, model, stream=True)

    assert json.loads(whole.body)["choices"][0]["message"]["content"] == f"{greeting}: Polly wants"
    assert text_of(streamed) == f"{greeting}: Polly wants"


def test_its_model_is_listed(way: tuple[Gateway, str]) -> None:
    with RawClient(way[0].host, way[0].port) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n\r\n")
        (entry,) = json.loads(client.read_response().body)["data"]

    assert (entry["id"], entry["owned_by"], entry["context_window"]) == ("parrot", "me", 4096)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Iterator[Gateway]:
    """A gateway with adapters of others beside one of ours."""
    with ScriptedUpstream(["ok", "broken"]) as upstream:
        upstream.on("ok", json_reply(completion("from ours")))
        upstream.on("broken", error(500))
        adapters: dict[str, Any] = {
            "ours": {"type": "openai", "base_url": upstream.base_url, "models": ["ok", "broken"]},
            "good": {"type": "parrot:ParrotAdapter"},
            "cut": {"type": "parrot:CutParrot"},
            "deaf": {"type": "parrot:DeafParrot", "settings": {"api_key": SECRET}},
        }
        groups = {
            "to-theirs": {"targets": ["ours/broken"], "fallbacks": ["good/parrot"]},
            "to-ours": {"targets": ["deaf/parrot"], "fallbacks": ["ours/ok"]},
        }
        sections = {
            "adapters": adapters,
            "model_groups": groups,
            "api_keys": [{"key": "test-key"}, {"key": "few", "name": "few"}],
            "cache": {"enabled": True},
            "rate_limit": {"requests_per_minute": 1000},
        }
        with Gateway(config_yaml=json.dumps(sections), pythonpath=[folder]) as gateway:
            yield gateway


@pytest.mark.parametrize(("group", "text"), [("to-theirs", "You said: Polly wants"), ("to-ours", "from ours")])
def test_failover_leads_to_it_and_away_from_it(mixed: Gateway, group: str, text: str) -> None:
    answer = ask(mixed, group)

    assert json.loads(answer.body)["choices"][0]["message"]["content"] == text
    assert int(answer.headers.first("x-gateway-attempts") or 0) > 1


def test_a_stream_without_its_end_is_never_complete(mixed: Gateway) -> None:
    answer = ask(mixed, "cut/parrot", stream=True)

    assert "[DONE]" not in answer.body.decode()
    assert "upstream_stream_truncated" in answer.body.decode()


def test_what_it_raises_is_an_upstreams_error_without_its_secrets(mixed: Gateway) -> None:
    answer = ask(mixed, "deaf/parrot")

    assert answer.status == 502
    assert SECRET not in answer.body.decode()


def test_its_answers_are_kept(mixed: Gateway) -> None:
    first, second = (ask(mixed, "good/parrot", user="kept") for _ in range(2))

    assert (first.headers.first("x-gateway-cache"), second.headers.first("x-gateway-cache")) == ("miss", "hit")
    assert first.body == second.body


# Settings


@pytest.fixture
def read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the YAML of one adapter named ``mine``."""
    monkeypatch.syspath_prepend(str(folder))

    def act(adapter: str) -> Config:
        path = tmp_path / "one_api.yaml"
        path.write_text(f"adapters:\n  mine: {adapter}\n")
        given = {"ONE_API_ENV_FILE": "/dev/null", "ONE_API_CONFIG": str(path), "PARROT_KEY": SECRET}
        return load(given).config

    return act


def test_secrets_among_its_settings_hide_themselves(read: Any) -> None:
    config = read('{type: "parrot:ParrotAdapter", settings: {greeting: "${PARROT_KEY}", api_key: plain-text}}')

    assert masked(config)["adapters"]["mine"]["settings"] == {"greeting": "***", "api_key": "***"}
    assert set(secrets_in(config)) == {SECRET, "plain-text"}
    assert SECRET not in repr(config)


def test_changed_settings_are_another_configuration(read: Any) -> None:
    one, same, other = (read(f"{{type: parrot, settings: {{greeting: {word}}}}}") for word in ("a", "a", "b"))

    assert digest_of(one) == digest_of(same) != digest_of(other)
    assert one == same


@pytest.mark.parametrize(
    ("adapter", "where", "what"),
    [
        ("{type: parot, settings: {}}", "mine.type", "Use one of: openai, claude, local, parrot, or package.module"),
        ('{type: "nowhere.at_all:X"}', "mine", "No module named"),
        ('{type: "parrot:Nobody"}', "mine", "cannot be imported"),
        ('{type: "json:JSONDecoder"}', "mine", "is no BaseModelAdapter"),
        ("{type: parrot, settings: {colour: red}}", "mine", "unexpected keyword argument 'colour'. It takes greeting"),
        ("{type: parrot, greeting: Hello}", "mine.greeting", "is not a setting"),
        ("{type: parrot, settings: [1]}", "mine.settings", "expected a mapping"),
        ('{type: "one_api.models.adapters.base:BaseModelAdapter"}', "mine", "lacks generate_completion, list_models"),
    ],
)
def test_what_is_wrong_is_said_when_the_configuration_is_read(read: Any, adapter: str, where: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(adapter)

    (problem,) = caught.value.problems
    assert problem.where.endswith(f"adapters.{where}")
    assert what in str(problem)


def test_a_setting_keeps_the_type_that_yaml_gives_it(read: Any) -> None:
    config = read("{type: parrot, settings: {greeting: {a: [1, true, null, 2.5]}}}")

    settings = config.adapters["mine"]
    assert isinstance(settings, OutsideConfig)
    assert settings.settings == {"greeting": {"a": [1, True, None, 2.5]}}
