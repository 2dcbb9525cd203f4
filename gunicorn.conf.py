"""How gunicorn serves one_api from this folder; read by ``gunicorn wsgi:app``."""

import os
import sys
from pathlib import Path

# Wherever gunicorn is started with `-c`, the gateway and its files are in this folder.
chdir = str(Path(__file__).resolve().parent)
os.chdir(chdir)
sys.path.insert(0, chdir)

from one_api.serving.gunicorn_conf import *  # noqa: E402, F403 - found only now
