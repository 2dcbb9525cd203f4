"""How gunicorn serves one_api; read by ``gunicorn wsgi:app``. All settings come from the gateway's configuration."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

# Wherever gunicorn is started with `-c`, the gateway and its files are in this folder.
chdir = str(Path(__file__).resolve().parent)
os.chdir(chdir)
sys.path.insert(0, chdir)

from one_api.config import ConfigError, load  # noqa: E402 - found only now
from one_api.serving.kept import kept_texts  # noqa: E402
from one_api.startup import (  # noqa: E402
    Listening,
    address_problem,
    announcement,
    announcement_as_json,
    machine_warnings,
    report,
    warning_as_json,
)

try:
    _loaded = load()
except ConfigError as error:
    sys.exit(str(error))
_config = _loaded.config
_server = _config.server

bind = f"[{_server.host}]:{_server.port}" if ":" in _server.host else f"{_server.host}:{_server.port}"
workers = _server.workers
worker_class = "one_api.serving.worker.GatewayWorker"
backlog = _server.backlog
keepalive = int(_server.keep_alive_s)
graceful_timeout = max(1, int(_server.drain_s))
timeout = 60
loglevel = "warning"
# gunicorn would listen for commands on a socket in the home folder; signals do all that is needed.
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Keep the configuration for the workers; end in one sentence when the address cannot be had.

    Not where a socket is inherited or shared.
    """
    kept_texts().begin(_loaded.texts)
    if server.cfg.reuse_port or {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():
        return
    for address in server.address:
        if isinstance(address, tuple) and (problem := address_problem(*address)):
            sys.exit(problem)


def when_ready(server: Any) -> None:
    """Report what is served and where, once, when connections are accepted."""
    server.handle_hup = lambda: _reload(server)
    listening = Listening(_url(server), server.cfg.workers)
    for warning in [*_loaded.warnings, *machine_warnings(_loaded)]:
        as_json = _config.log.format == "json"
        report(warning_as_json(warning) if as_json else f"warning: {warning}", sys.stderr)
    if _config.log.format == "json":
        report(announcement_as_json(_loaded, listening), sys.stderr)
    else:
        report(announcement(_loaded, listening), sys.stdout)


def _reload(server: Any) -> None:
    """Have the workers load the configuration anew, each beside what it serves: the master itself loads no file."""
    kept_texts().ring()
    server.kill_workers(signal.SIGUSR1)


def _url(server: Any) -> str | None:
    """Return where a program on this machine reaches the gateway; None for a socket that is a file."""
    for listener in server.LISTENERS:
        name = listener.sock.getsockname()
        if isinstance(name, tuple):
            host = str({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0]))  # noqa: S104 - where it listens
            return f"http://[{host}]:{name[1]}" if ":" in host else f"http://{host}:{name[1]}"
    return None
