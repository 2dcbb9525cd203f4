"""The application factory: the only place where all parts meet."""

import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import lru_cache, partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter, Rule

from one_api.admin.routes import admin, answer_sibling, keep_admin_apart
from one_api.api import cors, welcome
from one_api.api import error_handlers as errors
from one_api.api import request_log as calls
from one_api.api.chat import chat
from one_api.api.completions import completions
from one_api.api.embeddings import embeddings
from one_api.api.health import health
from one_api.api.messages import messages
from one_api.api.metrics import metrics
from one_api.api.models import models
from one_api.api.openapi import openapi
from one_api.api.passthrough import passthrough
from one_api.api.reload import Reload, Sources
from one_api.api.responses import responses
from one_api.api.service import Service
from one_api.api.snapshot import Snapshot
from one_api.commands.cli import register_commands
from one_api.commands.flask_run import prepare_flask_run
from one_api.config import Config, ConfigError, Loaded, as_variables, from_mapping, load
from one_api.models.adapters.base import BaseModelAdapter
from one_api.models.registry import ModelRegistry
from one_api.observability.log import LineWriter, LogObserver, set_up_logging
from one_api.observability.metrics import Metrics
from one_api.records import Observer
from one_api.serving.bridge import async_to_sync
from one_api.serving.events import BRIDGED
from one_api.serving.gunicorn import warn_if_unfit
from one_api.serving.kept_texts import KeptTexts, kept_texts
from one_api.serving.loop import background, leaving_as_reset
from one_api.serving.mount import Mount
from one_api.serving.siblings import Siblings
from one_api.settings.adapters import AdapterConfig, OutsideConfig
from one_api.settings.changes import applicable, digest_of, is_same_adapter, upstream_of
from one_api.settings.outside import NoAdapter, load_class, revealed, type_name
from one_api.settings.validation import Problem
from one_api.upstream.errors import Reports
from one_api.upstream.scrubbing import addresses_in, secrets_in
from one_api.utils.auth import AdminAccess, KeyRing
from one_api.utils.limiter import KeyLimiter
from one_api.utils.rate_limit import build_limits

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from one_api.accounts.prices import Prices
    from one_api.accounts.service import Accounts
    from one_api.observability.tracing import Tracing

logger = logging.getLogger(__name__)

#: The routes that there are with every configuration.
BLUEPRINTS = (
    health, models, chat, responses, messages, embeddings, completions, passthrough, openapi, metrics, admin
)  # fmt: skip

#: Asked for each view and hook of each request; functions may also be made for one request, so not all are kept.
_is_async = lru_cache(maxsize=256)(iscoroutinefunction)


class _NoSessions(SessionInterface):
    """There are no cookies: one empty session stands for all."""

    _empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return it."""
        return self._empty


class _Routes(MapAdapter):
    """The routes, bound to one request; where a path without variable parts leads is looked for once."""

    #: By path and method; bounded by the routes that there are.
    found: dict[tuple[str, str], Rule]

    def match(self, *args: Any, **kwargs: Any) -> Any:
        """Return the rule and the variable parts for Flask, which asks for nothing else."""
        place = self.path_info, self.default_method
        if (known := self.found.get(place)) is not None:
            return known, {}
        rule, parts = super().match(*args, **kwargs)
        if rule.rule == self.path_info:
            self.found[place] = rule
        return rule, parts


class GatewayFlask(Flask):
    """Flask, with coroutines awaited by our bridge instead of on a loop of their own."""

    session_interface = _NoSessions()
    #: Below which path it is reached.
    mount = Mount()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._found: dict[tuple[str, str], Rule] = {}

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Bind the routes to a request by its path and method alone; an override point of Flask.

        No route depends on the host, and nothing is ever redirected.
        """
        if request is None:
            return super().create_url_adapter(None)
        routes = _Routes(self.url_map, "localhost", "/", "", "http", request.path, request.method)
        routes.found = self._found
        return routes

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
        background().adopt(self.extensions["one_api"])
        with leaving_as_reset():
            return super().wsgi_app(environ, start_response)


def create_app(config: Config | Mapping[str, Any] | None = None) -> Flask:
    """Build the application.

    Args:
        config: what to build it from: a ``Config``; or a mapping with the names of the variables, such as ``API_KEYS``,
            and with Flask's own and its extensions' keys; by default the environment's, which can be loaded anew
            while it serves.

    ``app.config`` holds the settings in effect by the names of the variables, with secrets masked.

    Raises:
        ConfigError: when the configuration cannot be used.
    """
    app = GatewayFlask(__name__, static_folder=None, template_folder="api/templates")
    if isinstance(config, Mapping):
        app.config.from_mapping(config)
    cors_options = cors.given_options(app)
    if isinstance(config, Mapping):
        config = _from_code(config, cors_options)
    kept = kept_texts()
    start, loaded = (config, None) if config is not None else _loaded(kept)
    config, restart_needed = applicable(start, loaded.config if loaded else start)
    if loaded is not None:
        prepare_flask_run(loaded)
    log = set_up_logging(config.log.level, as_json=config.log.format == "json")
    warn_if_unfit()
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.debug = config.server.debug
    app.mount = Mount(config.server.root_path, config.server.trusted_proxies)
    siblings = Siblings(str(config.server.port))
    calls.register(app)
    limiter = KeyLimiter(app, config, siblings.count)
    folder = Path(app.instance_path)
    build = partial(build_snapshot, limiter=limiter, cors_options=cors_options, folder=folder)
    accounts = _accounts(config, folder, lambda: parts.cut_revoked())
    counts = Metrics(per_key=config.metrics.per_key)
    tracing = _tracing(config, lambda: parts.snapshot.config.adapters)
    sources = Sources(start, load, build, _start_texts(kept, loaded), loaded.texts) if loaded else None

    def show(used: Config) -> None:
        app.config.update(as_variables(used) | {f"CORS_{name.upper()}": value for name, value in cors_options.items()})

    show(config)
    reload = Reload(build(config, restart_needed, None), sources, kept, show, lambda: parts.cut_revoked())
    observers = (counts, *_log_observers(config, log, siblings), *([tracing] if tracing is not None else []))
    app.extensions["one_api"] = parts = Service(reload, observers, accounts, counts, log, tracing, siblings=siblings)
    siblings.answer = partial(answer_sibling, parts)
    _add_routes(app, accounts)
    register_commands(app.cli)
    return app


