"""The WSGI application: ``gunicorn wsgi:app``, ``flask --app wsgi run``, or any other WSGI server."""

import sys

from one_api.app import create_app
from one_api.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
