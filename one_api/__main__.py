"""``python -m one_api`` and ``one-api``: ``serve``, the commands of the application, and ``--version``."""

import os
import sys
from pathlib import Path

import click
from flask import Flask
from flask.cli import FlaskGroup

from one_api import __version__, quickstart
from one_api.commands.cli import WITHOUT_APPLICATION, key_command
from one_api.config import ConfigError, load


def _create_app() -> Flask:
    # Only here, so that a command that needs no application imports none.
    from one_api.app import create_app

    return create_app()


class _Commands(FlaskGroup):
    """Finds the commands below before it imports what extensions of Flask add."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.commands.get(name) or super().get_command(ctx, name)


cli = _Commands(
    name="one_api",
    create_app=_create_app,
    add_version_option=False,
    load_dotenv=False,  # our own configuration reads the files
    help="The one_api gateway.",
)


@cli.command("serve", with_appcontext=False, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve(options: tuple[str, ...]) -> None:
    """Serve with gunicorn, as the configuration says; OPTIONS are gunicorn's own.

    Where there is neither an API key nor a .env, one with new keys is made here first, and a small local model is
    fetched. The model is also fetched later, while there is nothing else to serve.
    """
    loaded = load()
    is_new = quickstart.is_first_start(loaded) or quickstart.has_nothing_to_serve(loaded)
    if is_new and (status := quickstart.main()):
        sys.exit(status)
    sys.stdout.flush()  # what is printed here would be lost with this process
    settings = ["-c", "python:one_api.serving.gunicorn_conf", "one_api.wsgi:app"]
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, *settings])  # noqa: S606 - no shell


for command in (key_command, *WITHOUT_APPLICATION):
    cli.add_command(command)
cli = click.version_option(__version__, prog_name="one_api")(cli)


def main(name: str | None = None) -> None:
    """Run a command, and end the process with its status; what is wrong with the configuration is said in words."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # adapters of one's own lie there, as they do for `python -m`
    try:
        cli(prog_name=name)
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main("python -m one_api")
