"""What Flask's proxies ``g``, ``request`` and ``current_app`` stand for: for code that runs in each request.

A look through a proxy costs four calls each time.
"""

from typing import cast

from flask import Flask, Request, current_app, g, request
from flask.ctx import _AppCtxGlobals


def current_application() -> Flask:
    """Return what ``current_app`` stands for."""
    return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]


def current_globals() -> _AppCtxGlobals:
    """Return what ``g`` stands for."""
    return cast(_AppCtxGlobals, g._get_current_object())


def current_request() -> Request:
    """Return what ``request`` stands for."""
    return cast(Request, request._get_current_object())  # type: ignore[attr-defined]
