"""The WSGI application: ``gunicorn wsgi:app``, ``flask --app wsgi run``, or any other WSGI server."""

from one_api.wsgi import app as app
