"""How generously settings are read: types of variables, files as editors write them, and what is probably a mistake."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import yaml
from yaml import scanner

from one_api.config import Config, ConfigError, Loaded, load
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig, key_names
from one_api.settings.validation import Problem

Read = Callable[..., Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the text of a YAML file, beside variables."""

    def act(text: str | None = None, **variables: str) -> Loaded:
        path = tmp_path / "one_api.yaml"
        named = {} if text is None else {"ONE_API_CONFIG": str(path)}
        path.write_text(text or "", encoding="utf-8")
        return load({"ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "k", **named, **variables})

    return act


def only(problems: tuple[Problem, ...]) -> Problem:
    """The one problem that there is."""
    assert len(problems) == 1, problems
    return problems[0]


# Variables in the file


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("server: \n  port: ${A}", "8123", 8123),
        ("server:\n  port: ${A}", " 8123 ", 8123),
        ("server:\n  heartbeat_s: ${A}", "2.5", 2.5),
        ("server:\n  heartbeat_s: ${A}", "3", 3),
        ("server:\n  debug: ${A}", "true", True),
        ("server:\n  debug: ${A}", "1", True),
        ("server:\n  debug: ${A}", "off", False),
        ("server:\n  host: ${A}", "127.0.0.1", "127.0.0.1"),
        ("log:\n  level: ${A}", "debug", "debug"),
        ("rate_limit:\n  tokens_per_minute: ${A}", "null", None),
        ("rate_limit:\n  tokens_per_minute: ${A}000", "20", 20000),
        ("cache:\n  ttl_s: ${A}", "1e2", 100),
    ],
)
def test_a_variable_has_the_type_of_its_field(read: Read, setting: str, value: str, expected: object) -> None:
    section, _, field = setting.replace("\n", "").partition(":")
    config = read(setting, A=value).config

    assert getattr(getattr(config, section), field.strip().partition(":")[0]) == expected


@pytest.mark.parametrize("value", ["12345678", "true", "null", "1e5", "0x1F", "2026-01-01"])
def test_a_key_stays_the_text_that_it_is(read: Read, value: str) -> None:
    adapter = read("adapters:\n  up:\n    type: openai\n    api_key: ${A}", A=value).config.adapters["up"]

    assert adapter == OpenAIConfig(api_key=Secret(value))


@pytest.mark.parametrize("setting", ['server:\n  port: "${A}"', "server:\n  port: '${A}'", "server: {port: '${A}'}"])
def test_in_quotes_it_stays_text(read: Read, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(setting, A="8000")

    problem = only(caught.value.problems)
    assert problem.where.endswith("server.port")
    assert "(from A)" in problem.what
    assert "without quotes" in problem.fix


@pytest.mark.parametrize("value", ["many", "70000", "1.5", "true", "[1]"])
def test_a_variable_that_does_not_fit_is_an_error_that_names_it(read: Read, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("server:\n  port: ${A_PORT}", A_PORT=value)

    assert "A_PORT" in only(caught.value.problems).what


@pytest.mark.parametrize("text", ["server: {port: ${A}}", "api_keys: [{key: ${A}}]", "x: [${A}]"])
def test_a_variable_that_yaml_takes_for_braces_gets_the_cure(read: Read, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, A="1")

    assert "quotes" in only(caught.value.problems).fix


def test_yaml_is_read_by_the_fast_parser_where_there_is_one(read: Read) -> None:
    slow = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename == scanner.__file__:
            slow.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        read("server: {port: 8001}")
    finally:
        sys.setprofile(None)

    assert (not slow) is yaml.__with_libyaml__


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log: {level: loud}", ["debug", "info", "warning", "error"]),
        ("log: {format: xml}", ["text", "json"]),
        ("cache: {scope: all}", ["key", "shared"]),
        ("adapters: {c: {type: claude, key_header: x}}", ["x-api-key", "bearer"]),
        ("adapters: {a: {type: openai}}\nmodel_groups: {g: {targets: [a/m], strategy: best}}", ["adaptive", "ordered"]),
        ("adapters: {a: {type: openai}}\nmodel_groups: {g: {targets: [a/m], hedge: {after: x}}}", ["p95", "a number"]),
    ],
)  # fmt: skip
def test_a_wrong_word_is_an_error_that_lists_the_right_ones(read: Read, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)

    assert all(word in only(caught.value.problems).fix for word in words)


