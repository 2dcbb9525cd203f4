"""``python -m one_api``: the commands of the application, and ``--version``."""

import sys

import click
from flask.cli import FlaskGroup

from one_api import __version__
from one_api.app import create_app
from one_api.cli import key_command
from one_api.config import ConfigError

cli = FlaskGroup(
    name="one_api",
    create_app=create_app,
    add_version_option=False,
    load_dotenv=False,  # our own configuration reads the files
    help="The one_api gateway.",
)
cli.add_command(key_command)
cli = click.version_option(__version__, prog_name="one_api")(cli)

if __name__ == "__main__":
    try:
        cli(prog_name="python -m one_api")
    except ConfigError as error:
        sys.exit(str(error))