def _add_routes(app: Flask, accounts: "Accounts | None") -> None:
    """Add everything that answers requests, with what comes before and after each request."""
    keep_admin_apart(app)
    cors.register(app)
    welcome.register(app)
    errors.register(app)
    for blueprint in (*BLUEPRINTS, *_blueprints(accounts)):
        app.register_blueprint(blueprint)


def _log_observers(config: Config, log: LineWriter, siblings: Siblings) -> list[Observer]:
    """Return what writes a line for each request; nothing does where such lines are not logged."""
    if config.log.level not in ("debug", "info"):
        return []
    as_json, sample = config.log.format == "json", config.log.sample
    return [LogObserver(log, as_json=as_json, sample=sample, worker=lambda: siblings.slot)]


def _from_code(values: Mapping[str, Any], cors_options: Mapping[str, Any]) -> Config:
    """Return the configuration in a mapping; what is probably a mistake in it is logged."""
    named = {name: value for name, value in values.items() if name != "CORS_ORIGINS" or "origins" not in cors_options}
    loaded = from_mapping(named)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    return loaded.config


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


def _accounts(config: Config, folder: Path, on_keys: Callable[[], None]) -> "Accounts | None":
    """Return the accounts, which call ``on_keys`` when keys have changed."""
    if config.database.url == "none":
        return None
    # Only here, so that a gateway without a database imports nothing of SQLAlchemy.
    from one_api.accounts.service import Accounts

    return Accounts(config.database, folder, on_keys)


def _tracing(config: Config, adapters: Callable[[], Mapping[str, AdapterConfig]]) -> "Tracing | None":
    if config.telemetry.url is None:
        return None
    # Only here, so that a gateway without traces imports nothing of OpenTelemetry.
    from one_api.observability.tracing import Tracing

    return Tracing(config.telemetry, adapters)


def _blueprints(accounts: "Accounts | None") -> list[Blueprint]:
    """Return the routes that there are with a database only."""
    if accounts is None:
        return []
    # Only here, so that a gateway without a database imports nothing of SQLAlchemy.
    from one_api.admin.accounts import accounts_api
    from one_api.api.account import account

    return [account, accounts_api]


def preload(config: Config) -> None:
    """Import and read what all gateways with this configuration need, before processes are forked that share it.

    What others have written is imported only where it serves.
    """
    for settings in config.adapters.values():
        if not isinstance(settings, OutsideConfig):
            load_class(type_name(settings))
    if config.database.url != "none":
        import one_api.accounts.service  # noqa: F401 - SQLAlchemy, see ``_accounts``
        from one_api.accounts.prices import Catalogue

        Catalogue.shipped()


def _prices(config: Config, folder: Path) -> "Prices | None":
    if config.database.url == "none":
        return None
    # Only here, so that a gateway without a database reads no catalogue.
    from one_api.accounts.prices import Catalogue, InvalidCatalogue, Prices, open_catalogue

    try:
        catalogue = open_catalogue(folder)
    except InvalidCatalogue as error:
        logger.error("%s: the one that comes with the gateway counts", error)
        catalogue = Catalogue.shipped()
    return Prices(config.prices, config.adapters, catalogue)


def build_snapshot(
    config: Config,
    restart_needed: list[str],
    before: Snapshot | None,
    *,
    limiter: KeyLimiter,
    cors_options: Mapping[str, Any],
    folder: Path,
) -> Snapshot:
    """Return what serves ``config``, with all that can be used on of the snapshot ``before``; starts nothing.

    ``cors_options`` are those of Flask-CORS that were given in code; ``folder`` has the file of prices.
    """
    keys = KeyRing(config.api_keys)
    limits = build_limits(config, limiter, before.limits if before else None)
    return Snapshot(
        config,
        digest_of(config),
        build_registry(config, before),
        keys,
        AdminAccess(config.admin),
        limits,
        cors.CrossOrigin(config.server.cors_origins, cors_options),
        tuple(restart_needed),
        _prices(config, folder),
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
    """Return whether the adapter ``name`` that was built for ``old`` can be used on."""
    settings = old.adapters.get(name)
    return settings is not None and old.errors == new.errors and is_same_adapter(settings, new.adapters[name])


def _adapter(name: str, settings: AdapterConfig, reports: Reports) -> BaseModelAdapter:
    """Return the adapter for ``settings``; its module is imported only now. Raises ConfigError."""
    try:
        kind = load_class(type_name(settings))
        if isinstance(settings, OutsideConfig):
            return cast(BaseModelAdapter, kind(**revealed(settings.settings)))
    except NoAdapter as error:
        raise ConfigError((Problem(f"adapters.{name}", str(error), error.fix),)) from None
    except Exception as error:  # whatever a constructor from outside raises
        why = reports.scrubber.clean(f"{type(error).__name__}: {error}")
        problem = Problem(f"adapters.{name}", f"{type_name(settings)} cannot be made: {why}", "Correct its settings")
        raise ConfigError((problem,)) from error
    return cast(BaseModelAdapter, kind(name, settings, reports=reports))