@pytest.mark.parametrize("level", ["INFO", "Warning", "ERROR"])
def test_a_word_may_be_written_in_capitals(read: Read, level: str) -> None:
    assert read(LOG_LEVEL=level).config.log.level == level.lower()
    assert read(f"log: {{level: {level}}}").config.log.level == level.lower()


# The .env file


def env_file(path: Path, raw: bytes) -> Loaded:
    """What is read of a `.env` file with these bytes."""
    path.write_bytes(raw)
    return load({"ONE_API_ENV_FILE": str(path)})


@pytest.mark.parametrize(
    "raw",
    [b"PORT=8123\r\nAPI_KEYS=one\r\n", b"\xef\xbb\xbfPORT=8123\nAPI_KEYS=one",
     b"export PORT='8123' \nAPI_KEYS = \"one\"\n"],
)  # fmt: skip
def test_an_env_file_may_be_written_by_any_editor(tmp_path: Path, raw: bytes) -> None:
    config = env_file(tmp_path / "x.env", raw).config

    assert config.server.port == 8123
    assert config.api_keys == (KeyConfig(key=Secret("one")),)


@pytest.mark.parametrize("raw", ["PORT=1\nNAME=é".encode("latin-1"), "PORT=1".encode("utf-16"), b"\xff\xfe\x00"])
def test_an_env_file_in_another_encoding_is_an_error_that_names_it(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        env_file(tmp_path / "x.env", raw)

    assert only(caught.value.problems).where == str(tmp_path / "x.env")


def test_an_env_file_that_is_a_folder_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load({})

    assert only(caught.value.problems).where == ".env"
    assert "folder" in str(caught.value)


@pytest.mark.parametrize("line", ["PORT: 8000", "just words", "API_KEYS='sk-secret"])
def test_a_line_that_says_nothing_is_a_warning_with_its_number(tmp_path: Path, line: str) -> None:
    loaded = env_file(tmp_path / "x.env", f"DEBUG=false\n{line}\n".encode())

    warning = only(loaded.warnings)
    assert warning.where == str(tmp_path / "x.env")
    assert "line 2" in warning.what
    assert "secret" not in str(warning)


def test_a_named_env_file_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    loaded = load({"ONE_API_ENV_FILE": str(tmp_path / "none.env")})

    assert only(loaded.warnings).where == "ONE_API_ENV_FILE"
    assert loaded.files == ()


def test_the_files_that_were_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "one_api.yaml").write_text("log: {level: debug}")
    loaded = env_file(tmp_path / "x.env", f"ONE_API_CONFIG={tmp_path}/one_api.yaml\n".encode())

    assert loaded.files == (tmp_path / "x.env", tmp_path / "one_api.yaml")


# Near misses of variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("ANTHROPIC_BASE_URL", "CLAUDE_BASE_URL"),
        ("PORTT", "PORT"),
        ("API_KEY", "API_KEYS"),
        ("OPENAI_API_KEYS", "OPENAI_API_KEY"),
        ("openai_api_key", "OPENAI_API_KEY"),
        ("ONE_API_CONFG", "ONE_API_CONFIG"),
        ("RATE_LIMIT_REQUEST", "RATE_LIMIT_REQUESTS"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
    ],
)
def test_a_variable_that_is_nearly_ours_is_a_warning(read: Read, name: str, meant: str) -> None:
    warning = only(read(**{name: "x"}).warnings)

    assert warning.where == name
    assert warning.fix == f"Did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOSTNAME", "HOSTTYPE", "USER", "HOME", "LOGNAME", "LANG", "host", "port", "DEBUGINFOD_URLS", "PORTAGE"]
)  # fmt: skip
def test_variables_of_others_are_none_of_our_business(read: Read, name: str) -> None:
    assert read(**{name: "x"}).warnings == ()


def test_a_variable_that_the_file_refers_to_is_right(read: Read) -> None:
    text = "adapters:\n  c: {type: claude, api_key: '${ANTHROPIC_API_KEY}', base_url: 'https://${PORTT}'}"

    assert read(text, ANTHROPIC_API_KEY="x", PORTT="h", OPENAI_API_BASE="http://other").warnings == ()


