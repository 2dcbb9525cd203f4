"""The WSGI application where the package is installed: ``one_api.wsgi:app`` for any WSGI server."""

import sys

from one_api.app import create_app
from one_api.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
