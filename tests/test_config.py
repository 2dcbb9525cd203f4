"""Configuration: variables, ``.env`` and the YAML file become one valid whole, or one error that names everything."""

import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from msgspec import Struct, structs

from one_api.commands.cli import printed
from one_api.config import Config, ConfigError, masked
from one_api.settings.adapters import ClaudeConfig, LocalConfig, OpenAIConfig
from one_api.settings.kinds import Secret, Storage
from one_api.settings.sections import (
    KeyConfig,
    RateLimitConfig,
    ServerConfig,
    TargetConfig,
    connections_for,
    targets,
)
from one_api.settings.validation import Problem

SECRET = "sk-canary-7f3a9c"
Load = Callable[..., Config]
Refuse = Callable[..., list[Problem]]


def load_variables(**variables: str) -> Config:
    """A configuration from these variables alone."""
    return Config.load({"ONE_API_ENV_FILE": "/dev/null", **variables})


def refuse_variables(**variables: str) -> list[Problem]:
    """What is wrong with these variables."""
    with pytest.raises(ConfigError) as caught:
        load_variables(**variables)
    return list(caught.value.problems)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a file's text, beside variables."""

    def act(text: str, **variables: str) -> Config:
        path = tmp_path / "one_api.yaml"
        path.write_text(text, encoding="utf-8")
        return load_variables(ONE_API_CONFIG=str(path), **variables)

    return act


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Loads a file's text that is wrong, and returns its problems."""

    def act(text: str, **variables: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load(text, **variables)
        return list(caught.value.problems)

    return act


def only(problems: list[Problem]) -> Problem:
    """The one problem that there is."""
    assert len(problems) == 1, problems
    return problems[0]


def openai(config: Config, name: str = "openai") -> OpenAIConfig:
    """An adapter of that type."""
    adapter = config.adapters[name]
    assert isinstance(adapter, OpenAIConfig)
    return adapter


def revealed(config: Config) -> list[str]:
    """The keys that clients may use."""
    return [entry.key.reveal() for entry in config.api_keys]


# Variables alone


def test_without_any_variable_only_local_models_are_served() -> None:
    config = load_variables()

    assert config.api_keys == ()
    assert config.adapters == {"local": LocalConfig(models_dir="models")}
    assert (config.server, config.rate_limit) == (ServerConfig(), RateLimitConfig())
    assert config.model_groups == {}


def test_the_articles_variables_make_a_working_gateway() -> None:
    config = load_variables(
        API_KEYS="one, two,,", OPENAI_API_KEY=SECRET, OPENAI_BASE_URL="http://up.example/v1",
        LOCAL_MODELS_ENABLED="True", LOCAL_MODELS_DIR="/srv/models", RATE_LIMIT_ENABLED="no", RATE_LIMIT_REQUESTS="7",
        HOST="0.0.0.0", PORT="9000", DEBUG="on",
    )  # fmt: skip

    assert revealed(config) == ["one", "two"]
    assert openai(config).base_url == "http://up.example/v1"
    assert openai(config).api_key is not None
    assert config.adapters["local"] == LocalConfig(models_dir="/srv/models")
    assert config.rate_limit == RateLimitConfig(enabled=False, requests_per_minute=7)
    assert (config.server.host, config.server.port, config.server.debug) == ("0.0.0.0", 9000, True)


def test_the_projects_own_variables_are_read() -> None:
    config = load_variables(
        WEB_CONCURRENCY="3", CORS_ORIGINS="https://a.example, http://b.example", DRAIN_SECONDS="1.5",
        LOG_FORMAT="json", LOG_LEVEL="debug",
    )  # fmt: skip

    assert (config.server.workers, config.server.drain_s) == (3, 1.5)
    assert config.server.cors_origins == ("https://a.example", "http://b.example")
    assert (config.log.format, config.log.level) == ("json", "debug")


@pytest.mark.parametrize(
    ("variables", "base_url", "key"),
    [
        ({"OPENAI_API_KEY": SECRET}, "https://api.openai.com/v1", SECRET),
        ({"OPENAI_BASE_URL": "http://up.example"}, "http://up.example", None),
        ({"OPENAI_API_KEY": f" {SECRET} ", "OPENAI_BASE_URL": " http://up.example "}, "http://up.example", SECRET),
    ],
)
def test_an_openai_adapter_needs_a_key_or_an_address(variables: dict[str, str], base_url: str, key: str | None) -> None:
    adapter = openai(load_variables(**variables))

    assert adapter.base_url == base_url
    assert (adapter.api_key and adapter.api_key.reveal()) == key


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (OpenAIConfig(), {"base_url": "https://api.openai.com/v1", "weight": 1, "max_concurrency": 1000,
                          "discovery_interval_s": 300, "stream_usage": True, "developer_as_system": False}),
        (OpenAIConfig().timeouts, {"connect_s": 2, "first_event_s": None, "idle_s": 60, "total_s": 600,
                                   "stream_total_s": 3600}),
        (LocalConfig(), {"models_dir": "models", "slots": 4, "slot_context": None, "threads": None,
                         "default_max_tokens": 1024, "idle_unload_s": 900, "start_timeout_s": 60}),
        (RateLimitConfig(), {"enabled": True, "requests_per_minute": 100, "tokens_per_minute": None,
                                 "concurrent": None, "storage": "auto", "storage_timeout_s": 0.05}),
        (Config().cache, {"enabled": False, "ttl_s": 300, "max_bytes": 67_108_864, "max_answer_bytes": 1_048_576,
                          "storage": "memory", "storage_timeout_s": 0.05, "join_wait_s": 10, "scope": "key",
                          "store_tool_calls": False, "single_flight": True}),
        (Config().retry, {"max_attempts": 3, "budget": 0.2, "min_concurrent": 3}),
        (ServerConfig(), {"host": "127.0.0.1", "port": 8000, "workers": 1, "debug": False, "cors_origins": (),
                          "max_body_bytes": 33_554_432, "body_timeout_s": 30, "head_timeout_s": 10,
                              "write_timeout_s": 30, "heartbeat_s": 15, "commit_s": 15,
                          "drain_s": 600, "keep_alive_s": 75, "backlog": 2048}),
        (Config().log, {"format": "text", "level": "info"}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_defaults_are_the_documented_ones(settings: Struct, expected: dict[str, object]) -> None:
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("files", "connections"), [(None, 10_000), (1_000_000, 10_000), (20_000, 9_950), (1024, 462), (64, 16)]
)
def test_the_connections_follow_from_the_files_that_may_be_open(files: int | None, connections: int) -> None:
    assert connections_for(files) == connections


def test_without_a_setting_the_files_are_enough() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard in range(132) or hard == resource.RLIM_INFINITY or ServerConfig().files_needed <= hard


@pytest.mark.parametrize(
    ("word", "enabled"), [("true", True), ("1", True), ("YES", True), ("off", False), ("0", False)]
)
def test_a_switch_may_be_written_in_several_ways(word: str, enabled: bool) -> None:
    assert ("local" in load_variables(LOCAL_MODELS_ENABLED=word).adapters) is enabled
    assert load_variables(RATE_LIMIT_ENABLED=word).rate_limit.enabled is enabled


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_is_no_setting(blank: str) -> None:
    names = ["API_KEYS", "OPENAI_API_KEY", "OPENAI_BASE_URL", "CLAUDE_API_KEY", "CLAUDE_BASE_URL", "PORT", "DEBUG",
             "LOCAL_MODELS_ENABLED", "RATE_LIMIT_ENABLED", "LOCAL_MODELS_DIR", "ONE_API_CONFIG", "LOG_LEVEL",
             "CORS_ORIGINS"]  # fmt: skip

    config = load_variables(**dict.fromkeys(names, blank))

    assert structs.asdict(config) == structs.asdict(load_variables())


def test_a_claude_key_alone_makes_an_adapter() -> None:
    claude = load_variables(CLAUDE_API_KEY=SECRET).adapters["claude"]

    assert isinstance(claude, ClaudeConfig)
    assert claude.base_url == "https://api.anthropic.com"
    assert claude.api_key is not None
    assert claude.api_key.reveal() == SECRET
    assert SECRET not in repr(claude)


def test_another_server_of_claudes_dialect_may_need_no_key() -> None:
    claude = load_variables(CLAUDE_BASE_URL="http://here:8080").adapters["claude"]

    assert isinstance(claude, ClaudeConfig)
    assert (claude.base_url, claude.api_key) == ("http://here:8080", None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "1.5"),
        ("DEBUG", "maybe"),
        ("DRAIN_SECONDS", "long"),
        ("DRAIN_SECONDS", "nan"),
        ("DRAIN_SECONDS", "-3"),
        ("RATE_LIMIT_ENABLED", "2"),
        ("RATE_LIMIT_REQUESTS", "0"),
        ("RATE_LIMIT_REQUESTS", "many"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("LOCAL_MODELS_ENABLED", "perhaps"),
        ("OPENAI_BASE_URL", "api.example/v1"),
        ("PORT", "\u0663"),
        ("PORT", "8_000"),
        ("API_KEYS", "one two"),
        ("API_KEYS", "schlüssel"),
        ("API_KEYS", "same,same"),
        ("ONE_API_CONFIG", "/nowhere/one_api.yaml"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable_and_the_fix(variable: str, value: str) -> None:
    problem = only(refuse_variables(**{variable: value}))

    assert problem.where == variable
    assert problem.what
    assert problem.fix


# The .env file and the environment


def test_a_pipe_may_stand_in_place_of_a_file(tmp_path: Path) -> None:
    """Some keepers of secrets write one whenever it is opened; its writer may come a little later."""
    pipe = tmp_path / ".env"
    os.mkfifo(pipe)

    with ThreadPoolExecutor(1) as keeper:
        written = keeper.submit(pipe.write_text, "PORT=1234\r\nAPI_KEYS=sk-from-a-pipe\r\n")
        config = Config.load({"ONE_API_ENV_FILE": str(pipe)})
        written.result(10)

    assert (config.server.port, revealed(config)) == (1234, ["sk-from-a-pipe"])


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    env_file = tmp_path / "settings.env"
    env_file.write_text(
        f"PORT=1111\nHOST=0.0.0.0\nAPI_KEYS='{SECRET}' # comment\n# LOG_LEVEL=debug\nRATE_LIMIT_REQUESTS\n"
    )

    config = Config.load({"ONE_API_ENV_FILE": str(env_file), "PORT": "2222"})

    assert (config.server.port, config.server.host) == (2222, "0.0.0.0")
    assert revealed(config) == [SECRET]
    assert (config.log.level, config.rate_limit.requests_per_minute) == ("info", 100)


def test_an_empty_variable_of_the_environment_wins_too(tmp_path: Path) -> None:
    env_file = tmp_path / "settings.env"
    env_file.write_text(f"API_KEYS={SECRET}\n")

    assert Config.load({"ONE_API_ENV_FILE": str(env_file), "API_KEYS": ""}).api_keys == ()


def test_the_env_file_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1111\nONE_API_ENV_FILE=other.env\n")
    (tmp_path / "other.env").write_text("PORT=2222\n")
    monkeypatch.chdir(tmp_path)

    assert Config.load({}).server.port == 1111
    assert Config.load({"ONE_API_ENV_FILE": "other.env"}).server.port == 2222


def test_a_missing_env_file_is_none(tmp_path: Path) -> None:
    config = Config.load({"ONE_API_ENV_FILE": str(tmp_path / "nothing.env")})

    assert structs.asdict(config) == structs.asdict(load_variables())


def test_an_env_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    env_file = tmp_path / "latin.env"
    env_file.write_bytes("API_KEYS=schlüssel\n".encode("latin-1"))

    with pytest.raises(ConfigError) as caught:
        Config.load({"ONE_API_ENV_FILE": str(env_file)})

    assert str(env_file) in only(list(caught.value.problems)).where


def test_an_env_file_may_name_the_yaml_file_and_its_variables(tmp_path: Path) -> None:
    (tmp_path / "one_api.yaml").write_text("api_keys: [{key: '${TEAM_KEY}'}]\n")
    (tmp_path / "settings.env").write_text(f"ONE_API_CONFIG={tmp_path}/one_api.yaml\nTEAM_KEY={SECRET}\n")

    assert revealed(Config.load({"ONE_API_ENV_FILE": str(tmp_path / "settings.env")})) == [SECRET]


def test_only_what_was_handed_in_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1111")

    assert load_variables().server.port == 8000


# The YAML file

WHOLE = """
api_keys:
  - {key: "${TEAM_KEY}", name: team}
  - key: plain
adapters:
  openai-eu:
    type: openai
    base_url: https://${REGION}.example/v1
    api_key: ${OPENAI_EU_KEY}
    models: [gpt-5, gpt-5-mini]
    weight: 2
    max_concurrency: 200
    timeouts: {connect_s: 1, first_event_s: 10, idle_s: 5.5}
    developer_as_system: true
  files: {type: local, models_dir: /srv/models, slots: 2, threads: 3}
model_groups:
  fast:
    targets: [openai-eu/gpt-5-mini, {model: files/a/b, weight: 3}]
    fallbacks: [openai-eu/gpt-5]
    strategy: ordered
rate_limit: {requests_per_minute: 5}
retry: {max_attempts: 2, budget: 0}
server: {port: 9000, cors_origins: ["https://a.example"], heartbeat_s: 5}
log: {format: json}
"""
WHOLE_VARIABLES = {"TEAM_KEY": SECRET, "REGION": "eu", "OPENAI_EU_KEY": "sk-eu"}


def test_a_whole_file_is_read(load: Load) -> None:
    config = load(WHOLE, **WHOLE_VARIABLES)
    adapter, group = openai(config, "openai-eu"), config.model_groups["fast"]

    assert revealed(config) == [SECRET, "plain"]
    assert [entry.name for entry in config.api_keys] == ["team", ""]
    assert (adapter.base_url, adapter.models, adapter.weight) == ("https://eu.example/v1", ("gpt-5", "gpt-5-mini"), 2)
    assert (adapter.max_concurrency, adapter.developer_as_system, adapter.stream_usage) == (200, True, True)
    assert (adapter.timeouts.connect_s, adapter.timeouts.first_event_s, adapter.timeouts.total_s) == (1, 10, 600)
    assert adapter.api_key is not None
    assert adapter.api_key.reveal() == "sk-eu"
    assert config.adapters["files"] == LocalConfig(models_dir="/srv/models", slots=2, threads=3)
    assert targets(group.targets) == (
        TargetConfig(model="openai-eu/gpt-5-mini"),
        TargetConfig(model="files/a/b", weight=3),
    )
    assert (targets(group.fallbacks), group.strategy) == ((TargetConfig(model="openai-eu/gpt-5"),), "ordered")
    assert (config.rate_limit.requests_per_minute, config.retry.max_attempts, config.retry.budget) == (5, 2, 0)
    assert (config.server.port, config.server.cors_origins) == (9000, ("https://a.example",))


def test_the_file_has_the_last_word(load: Load) -> None:
    text = "server: {host: 0.0.0.0}\nadapters: {up: {type: openai, base_url: 'http://up.example'}}\n"

    config = load(text, PORT="9000", OPENAI_API_KEY=SECRET, RATE_LIMIT_REQUESTS="7", API_KEYS="one")

    assert (config.server.host, config.server.port) == ("0.0.0.0", 9000)
    assert list(config.adapters) == ["up"]
    assert config.rate_limit.requests_per_minute == 7
    assert revealed(config) == ["one"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_says_nothing(load: Load, text: str) -> None:
    assert structs.asdict(load(text)) == structs.asdict(load_variables())


def test_a_variable_may_stand_anywhere_in_a_text_and_more_than_once(load: Load) -> None:
    text = "adapters: {up: {type: openai, base_url: 'http://${HOST_}:${PORT_}/${HOST_}'}}"

    assert openai(load(text, HOST_="h", PORT_="81"), "up").base_url == "http://h:81/h"


def test_what_looks_almost_like_a_variable_stays(load: Load) -> None:
    text = "adapters: {up: {type: openai, models: ['$A', '${a b}', '$$', '${}', '{A}']}}"

    assert openai(load(text, A="x"), "up").models == ("$A", "${a b}", "$$", "${}", "{A}")


@pytest.mark.parametrize(
    ("text", "given", "port"),
    [("${P:-8123}", "", 8123), ("${P:-8123}", "9", 9), ("${P-8123}", "", 8123), ("81${P:-}", "", 81)],
)
def test_a_variable_may_have_a_default(load: Load, text: str, given: str, port: int) -> None:
    assert load(f"server:\n  port: {text}\n", P=given).server.port == port


@pytest.mark.parametrize("text", ["${K:?needed}", "${K.x}", "${env:K}", "${K:+x}", "${K|x}"])
def test_another_form_of_a_variable_is_never_taken_for_the_secret_itself(refuse: Refuse, text: str) -> None:
    problems = refuse(f"api_keys: [{{key: '{text}'}}]", K="sk-0123456789")

    assert any("${NAME:-default}" in problem.fix for problem in problems)


def test_the_value_of_a_variable_is_not_looked_into(load: Load) -> None:
    text = "adapters: {up: {type: openai, models: ['${A}', '${B}']}}"

    assert openai(load(text, A="${B}", B="[1, 2]"), "up").models == ("${B}", "[1, 2]")


# What is wrong with a file

UP = "adapters: {up: {type: openai, base_url: 'http://up.example', %s}}"


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("serwer: {}", "serwer", "Did you mean server?"),
        ("adapter: {}", "adapter", "Did you mean adapters?"),
        ("xyzzy: 1", "xyzzy", "Known here: "),
        ("1: 2", "1", "is not a setting"),
        ("server: {prot: 1}", "server.prot", "Did you mean port?"),
        (UP % "base_ulr: x", "adapters.up.base_ulr", "Did you mean base_url?"),
        (UP % "timeouts: {conect_s: 1}", "adapters.up.timeouts.conect_s", "Did you mean connect_s?"),
        ("api_keys: [{key: a}, {kee: b, key: b}]", "api_keys[1].kee", "Did you mean key?"),
        (UP % "models: [m]" + "\nmodel_groups: {g: {targets: [{model: up/m, wait: 1}]}}",
         "model_groups.g.targets[0].wait", "Did you mean weight?"),
        ("prices: {models: {a/x: {units: {image: 1}}}}", "prices.models.a/x.units.image", "Did you mean images?"),
        ("prices: {models: {a/x: {units: {pixels: 1}}}}", "prices.models.a/x.units.pixels", "Known here: characters"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_with_a_suggestion(refuse: Refuse, text: str, where: str, says: str) -> None:
    problem = only(refuse(text))

    assert problem.where.endswith(f"one_api.yaml: {where}")
    assert says in str(problem)


@pytest.mark.parametrize(
    "price", ["{}", "{units: {}}", "{units: {images: 1}, output: 1}", "{units: {images: 1}, input: 1}", "{input: 1}"]
)
def test_a_price_says_enough(refuse: Refuse, price: str) -> None:
    problem = only(refuse(f"prices: {{models: {{a/x: {price}}}}}"))

    assert problem.where.endswith("prices.models.a/x")
    assert "units" in problem.fix


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("server: []", "server"),
        ("server:", "server"),
        ("server: {port: '8000'}", "server.port"),
        ("server: {port: true}", "server.port"),
        ("server: {port: 65536}", "server.port"),
        ("server: {cors_origins: x}", "server.cors_origins"),
        ("server: {cors_origins: [1]}", "server.cors_origins[0]"),
        ("server: {heartbeat_s: 0}", "server.heartbeat_s"),
        ("server: {heartbeat_s: 86401}", "server.heartbeat_s"),
        ("server: {heartbeat_s: .nan}", "server.heartbeat_s"),
        ("adapters: {a: {type: openai, base_url: 'http://h', weight: .inf}}", "adapters.a.weight"),
        (
            "adapters: {a: {type: openai, base_url: 'http://h', timeouts: {idle_s: .inf}}}",
            "adapters.a.timeouts.idle_s",
        ),
        ("admin: {listen: 127.0.0.1}", "admin.listen"),
        ("admin: {listen: '127.0.0.1:0'}", "admin.listen"),
        ("admin: {listen: '::1:9000'}", "admin.listen"),
        ("admin: {listen: 9000}", "admin.listen"),
        ("admin: {listen: '127.0.0.1:8000'}", "admin.listen"),
        ("admin: {allow: [10.0.0.0/8]}", "admin.allow"),
        ("admin: {listen: '127.0.0.1:9000', allow: [here]}", "admin.allow[0]"),
        ("retry: {budget: 1.1}", "retry.budget"),
        ("retry: {min_concurrent: -1}", "retry.min_concurrent"),
        ("retry: {max_attempts: 0}", "retry.max_attempts"),
        ("log: {level: loud}", "log.level"),
        ("api_keys: x", "api_keys"),
        ("api_keys: [x]", "api_keys[0]"),
        ("api_keys: [{name: x}]", "api_keys[0].key"),
        ("api_keys: [{key: ''}]", "api_keys[0].key"),
        ("api_keys: [{key: 12345}]", "api_keys[0].key"),
        ("adapters: [x]", "adapters"),
        ("adapters:", "adapters"),
        ("adapters: {up: }", "adapters.up.type"),
        ("adapters: {up: {}}", "adapters.up.type"),
        ("adapters: {up: {type: open_ai}}", "adapters.up.type"),
        ("adapters: {up: {type: [openai]}}", "adapters.up.type"),
        ("adapters: {'a/b': {type: openai}}", "adapters.a/b"),
        ("adapters: {'': {type: openai}}", "adapters."),
        (UP % "weight: 0", "adapters.up.weight"),
        (UP % "models: gpt-5", "adapters.up.models"),
        (UP % "max_concurrency: 1.5", "adapters.up.max_concurrency"),
        (UP % "timeouts: {idle_s: -1}", "adapters.up.timeouts.idle_s"),
        (UP % "api_key: {a: b}", "adapters.up.api_key"),
        ("adapters: {up: {type: local, base_url: x}}", "adapters.up.base_url"),
        (UP % "x: 1}, up2: {type: openai, y: 1", "adapters.up.x"),
    ],
)
def test_a_bad_value_is_an_error_that_names_file_and_path(refuse: Refuse, text: str, where: str) -> None:
    problem = refuse(text)[0]

    assert problem.where.endswith(f"one_api.yaml: {where}")
    assert problem.fix


@pytest.mark.parametrize(
    "text",
    [
        "server: {port: 0, workers: 1, heartbeat_s: 86400}",
        "server: {port: 65535, heartbeat_s: 0.001}",
        "admin: {listen: '[::1]:9000', allow: [10.0.0.0/8, '::1']}",
        "admin: {listen: 'ops.internal:9000', allow: []}",
        "retry: {budget: 1, max_attempts: 1}",
        UP % "weight: 0.5, max_concurrency: 1",
        UP % "models: [m]" + "\nmodel_groups: {g: {targets: [up/m]}}",
    ],
)
def test_the_edges_of_a_range_belong_to_it(load: Load, text: str) -> None:
    assert load(text)


@pytest.mark.parametrize(
    "url",
    ["up.example/v1", "localhost:8000", "ftp://up.example", "http://", "http:///v1", "http://h:99999", "http://h:x/v1",
     "http://h/v1?key=1", "http://h/v1#x", "", "http://[::1", "http://h:0/v1"],
)  # fmt: skip
def test_an_address_that_cannot_be_built_upon_is_an_error(refuse: Refuse, url: str) -> None:
    problem = only(refuse(f"adapters: {{up: {{type: openai, base_url: '{url}'}}}}"))

    assert problem.where.endswith("adapters.up.base_url")


@pytest.mark.parametrize("url", ["http://h", "HTTPS://h/v1/", "http://127.0.0.1:8000/v1", "http://[::1]:80/a/b"])
def test_an_address_that_can_be_built_upon_passes(load: Load, url: str) -> None:
    assert openai(load(f"adapters: {{up: {{type: openai, base_url: '{url}'}}}}"), "up").base_url == url


@pytest.mark.parametrize("credential", [f"user:{SECRET}", f"{SECRET}", f":{SECRET}"])
def test_a_credential_in_an_address_is_an_error_that_does_not_show_it(refuse: Refuse, credential: str) -> None:
    problem = only(refuse(f"adapters: {{up: {{type: openai, base_url: 'http://{credential}@h/v1'}}}}"))

    assert "api_key" in problem.fix
    assert SECRET not in str(problem)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("server: {}\nlog: {}\nserver: {}\n", 3, "'server' is given twice"),
        ("adapters:\n  a: {type: openai}\n  a: {type: local}\n", 3, "'a' is given twice"),
        (f"api_keys:\n  - key: a\n    key: {SECRET}\n", 3, "'key' is given twice"),
        (f"server: {{}}\nkey: [{SECRET}\n", 3, ""),
        (f"server: {{}}\nkey: {SECRET}: x\n", 2, ""),
        ("server: {}\n\tport: 1\n", 2, ""),
        ("a: !!python/object/apply:os.system [x]\n", 1, ""),
        (f"? [a, {SECRET}]\n: 1\n", 1, ""),
        ("a: *b\n", 1, ""),
        ("server: {}\na: 2020-99-99\n", 2, "is none"),
        (f"server: {{port: {'9' * 5000}}}\n", 1, "is none"),
        ("a: !!float x\n", 1, "is none"),
        ("a: !!binary é\n", 1, ""),
        ("a: 1\nb: !!int x\n", 2, "is none"),
    ],
)
def test_a_file_that_is_not_yaml_is_an_error_with_its_line(refuse: Refuse, text: str, line: int, says: str) -> None:
    problem = only(refuse(text))

    assert "one_api.yaml" in problem.where
    assert f"line {line}" in str(problem)
    assert says in problem.what
    assert SECRET not in str(problem)


@pytest.mark.parametrize("text", ["- a\n", "text\n", "5\n"])
def test_a_file_without_sections_is_an_error(refuse: Refuse, text: str) -> None:
    assert "mapping" in only(refuse(text)).what


@pytest.mark.parametrize("raw", [b"\xff\xfe", "server: {host: 'ä'}".encode("latin-1"), b"a: \x00"])
def test_a_file_that_is_not_text_is_an_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "one_api.yaml"
    path.write_bytes(raw)

    assert str(path) in str(only(refuse_variables(ONE_API_CONFIG=str(path))))


def test_a_missing_variable_is_an_error_that_names_it_and_its_place(refuse: Refuse) -> None:
    problems = refuse(
        "adapters: {up: {type: openai, api_key: '${UP_KEY}', base_url: 'http://${UP_HOST}/v1'}}", UP_HOST=""
    )

    assert [name for name in ("UP_KEY", "UP_HOST") if any(name in problem.what for problem in problems)] == [
        "UP_KEY",
        "UP_HOST",
    ]
    assert len(problems) == 2
    assert problems[0].where.endswith("one_api.yaml: adapters.up.api_key")


# Groups


@pytest.mark.parametrize(
    "target", ["gpt-5", "nobody/gpt-5", "up/", "/m", "/", "", "{model: nobody/m}", "{model: m, weight: 2}", "UP/m"]
)
@pytest.mark.parametrize("place", ["targets: [%s]", "targets: [up/m], fallbacks: [%s]"])
def test_a_target_must_name_an_adapter_and_a_model(refuse: Refuse, place: str, target: str) -> None:
    entry = target if target.startswith("{") else f"'{target}'"

    problem = only(refuse(UP % "models: [m]" + f"\nmodel_groups: {{fast: {{{place % entry}}}}}"))

    assert problem.where.endswith("model_groups.fast")
    assert "up" in problem.fix


@pytest.mark.parametrize("entry", ["5", "[up/m]", "{weight: 2}", "{model: up/m, weight: 0}", "{model: 5}"])
def test_a_target_must_be_well_formed(refuse: Refuse, entry: str) -> None:
    problem = refuse(UP % "models: [m]" + f"\nmodel_groups: {{fast: {{targets: [{entry}]}}}}")[0]

    assert "model_groups.fast.targets[0]" in problem.where


@pytest.mark.parametrize("group", ["{targets: []}", "{}", "{fallbacks: [up/m]}", "{targets: up/m}", "[]", ""])
def test_a_group_needs_targets(refuse: Refuse, group: str) -> None:
    problem = only(refuse(UP % "models: [m]" + f"\nmodel_groups: {{fast: {group}}}"))

    assert "model_groups.fast" in problem.where


def test_a_group_may_use_any_name_and_a_model_name_with_slashes(load: Load) -> None:
    config = load(UP % "models: [a/b/c]" + "\nmodel_groups: {'org/fast:1': {targets: [up/a/b/c]}}")

    assert targets(config.model_groups["org/fast:1"].targets) == (TargetConfig(model="up/a/b/c"),)


# All at once


def test_every_problem_is_told_at_once(refuse: Refuse) -> None:
    text = """
        serwer: {}
        server: {port: 70000, prot: 1}
        adapters:
          up: {type: openai, base_url: nowhere, weight: 0, api_key: '${GONE}'}
          down: {type: opneai}
          'bad/name': {type: local}
        model_groups:
          fast: {targets: [nobody/m, up/m, down/m]}
          slow: {targets: []}
        api_keys: [{key: a b}, {name: x}]
    """

    problems = refuse(text, RATE_LIMIT_REQUESTS="many", LOG_LEVEL="loud")
    places = sorted(problem.where.rpartition("one_api.yaml: ")[2] for problem in problems)

    assert places == sorted(
        [
            "serwer", "server.port", "server.prot", "adapters.up.base_url", "adapters.up.weight", "adapters.up.api_key",
            "adapters.down.type", "adapters.bad/name", "model_groups.fast", "model_groups.slow.targets", "api_keys",
            "api_keys[1].key", "RATE_LIMIT_REQUESTS", "LOG_LEVEL",
        ]
    )  # fmt: skip


def test_the_error_has_a_line_for_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        load_variables(PORT="x", DEBUG="y")

    first, *lines = str(caught.value).splitlines()
    assert first == "The configuration cannot be used:"
    assert lines == [f"  - {problem.where}: {problem.what}. {problem.fix}" for problem in caught.value.problems]
    assert len(lines) == 2


# Secrets


def test_a_secret_never_shows_itself() -> None:
    secret = Secret(SECRET)

    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        "{} {!r}".format(*[secret] * 2),
        repr([secret]),
    ):
        assert SECRET not in shown
    assert secret.reveal() == SECRET
    assert not hasattr(secret, "__dict__")