def test_a_variable_of_another_program_beside_ours_is_fine(read: Read) -> None:
    assert read(ANTHROPIC_API_KEY="x", CLAUDE_API_KEY="y").warnings == ()


# Other mistakes


def test_an_empty_file_is_a_warning(read: Read) -> None:
    assert only(read("# nothing\n").warnings).where.endswith("one_api.yaml")


@pytest.mark.parametrize("folder", ["nowhere", "one_api.yaml", "a name too long for the system " * 9])
def test_a_models_folder_that_is_not_there_is_a_warning(read: Read, tmp_path: Path, folder: str) -> None:
    place = str(tmp_path / folder)

    assert only(read(LOCAL_MODELS_DIR=place).warnings).where == "LOCAL_MODELS_DIR"
    by_file = only(read(f"adapters: {{here: {{type: local, models_dir: '{place}'}}}}").warnings)
    assert by_file.where.endswith("adapters.here.models_dir")


UP = "adapters: {up: {type: %s, models: [gpt-5, gpt-5-mini]}}\nmodel_groups: {g: {%s}}"


@pytest.mark.parametrize("kind", ["openai", "claude"])
@pytest.mark.parametrize("where", ["targets: [up/gpt5]", "targets: [up/gpt-5], fallbacks: [{model: up/gpt5}]"])
def test_a_target_that_its_adapter_does_not_list_is_a_warning(read: Read, kind: str, where: str) -> None:
    warning = only(read(UP % (kind, where)).warnings)

    assert warning.where.endswith("model_groups.g")
    assert warning.fix == "Did you mean gpt-5?"


def test_a_target_without_a_file_is_a_warning(read: Read, tmp_path: Path) -> None:
    (tmp_path / "small.gguf").touch()
    text = f"adapters: {{here: {{type: local, models_dir: '{tmp_path}', aliases: {{s: small, t: smal}}}}}}\n"

    loaded = read(text + "model_groups: {g: {targets: [here/small, here/s, here/large]}}")

    assert [warning.where.rpartition(": ")[2] for warning in loaded.warnings] == [
        "adapters.here.aliases.t",
        "model_groups.g",
    ]


# Names of keys


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("alice:sk-12345678", ["alice"]),
        ("alice:sk-1, bob@x.org : sk-2,sk-3", ["alice", "bob@x.org", "key-b6c93c61"]),
        ("sk-a:b", ["key-2b4a41a2"]),
    ],
)
def test_keys_of_a_variable_may_have_names(read: Read, written: str, names: list[str]) -> None:
    assert key_names(read(API_KEYS=written).config.api_keys)[: len(names) - 1] == names[:-1]
    assert all(":" not in entry.name for entry in read(API_KEYS=written).config.api_keys)


@pytest.mark.parametrize("written", ["alice:", ":sk-1", "a b:sk-1", "é:sk-1"])
def test_half_a_name_is_an_error(read: Read, written: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(API_KEYS=written)

    assert only(caught.value.problems).where == "API_KEYS"


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b", "a"), ("a", "a", "a")])
def test_two_keys_of_one_name_are_two_identities_and_a_warning(read: Read, names: tuple[str, ...]) -> None:
    entries = [f"{name}:sk-{index}" for index, name in enumerate(names)]
    loaded, reversed_ = read(API_KEYS=",".join(entries)), read(API_KEYS=",".join(reversed(entries)))

    assert only(loaded.warnings).where == "API_KEYS"
    assert len(set(key_names(loaded.config.api_keys))) == len(names)
    assert set(key_names(loaded.config.api_keys)) == set(key_names(reversed_.config.api_keys))


def test_a_name_that_looks_like_one_of_ours_is_none_of_another_key() -> None:
    (made,) = key_names((KeyConfig(key=Secret("sk-1")),))

    names = key_names((KeyConfig(key=Secret("sk-1")), KeyConfig(key=Secret("sk-2"), name=made)))

    assert len(set(names)) == 2


def test_the_configuration_of_the_same_variables_is_equal() -> None:
    variables = {"ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "a:k", "OPENAI_API_KEY": "sk"}

    assert Config.load(variables) == Config.load(variables)
