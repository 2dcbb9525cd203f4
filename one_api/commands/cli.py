"""Commands on ``flask --app wsgi``, and the same on ``python -m one_api``."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from flask import Flask

from one_api.commands.accounts import ACCOUNT_COMMANDS
from one_api.config import Config, ConfigError, Loaded, load, masked
from one_api.dialects import json
from one_api.engine.download import FetchFailed, fetch_default_model
from one_api.settings.adapters import DEFAULT_MODELS_DIR, LocalConfig
from one_api.settings.files import as_yaml
from one_api.settings.kinds import Secret
from one_api.settings.sections import KeyConfig, key_names

#: Exit codes of ``config reload``, beside 0 and click's own 1.
_RESTART_NEEDED, _TIMED_OUT = 3, 4
#: Seconds between two looks at the gateway.
_POLL_S = 0.1

#: Of the commands that ask a running gateway.
_url_option = click.option(
    "--url", help="Where the gateway is, such as http://127.0.0.1:8000; by default where it is configured."
)


@click.group("config")
def _config() -> None:
    """The configuration."""


@_config.command("check")
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
def _check(strict: bool) -> None:
    """Print the effective configuration as YAML with secrets masked, or everything that is wrong with it.

    What is probably a mistake is a warning on standard error.
    """
    loaded = _load()
    click.echo(f"# read: {loaded.sources}")
    click.echo(printed(loaded.config), nl=False)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if strict and loaded.warnings:
        raise click.ClickException("there are warnings, which --strict takes for errors")


@_config.command("reload")
@_url_option
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait until every process uses it.")
def _reload(url: str | None, timeout: float) -> None:
    """Have the running gateway take over the changed configuration, without a cut.

    The configuration is checked here first. Exit codes: 0 applied; 1 refused, nothing was changed; 3 applied, but for
    settings that need a restart; 4 not every process uses it in time.
    """
    config = _load().config
    wanted = _ask_gateway(config, url, "/admin/config/reload", "POST")
    deadline = time.monotonic() + timeout
    while (why := _why_not_everywhere(wanted["digest"], config, url)) is not None:
        if time.monotonic() > deadline:
            click.echo(f"not every process uses {wanted['digest'][:12]} after {timeout:g} s: {why}", err=True)
            raise SystemExit(_TIMED_OUT)
        time.sleep(_POLL_S)
    click.echo(f"every process uses {wanted['digest'][:12]}")
    if wanted["restart_needed"]:
        click.echo(f"these need a restart: {', '.join(wanted['restart_needed'])}", err=True)
        raise SystemExit(_RESTART_NEEDED)


def _why_not_everywhere(digest: str, config: Config, url: str | None) -> str | None:
    """Return what to look at while not every process uses a configuration, as far as known; else None."""
    try:
        status = _ask_gateway(config, url, "/admin/config")
    except click.ClickException as error:  # it was asked for already, so this is no refusal
        return error.message
    is_everywhere = not status["silent"] and all(each["digest"] == digest for each in status["processes"])
    return None if is_everywhere else "see the log"


def printed(config: Config) -> str:
    """Return a configuration as YAML, secrets masked; each key has the name that stands for it in the log.

    Masked keys that look the same differ in the number of their stars: no key may be given twice.
    """
    shown = masked(config)
    seen: set[str] = set()
    for entry, name in zip(shown["api_keys"], key_names(config.api_keys), strict=True):
        while entry["key"] in seen:
            entry["key"] = f"*{entry['key']}"
        seen.add(entry["key"])
        entry["name"] = name
    return as_yaml(shown)


@click.command("key")
@click.argument("name", required=False)
def key_command(name: str | None) -> None:
    """Print the first API key, or that of NAME, for use in a command line. Danger: it is a secret."""
    click.echo(_key(_load().config, name).key.reveal())


def _key(config: Config, name: str | None) -> KeyConfig:
    """Return the key of a name, or the first; raises ClickException when there is none."""
    keys = dict(zip(key_names(config.api_keys), config.api_keys, strict=True))
    entry = keys.get(name) if name else next(iter(keys.values()), None)
    if entry is None:
        named = f" named {name}; there are: {', '.join(keys)}" if name and keys else ": set API_KEYS"
        raise click.ClickException(f"there is no API key{named}")
    return entry


@click.command("doctor")
def doctor_command() -> None:
    """Examine the configuration, this machine and each upstream; print one line for each fact, with the cure.

    Ends with status 1 when there is a problem. Asks each upstream for its models, and no model for anything.
    """
    # Only here, so that a gateway that serves imports nothing of it.
    from one_api.doctor.checks import examine
    from one_api.doctor.finding import summary

    findings = examine(Path(Flask("one_api.app").instance_path))
    for found in findings:
        click.echo(found)
    click.echo(f"\n{summary(findings)}")
    if any(found.state == "problem" for found in findings):
        raise click.exceptions.Exit(1)


def _load() -> Loaded:
    """Read the configuration; raises ClickException with everything that is wrong."""
    try:
        return load()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def _load_and_say() -> Config:
    """Read the configuration, and write to standard error which files it comes from, if any."""
    loaded = _load()
    if loaded.files:
        click.echo(f"configuration: {loaded.sources}", err=True)
    return loaded.config


@click.group("route")
def _route() -> None:
    """Where requests go."""


@_route.command("explain")
@click.argument("model")
@_url_option
@click.option("--recent", default=5, show_default=True, help="How many of the last requests to show.")
def _explain(model: str, url: str | None, recent: int) -> None:
    """Print how each deployment of MODEL looks to the running gateway, and where its last requests went.

    Asks the gateway that this configuration describes, or the one at --url; it must run on this machine. Every process
    of it has counts of its own, so each is shown.
    """
    found = _ask_gateway(_load_and_say(), url, f"/admin/routes/{quote(model)}")
    views = [found, *found["others"]]
    for view in views:
        click.echo(f"process {view['process']}, one of {found['processes']}: each has counts of its own")
        for table in view["tables"]:
            kind = "streams" if table["stream"] else "whole answers"
            click.echo(f"\n{table['model']}, {kind}, strategy {table['strategy']}")
            click.echo(as_table(table["candidates"]))
        click.echo()
    click.echo("last requests, newest first")
    for record in found["recent"][:recent]:
        tries = ", ".join(f"{each['deployment']} {each['outcome']} {each['ms']} ms" for each in record["attempts"])
        click.echo(f"{record['request_id']}  {record['status']}  {tries}")


def _ask_gateway(config: Config, url: str | None, path: str, method: str = "GET") -> Any:
    """Return what the running gateway answers, at ``url`` or where it is configured; raises ClickException in words."""
    if config.admin.key is None:
        raise click.ClickException("set ADMIN_KEY, the operator's key, in the gateway's environment and in this one")
    url = (url or config.admin.url or config.server.url).rstrip("/").removesuffix("/v1") + path
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url} is not an http address: write it like http://127.0.0.1:8000")
    # Only here, so that a gateway that serves imports nothing of it.
    from one_api.doctor.asking import NoAnswer, Question, ask

    headers = {"authorization": Secret(f"Bearer {config.admin.key.reveal()}")}
    try:
        answer = ask(Question(url, headers, connect_s=10, method=method))
    except NoAnswer as error:
        cure = "start it first, or name its present address with --url if that was changed in the files"
        raise click.ClickException(f"no gateway answers at {url}: {cure} ({error.what})") from None
    if answer.status == 401:
        cure = "`kill -HUP` on its gunicorn master has it take over one that was changed in the files"
        raise click.ClickException(f"the gateway at {url} has another ADMIN_KEY than this configuration: {cure}")
    with suppress(json.InvalidJSON, KeyError, TypeError):
        found = json.decode_object(answer.body)
        if answer.status in (200, 202):
            return found
        raise click.ClickException(found["error"]["message"])
    raise click.ClickException(f"{url} answers with status {answer.status}: is that the gateway?")


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as aligned columns under their names; what is not known is left blank."""
    shown = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in shown)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@click.command("chat")
