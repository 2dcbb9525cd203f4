"""``flask run``: it listens where the configuration says, and leaves the log of requests to us."""

import logging
import os
import sys

import click
from click.core import ParameterSource
from flask.cli import run_command
from werkzeug.serving import is_running_from_reloader

from one_api.commands.startup import Listening, address_problem, report
from one_api.config import Loaded
from one_api.settings.addresses import url_of

#: How werkzeug's server logs a request.
_REQUEST_LINE = '"%s" %s %s'


def prepare_flask_run(loaded: Loaded) -> None:
    """Have a ``flask run`` that loads the application listen as it is configured; without one this does nothing.

    What is served, and what is doubtful, is printed as under gunicorn. Raises ClickException where the
    address is taken.

    The command has read its options before it loads the application, so the process begins anew with them. An address
    on the command line, or in Flask's own variables, goes before.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.command is not run_command:
        return
    logging.getLogger("werkzeug").addFilter(_is_no_request)
    wanted: list[str] = []
    server = loaded.config.server
    for option, value in (("host", server.host), ("port", server.port)):
        if context.get_parameter_source(option) is ParameterSource.DEFAULT and context.params[option] != value:
            wanted += [f"--{option}", str(value)]
    if wanted:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *wanted])  # noqa: S606 - this very command
    if not is_running_from_reloader():
        host, port = context.params["host"], context.params["port"]
        if not host.startswith("unix://") and (problem := address_problem(host, port, ("--host", "--port"))):
            raise click.ClickException(problem)
        report(loaded, Listening(url_of(host, port), 1))


def _is_no_request(record: logging.LogRecord) -> bool:
    """Drop the lines about requests, which are in our log already."""
    return not str(record.msg).endswith(_REQUEST_LINE)
