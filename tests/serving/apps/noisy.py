"""The gateway with routes that write much to the log, each in another way."""

import asyncio
import logging
import sys

from flask import Flask, request
from flask.typing import ResponseReturnValue

from one_api.app import create_app

LONG = "x" * 10_000


def noisy() -> Flask:
    """Return the application, as the environment configures it."""
    app = create_app()

    @app.get("/print")
    def print_long() -> ResponseReturnValue:
        print(LONG, file=sys.stderr, flush=True)
        print(LONG, file=request.environ["wsgi.errors"], flush=True)
        return "printed"

    @app.get("/log")
    def log_long() -> ResponseReturnValue:
        for name in ("other", "uvicorn.error", "gunicorn.error", "asyncio"):
            logging.getLogger(name).error(LONG)
        return "logged"

    @app.get("/raise-later")
    def raise_later() -> ResponseReturnValue:
        def fail() -> None:
            raise ZeroDivisionError(LONG)

        asyncio.get_running_loop().call_soon(fail)
        return "raised"

    return app


app = noisy()
