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
from one_api.api.reload import Reload, Sources
from one_api.api.service import Service
from one_api.api.snapshot import Snapshot
from one_api.cli import register_commands
from one_api.config import Config, Loaded, load
from one_api.flask_run import prepare_flask_run
from one_api.models.adapters.base import BaseModelAdapter
from one_api.models.adapters.claude import ClaudeAdapter
from one_api.models.adapters.openai import OpenAIAdapter
from one_api.models.registry import ModelRegistry, upstream_of
from one_api.observability.log import LogObserver, set_up_logging
from one_api.serving.bridge import async_to_sync
from one_api.serving.events import BRIDGED
from one_api.serving.gunicorn import warn_if_unfit
from one_api.serving.kept import KeptTexts, kept_texts
from one_api.serving.loop import background, leaving_as_reset
from one_api.serving.mount import Mount
from one_api.serving.siblings import Siblings
from one_api.settings.adapters import AdapterConfig, ClaudeConfig, OpenAIConfig
from one_api.settings.changes import applicable, digest_of, is_same_adapter
from one_api.settings.sections import KeyConfig
from one_api.upstream.errors import Reports
from one_api.upstream.scrubbing import addresses_in, secrets_in
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
        config: what to build it from; by default the environment's, which can be loaded anew while it serves.

    Raises:
        ConfigError: when the environment's configuration cannot be used.
    """
    app = GatewayFlask(__name__, static_folder=None, template_folder="api/templates")
    kept = kept_texts()
    start, loaded = (config, None) if config is not None else _loaded(kept)
    config, restart_needed = applicable(start, loaded.config if loaded else start)
    if loaded is not None:
        prepare_flask_run(loaded)
    as_json = config.log.format == "json"
    log = set_up_logging(config.log.level, as_json=as_json)
    warn_if_unfit()
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.debug = config.server.debug
    app.mount = Mount(config.server.root_path, config.server.trusted_proxies)
    siblings = Siblings(str(config.server.port))
    build = partial(build_snapshot, folder=Path(app.instance_path), processes=siblings.count)
    observers = (LogObserver(log, as_json=as_json),) if logger.isEnabledFor(logging.INFO) else ()
    sources = Sources(start, load, build, _start_texts(kept, loaded), loaded.texts) if loaded else None
    reload = Reload(build(config, restart_needed, None), sources, kept)
    app.extensions["one_api"] = parts = Service(reload, observers, siblings=siblings)
    siblings.answer = partial(answer_sibling, parts)
    calls.register(app)
    cors.register(app)
    welcome.register(app)
    errors.register(app)
    for blueprint in (health, models, chat, openapi, admin):
        app.register_blueprint(blueprint)
    register_commands(app)
    return app


def _loaded(kept: KeptTexts) -> tuple[Config, Loaded]:
    """Return what the server was started with, and what was applied last; without a master of ours that is one."""
    texts = kept.read()
    if texts is None:
        loaded = load()
        return loaded.config, loaded
    return load(kept=texts[0]).config, load(kept=texts[1])


def _start_texts(kept: KeptTexts, loaded: Loaded) -> dict[str, str | None]:
    texts = kept.read()
    return loaded.texts if texts is None else texts[0]


def build_snapshot(
    config: Config,
    restart_needed: list[str],
    before: Snapshot | None,
    *,
    folder: Path,
    processes: Callable[[], int],
) -> Snapshot:
    """Return what serves ``config``, with all that can be used on of the snapshot ``before``; starts nothing.

    ``folder`` is for the file of the limits, ``processes`` returns how many processes share them.
    """
    keys = KeyRing(config.api_keys)
    operator = (KeyConfig(key=config.admin.key, name="operator"),) if config.admin.key is not None else ()
    limits = build_limits(config, keys.names, folder, processes, before.limits if before else None)
    return Snapshot(
        config,
        digest_of(config),
        build_registry(config, before),
        keys,
        KeyRing(operator),
        limits,
        cors.CrossOrigin(config.server.cors_origins),
        tuple(restart_needed),
    )


def build_registry(config: Config, before: Snapshot | None = None) -> ModelRegistry:
    """Return a registry with an adapter for each one that ``config`` names; those of ``before`` that fit go on."""
    old = before.registry if before else None
    registry = ModelRegistry(config, old)
    known = (before.config, config) if before else (config,)
    registry.scrubber = old.scrubber if old else registry.scrubber
    # Adapters that are used on have to know the new secrets, and requests under way still meet the old ones.
    registry.scrubber.know(secrets_in(known), addresses_in(known))
    for name, settings in config.adapters.items():
        if before is not None and old is not None and _is_kept(name, before.config, config):
            registry.adopt(name, old.adapters[name], old)
            continue
        reports = Reports(name, registry.scrubber, show_text=config.errors.upstream_text == "show")
        adapter = _adapter(name, settings, reports)
        if before and old and upstream_of(before.config.adapters.get(name)) == upstream_of(settings):
            adapter.inherit(old.adapters[name])
        registry.register_adapter(name, adapter)
    for name, own in (old.adapters if old else {}).items():
        if before and old and name not in before.config.adapters and name not in config.adapters:
            registry.adopt(name, own, old)  # it was registered in code
    return registry


def _is_kept(name: str, old: Config, new: Config) -> bool:
    """Say whether the adapter ``name`` that was built for ``old`` can be used on."""
    settings = old.adapters.get(name)
    return settings is not None and old.errors == new.errors and is_same_adapter(settings, new.adapters[name])


def _adapter(name: str, settings: AdapterConfig, reports: Reports) -> BaseModelAdapter:
    if isinstance(settings, OpenAIConfig):
        return OpenAIAdapter(name, settings, reports)
    if isinstance(settings, ClaudeConfig):
        return ClaudeAdapter(name, settings, reports)
    # Only here, so that a gateway without local models imports nothing of the engine.
    from one_api.models.adapters.local import LocalModelAdapter

    return LocalModelAdapter(name, settings, reports=reports)
