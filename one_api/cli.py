"""Commands on ``flask --app wsgi``, and the same on ``python -m one_api``."""

import re
from typing import Any

import click
import msgspec
from flask import Flask, current_app
from msgspec import Struct

from one_api.api.service import Service
from one_api.settings import Secret


def register_commands(app: Flask) -> None:
    """Add our commands to ``app``."""
    app.cli.add_command(_config)


@click.group("config")
def _config() -> None:
    """The configuration."""


@_config.command("check")
def _check() -> None:
    """Print the effective configuration with secrets masked, or everything that is wrong with it."""
    service: Service = current_app.extensions["one_api"]
    click.echo("\n".join(as_lines(service.config)))


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
