"""How gunicorn serves one_api: ``gunicorn -c python:one_api.serving.gunicorn_conf one_api.wsgi:app``.

All settings come from the gateway's configuration. The file ``gunicorn.conf.py`` beside a clone's ``wsgi.py`` is this.
"""

import contextlib
import logging
import queue
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask

from one_api.app import preload
from one_api.commands.startup import Listening, address_problem, report
from one_api.config import ConfigError, inherits_sockets, load
from one_api.observability.log import NonBlockingHandler
from one_api.serving.kept_texts import kept_texts
from one_api.settings.addresses import url_of

try:
    _loaded = load()
except ConfigError as error:
    sys.exit(str(error))
_server, _admin = _loaded.config.server, _loaded.config.admin

bind = [f"[{_server.host}]:{_server.port}" if ":" in _server.host else f"{_server.host}:{_server.port}"]
bind += [_admin.listen] if _admin.listen else []
workers = _server.workers
worker_class = "one_api.serving.worker.GatewayWorker"
backlog = _server.backlog
keepalive = int(_server.keep_alive_s)
graceful_timeout = max(1, int(_server.drain_s))
timeout = 60
loglevel = "warning"
# gunicorn would listen for commands on a socket in the home folder; signals do all that is needed.
control_socket_disable = True


#: A master that has not looked for so long stood still; and how long workers then have to report, in seconds.
_PAUSE_S, _AFTER_PAUSE_S = 3.0, 10.0
#: What asks a worker to end.
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: Any) -> None:
    """Keep the configuration for the workers; end in one sentence when the address cannot be had.

    Not where a socket is inherited or shared.
    """
    if server.cfg.preload_app:
        sys.exit("--preload cannot be used: each worker has to start with the configuration that was applied last.")
    _log_without_waiting(server)
    kept_texts().begin(_loaded.texts)
    preload(_loaded.config)  # once for all workers, which start sooner
    _open_database()
    if server.cfg.reuse_port or inherits_sockets():
        return
    for address in server.address:
        if not isinstance(address, tuple):
            continue
        settings = ("ADMIN_LISTEN", "ADMIN_LISTEN") if address == _admin.address else ("HOST", "PORT")
        if problem := address_problem(address[0], address[1], settings):
            sys.exit(problem)


def _open_database() -> None:
    """Bring the tables up to date, or end in one sentence."""
    if _loaded.config.database.url == "none":
        return
    # Only here, so that a gateway without a database imports nothing of SQLAlchemy.
    from one_api.accounts.opening import prepare

    if problem := prepare(_loaded.config.database, Path(Flask("one_api.app").instance_path)):
        sys.exit(problem)


def _log_without_waiting(server: Any) -> None:
    """Let the master drop what it logs while its log is not read: a full pipe would stop it.

    Workers have a writer of their own, see ``route_all_logs``.
    """
    error_log = server.log.error_log
    for handler in list(error_log.handlers):
        if type(handler) is logging.StreamHandler and handler.stream is sys.stderr:
            error_log.removeHandler(handler)
            error_log.addHandler(NonBlockingHandler(handler.formatter))


def pre_fork(server: Any, worker: Any) -> None:
    """Count the silence of a new worker from now on: gunicorn does so from its first report on only."""
    worker.tmp.notify()


def post_fork(server: Any, worker: Any) -> None:
    """Let a new worker end when it is asked to, from its first moment on.

    Until it has set its own handlers it has those of the master, which only put signals into a queue that is not read
    here: a worker that was asked to end would serve on, and the master wait for it as long as requests may take.
    """
    for each in _END_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    with contextlib.suppress(queue.Empty):
        while server.SIG_QUEUE.get_nowait() not in _END_SIGNALS:
            pass
        sys.exit(0)


def when_ready(server: Any) -> None:
    """Report what is served and where, once, when connections are accepted."""
    server.handle_hup = lambda: _reload(server)
    server.murder_workers = _sparing_the_paused(server.murder_workers)
    addresses = [name[:2] for each in server.LISTENERS if isinstance(name := each.sock.getsockname(), tuple)]
    url = next((url_of(*each) for each in addresses if each != _admin.address), None)
    has_admin = _admin.address is not None and _admin.address[1] in (port for _, port in addresses)
    report(_loaded, Listening(url, server.cfg.workers, has_admin))


def _sparing_the_paused(kill_silent: Callable[[], None]) -> Callable[[], None]:
    """Return what ends workers that have not reported, but not while they may have been paused, as the master was.

    A container or a machine that is paused stops all of them. The master looks every second; when it could not, the
    workers get some seconds to report.
    """
    looked_at, patient_until = time.monotonic(), 0.0

    def kill_silent_unless_paused() -> None:
        nonlocal looked_at, patient_until
        now = time.monotonic()
        if now - looked_at > _PAUSE_S:
            patient_until = now + _AFTER_PAUSE_S
        looked_at = now
        if now >= patient_until:
            kill_silent()

    return kill_silent_unless_paused


def _reload(server: Any) -> None:
    """Have the workers load the configuration anew, each beside what it serves: the master itself loads no file."""
    kept_texts().request_reload()
    server.kill_workers(signal.SIGUSR1)
