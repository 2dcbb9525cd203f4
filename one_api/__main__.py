"""``python -m one_api`` and ``one-api``: the commands of the application, and ``--version``."""

import sys

import click
from flask.cli import FlaskGroup

from one_api import __version__
from one_api.app import create_app
from one_api.cli import doctor_command, key_command
from one_api.config import ConfigError

cli = FlaskGroup(
    name="one_api",
    create_app=create_app,
    add_version_option=False,
    load_dotenv=False,  # our own configuration reads the files
    help="The one_api gateway.",
)
cli.add_command(key_command)
cli.add_command(doctor_command)
cli = click.version_option(__version__, prog_name="one_api")(cli)


def main(name: str | None = None) -> None:
    """Run a command, and end the process with its status; what is wrong with the configuration is said in words."""
    try:
        cli(prog_name=name)
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main("python -m one_api")
