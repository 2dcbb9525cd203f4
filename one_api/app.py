"""The application factory: the only place where all parts meet."""

import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache, partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from one_api.admin.routes import admin, answer_sibling
from one_api.api import cors, welcome
from one_api.api import error_handlers as errors
from one_api.api import request_log as calls
from one_api.api.chat import chat
from one_api.api.health import health
from one_api.api.models import models
from one_api.api.openapi import openapi
from one_api.api.service import Service
from one_api.cli import register_commands
from one_api.config import Config, load
from one_api.flask_run import prepare_flask_run
from one_api.models.adapters.base import BaseModelAdapter
from one_api.models.adapters.claude import ClaudeAdapter
from one_api.models.adapters.openai import OpenAIAdapter
from one_api.models.registry import ModelRegistry
from one_api.observability.log import LogObserver, set_up_logging
from one_api.serving.bridge import async_to_sync
from one_api.serving.events import BRIDGED
from one_api.serving.gunicorn import warn_if_unfit
from one_api.serving.loop import background, leaving_as_reset
from one_api.serving.mount import Mount
from one_api.serving.siblings import Siblings
from one_api.settings.adapters import AdapterConfig, ClaudeConfig, OpenAIConfig
from one_api.upstream.errors import Reports
from one_api.upstream.scrubbing import Scrubber, addresses_in, secrets_in
from one_api.utils.auth import KeyRing
from one_api.utils.rate_limit import build_limits

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)


#: Asked for each view and hook of each request; functions may also be made for one request, so not all are kept.
_is_async = lru_cache(maxsize=256)(iscoroutinefunction)


class _NoSessions(SessionInterface):
    """There are no cookies: one empty session stands for all."""

    _empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return it."""
        return self._empty


class GatewayFlask(Flask):
    """Flask, with coroutines awaited by our bridge instead of on a loop of their own."""

    session_interface = _NoSessions()
    #: Below which path it is reached.
    mount = Mount()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Bind the routes to a request by its path and method alone; an override point of Flask.

        No route depends on the host, and nothing is ever redirected.
        """
        if request is None:
            return super().create_url_adapter(None)
        return MapAdapter(self.url_map, "localhost", "/", "", "http", request.path, request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``func``, in its synchronous form if it is a coroutine function; an override point of Flask."""
        return self.async_to_sync(func) if _is_async(func) else func

    def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """Return ``func`` for synchronous callers; an override point of Flask."""
        return async_to_sync(func)

    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request; an override point of Flask."""
        self.mount.apply(environ)
        if environ.get(BRIDGED):
            return super().wsgi_app(environ, start_response)
        background().adopt(self.extensions.get("one_api"))
        with leaving_as_reset():
            return super().wsgi_app(environ, start_response)


def create_app(config: Config | None = None) -> Flask:
    """Build the application.

    Args:
        config: what to build it from; by default the environment's.

    Raises:
        ConfigError: when the environment's configuration cannot be used.
    """
    if config is None:
        loaded = load()
        config = loaded.config
        prepare_flask_run(loaded)
    as_json = config.log.format == "json"
    log = set_up_logging(config.log.level, as_json=as_json)
    warn_if_unfit()
    app = GatewayFlask(__name__, static_folder=None, template_folder="api/templates")
    app.config["MAX_CONTENT_LENGTH"] = config.server.max_body_bytes
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.debug = config.server.debug
    app.mount = Mount(config.server.root_path, config.server.trusted_proxies)
    registry = build_registry(config)
    keys = KeyRing(config.api_keys)
    siblings = Siblings(str(config.server.port))
    limits = build_limits(config, keys.names, Path(app.instance_path), siblings.count)
    observers = (LogObserver(log, as_json=as_json),) if logger.isEnabledFor(logging.INFO) else ()
    app.extensions["one_api"] = parts = Service(config, registry, limits, observers, siblings=siblings)
    siblings.answer = partial(answer_sibling, parts)
    keys.init_app(app)
    limits.init_app(app)
    calls.register(app)
    cors.register(app, config.server.cors_origins)
    welcome.register(app)
    errors.register(app)
    for blueprint in (health, models, chat, openapi, admin):
        app.register_blueprint(blueprint)
    register_commands(app)
    return app


def build_registry(config: Config) -> ModelRegistry:
    """Return a registry with an adapter for each one that ``config`` names."""
    registry = ModelRegistry(config)
    scrubber = Scrubber(secrets_in(config), addresses_in(config))
    for name, settings in config.adapters.items():
        reports = Reports(name, scrubber, show_text=config.errors.upstream_text == "show")
        registry.register_adapter(name, _adapter(name, settings, reports))
    return registry


def _adapter(name: str, settings: AdapterConfig, reports: Reports) -> BaseModelAdapter:
    if isinstance(settings, OpenAIConfig):
        return OpenAIAdapter(name, settings, reports)
    if isinstance(settings, ClaudeConfig):
        return ClaudeAdapter(name, settings, reports)
    # Only here, so that a gateway without local models imports nothing of the engine.
    from one_api.models.adapters.local import LocalModelAdapter

    return LocalModelAdapter(name, settings, reports=reports)
