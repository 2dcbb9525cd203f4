"""Commands on ``flask --app wsgi``, and the same on ``python -m one_api``."""

import re
from pathlib import Path
from typing import Any

import click
import msgspec
from flask import Flask, current_app
from msgspec import Struct

from one_api.api.service import Service
from one_api.models.fetch import FetchFailed, fetch_default_model
from one_api.settings import DEFAULT_MODELS_DIR, LocalConfig, Secret


def register_commands(app: Flask) -> None:
    """Add our commands to ``app``."""
    app.cli.add_command(_config)
    app.cli.add_command(_models)


@click.group("config")
def _config() -> None:
    """The configuration."""


@_config.command("check")
def _check() -> None:
    """Print the effective configuration with secrets masked, or everything that is wrong with it."""
    service: Service = current_app.extensions["one_api"]
    click.echo("\n".join(as_lines(service.config)))


@click.group("models")
def _models() -> None:
    """The local models."""


@_models.command("fetch")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
def _fetch(folder: Path | None) -> None:
    """Put the small default model into FOLDER, or into that of the first local adapter."""
    try:
        fetch_default_model(folder or _model_folders(DEFAULT_MODELS_DIR)[0], click.echo)
    except FetchFailed as error:
        raise click.ClickException(str(error)) from None


@_models.command("list")
def _list() -> None:
    """Print the models in the folders of the local adapters, and what is loaded of them."""
    # Only here, so that a gateway without local models imports nothing of the engine.
    from one_api.models.inventory import table

    folders = _model_folders()
    if not folders:
        raise click.ClickException("no local adapter is configured: set LOCAL_MODELS_ENABLED=true")
    for line in table(folders):
        click.echo(line)


def _model_folders(*otherwise: str) -> list[Path]:
    """Return the folders of the local adapters; ``otherwise`` if there is none."""
    service: Service = current_app.extensions["one_api"]
    adapters = service.config.adapters.values()
    found = [each.models_dir for each in adapters if isinstance(each, LocalConfig)]
    return [Path(folder) for folder in dict.fromkeys(found or otherwise)]


def as_lines(value: Any, indent: int = 0) -> list[str]:
    """Return any part of a configuration as YAML-like lines, secrets masked."""
    pad = "  " * indent
    if isinstance(value, Struct):
        value = (
            {"type": value.__struct_config__.tag} | msgspec.structs.asdict(value)
            if value.__struct_config__.tag
            else (msgspec.structs.asdict(value))
        )
    if isinstance(value, dict):
        entries = [(f"{pad}{key}:", child) for key, child in value.items()]
    elif isinstance(value, (tuple, list)):
        entries = [(f"{pad}-", child) for child in value]
    else:
        return [pad + _scalar(value)]
    lines = []
    for head, child in entries:
        if isinstance(child, (Struct, dict, tuple, list)) and child:
            lines += [head, *as_lines(child, indent + 1)]
        else:
            lines.append(f"{head} {_scalar(child)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return re.sub(r"(?<=://)[^/@\s]*@", "***@", value)
    return "[]" if value == () else "{}" if value == {} else str(value)
