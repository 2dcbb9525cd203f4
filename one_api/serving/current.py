"""What Flask's proxies ``g`` and ``request`` stand for: for code that uses one several times in each request.

A look through a proxy costs four calls each time.
"""

from typing import cast

from flask import Request, g, request
from flask.ctx import _AppCtxGlobals


def current_globals() -> _AppCtxGlobals:
    """Return what ``g`` stands for."""
    return cast(_AppCtxGlobals, g._get_current_object())


def current_request() -> Request:
    """Return what ``request`` stands for."""
    return cast(Request, request._get_current_object())  # type: ignore[attr-defined]
