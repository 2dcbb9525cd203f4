"""How gunicorn serves one_api; read by ``gunicorn wsgi:app``. All settings come from the gateway's configuration."""

import os
import sys
from pathlib import Path

# Wherever gunicorn is started with `-c`, the gateway and its files are in this folder.
chdir = str(Path(__file__).resolve().parent)
os.chdir(chdir)
sys.path.insert(0, chdir)

from one_api.config import Config, ConfigError  # noqa: E402 - found only now
from one_api.setup import banner  # noqa: E402

try:
    _config = Config.load()
except ConfigError as error:
    sys.exit(str(error))
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


def when_ready(server: object) -> None:
    """Say where the gateway is, once it accepts connections."""
    if _config.log.format == "text":
        print(banner(_config), flush=True)
