"""How gunicorn serves one_api; read by ``gunicorn wsgi:app``. All settings come from the gateway's configuration."""

import sys

from one_api.config import Config, ConfigError
from one_api.setup import banner

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