@click.argument("message", nargs=-1)
@click.option("--model", help="Which model to ask; by default the first that is listed.")
@click.option("--key", "name", help="The name of the API key to use; by default the first.")
@_url_option
def _chat(message: tuple[str, ...], model: str | None, name: str | None, url: str | None) -> None:
    """Ask the running gateway MESSAGE, and print the answer as it comes.

    Without a MESSAGE each line of the input is one, until its end (Ctrl-D), and what was said before is remembered.
    """
    # Only here, so that a gateway that serves imports nothing of requests.
    from one_api.commands.conversation import Conversation, NoAnswer

    if message and not " ".join(message).strip():
        raise click.ClickException("the message is empty: write one, or leave it out to be asked for it")
    config = _load().config
    conversation = Conversation(url or config.server.url, _key(config, name).key)
    try:
        model = model or next(iter(conversation.models()), None)
        if model is None:
            raise NoAnswer("the gateway lists no model: `python -m one_api doctor` says why, and what to do")
        for text in iter([" ".join(message)]) if message else _lines(model):
            for piece in conversation.say(model, text):
                click.echo(piece, nl=False)
            click.echo()
    except NoAnswer as error:
        raise click.ClickException(str(error)) from None


def _lines(model: str) -> Iterator[str]:
    """Yield the lines that are typed, or come through a pipe."""
    click.echo(f"{model}; Ctrl-D ends", err=True)
    while True:
        click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


@click.group("models")
def _models() -> None:
    """The local models."""


@_models.command("fetch")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
def _fetch(folder: Path | None) -> None:
    """Put the small default model into FOLDER, or into that of the first local adapter."""
    try:
        fetch_default_model(folder or next(iter(_local_adapters(_load().config)), Path(DEFAULT_MODELS_DIR)), click.echo)
    except FetchFailed as error:
        raise click.ClickException(str(error)) from None


@_models.command("list")
def _list() -> None:
    """Print the models in the folders of the local adapters, and what is loaded of them."""
    # Only here, so that a gateway without local models imports nothing of the engine.
    from one_api.engine.inventory import table

    configs = _local_adapters(_load_and_say())
    if not configs:
        raise click.ClickException("no local adapter is configured: set LOCAL_MODELS_ENABLED=true")
    for line in table(configs, configs=configs):
        click.echo(line)


def _local_adapters(config: Config) -> dict[Path, LocalConfig]:
    """Return the local adapters by their folders; of several with one folder the first."""
    found: dict[Path, LocalConfig] = {}
    for adapter in config.adapters.values():
        if isinstance(adapter, LocalConfig):
            found.setdefault(Path(adapter.models_dir), adapter)
    return found


#: Those that work on the configuration as it is read: no application has to be made for them.
WITHOUT_APPLICATION = (_chat, _route, _models, doctor_command, *ACCOUNT_COMMANDS)


def register_commands(group: click.Group) -> None:
    """Add the commands to Flask's: in front of these an application is made, which an adapter may refuse."""
    for command in (_config, _check, *WITHOUT_APPLICATION):
        group.add_command(command)