def test_a_configuration_never_shows_its_secrets(load: Load) -> None:
    config = load(WHOLE, TEAM_KEY=SECRET, REGION="eu", OPENAI_EU_KEY=SECRET + "2")

    for shown in (repr(config), str(config), f"{config}", printed(config), repr(structs.asdict(config))):
        assert SECRET not in shown
        assert "openai-eu" in shown


def test_an_error_never_shows_a_secret(refuse: Refuse) -> None:
    texts = [
        f"api_keys: [{{key: {SECRET}}}, {{key: {SECRET}}}]",
        f"api_keys: [{{key: '{SECRET} x'}}]",
        f"api_keys: [{{key: [{SECRET}]}}]",
        f"api_keys: {SECRET}",
        f"api_keys: [{SECRET}]",
        UP % f"api_key: {{key: {SECRET}}}",
        UP % f"api_key: [{SECRET}]",
    ]

    for text in texts:
        assert all(SECRET not in str(problem) for problem in refuse(text)), text


# Printing


def test_the_configuration_is_printed_as_yaml_with_masked_secrets(load: Load) -> None:
    shown = yaml.safe_load(printed(load(WHOLE, **WHOLE_VARIABLES)))

    assert shown["api_keys"] == [{"key": "***3a9c", "name": "team"}, {"key": "***", "name": "key-a116c9ed"}]
    assert shown["adapters"]["openai-eu"]["type"] == "openai"
    assert shown["adapters"]["openai-eu"]["api_key"] == "***"
    assert shown["model_groups"]["fast"]["strategy"] == "ordered"
    assert shown["server"]["debug"] is False


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (WHOLE, WHOLE_VARIABLES),
        ("log: {level: debug}", {"API_KEYS": "a,b,c,dddddddd,eeeedddd", "CLAUDE_API_KEY": SECRET}),
        ("cache: {enabled: true, storage: 'redis://user:pass@h/0'}", {}),
    ],
    ids=["whole", "short keys", "password"],
)
def test_what_is_printed_can_be_read_again(load: Load, text: str, variables: dict[str, str]) -> None:
    first = printed(load(text, **variables))

    again = printed(load(first))

    assert again == first
    assert "pass@" not in first


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Secret("x"), "***"),
        (KeyConfig(key=Secret("sk-12345678")), {"key": "***5678", "name": ""}),
        (KeyConfig(key=Secret("1234567")), {"key": "***", "name": ""}),
        ({"a": (1, None, "redis://u:p@h")}, {"a": [1, None, "redis://***@h"]}),
        (Storage("redis://u:p@x/p@h/0"), "redis://***@h/0"),
        (Storage("redis://h/0?db=1&password=p"), "redis://h/0?db=1&password=***"),
        (Storage("postgresql://h/one_api?sslpassword=p&host=a@b"), "postgresql://h/one_api?sslpassword=***&host=a@b"),
    ],
)
def test_secrets_are_masked_wherever_they_stand(value: object, expected: object) -> None:
    assert masked(value) == expected


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_example_of_the_readme_works_as_printed(load: Load, page: str) -> None:
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]

    config = load(text, OPENAI_API_KEY="key-1", GROQ_API_KEY="key-2")

    assert [target.model for target in targets(config.model_groups["fast"].fallbacks)] == [
        "here/SmolLM2-135M-Instruct.Q4_1"
    ]
