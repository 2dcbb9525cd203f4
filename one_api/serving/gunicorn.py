"""What gunicorn, if it is the server, makes of us: read from the modules that it has loaded."""

import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

_OURS = "one_api.serving.worker"
_FILE = Path(__file__).resolve().parents[2] / "gunicorn.conf.py"
#: Our settings for gunicorn: the file of a clone, or the module where the package is installed.
_SETTINGS = str(_FILE) if _FILE.is_file() else "python:one_api.serving.gunicorn_conf"
#: gunicorn's own workers, and what each does to streams.
_UNFIT = {
    "gunicorn.workers.sync": "`sync` worker: each process serves one request at a time, and a stream that takes longer "
    "than gunicorn's time-out (30 s) is cut",
    "gunicorn.workers.gthread": "`gthread` worker: each stream takes a thread, so a few dozen fill it",
}


def runs_under_gunicorn() -> bool:
    """Return whether this process is one of gunicorn's; there may be more of them at any time."""
    return "gunicorn.app.base" in sys.modules


def warn_if_unfit() -> None:
    """Write to the log what is wrong with the worker that serves us, and how to start ours."""
    if not runs_under_gunicorn() or _OURS in sys.modules:
        return
    what = next((text for name, text in _UNFIT.items() if name in sys.modules), "own kind of worker")
    logger.warning(
        "gunicorn serves this gateway with its %s; HOST, PORT and the other settings of the gateway's server may not "
        "count. Start it with its own settings: gunicorn -c %s wsgi:app, without -k",
        what,
        _SETTINGS,
    )
