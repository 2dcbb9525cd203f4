"""Commands on ``flask --app wsgi``, and the same on ``python -m one_api``."""

import click
from flask import Flask, current_app

from one_api.api.service import Service
from one_api.config import as_lines


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
