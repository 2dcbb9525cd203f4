"""What Flask's proxies ``g``, ``request`` and ``current_app`` stand for: for code that runs in each request.

A look through a proxy costs four calls each time.
"""

from collections.abc import Callable

from flask import Flask, Request, current_app, g, request
from flask.ctx import _AppCtxGlobals

#: Returns what ``current_app`` stands for.
current_application: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]
#: Returns what ``g`` stands for.
current_globals: Callable[[], _AppCtxGlobals] = g._get_current_object
#: Returns what ``request`` stands for.
current_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
