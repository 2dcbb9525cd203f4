"""What no single field can show: errors in what concerns several fields, and warnings of what is probably a mistake."""

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from one_api.settings.adapters import DEFAULT_MODELS_DIR, AdapterConfig, LocalConfig, OutsideConfig
from one_api.settings.addresses import is_loopback
from one_api.settings.groups import GroupCycle, expanded, named_group
from one_api.settings.observing import TelemetryConfig
from one_api.settings.outside import NoAdapter, check_outside
from one_api.settings.prices import PricesConfig
from one_api.settings.sections import (
    AdminConfig,
    CacheConfig,
    DatabaseConfig,
    GroupConfig,
    KeyConfig,
    RateLimitConfig,
    ResponsesConfig,
    ServerConfig,
    targets,
)
from one_api.settings.validation import Problems

T = TypeVar("T")
#: What ``config check`` prints in place of a secret.
MASK = "***"
#: The part of a long model's file name that is not in its id.
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def check_keys(keys: Iterable[KeyConfig | None], problems: Problems) -> None:
    """Check the keys of clients; those that could not be built are None."""
    entries = [entry for entry in keys if entry is not None]
    revealed = [entry.key.reveal() for entry in entries]
    if len(set(revealed)) < len(revealed):
        problems.add("api_keys", "the same key is given twice", "Remove one")
    for key in revealed:
        if not key.isascii() or not key.isprintable() or " " in key:
            problems.add("api_keys", "a key holds a space or a character outside ASCII", "Use letters, digits and -_.")
        if key.startswith(MASK):
            problems.warn("api_keys", "a key is masked, and easy to guess", "Put the key itself in its place")
    for name, count in Counter(entry.name for entry in entries).items():
        if name and count > 1:
            fix = "Give each a name of its own; until then, each has a part of its digest added"
            problems.warn("api_keys", f"{count} keys have the name {name!r}", fix)


def check_admin(
    admin: AdminConfig | None, server: ServerConfig | None, keys: Iterable[KeyConfig | None], problems: Problems
) -> None:
    """Check the operator's key, and from where it may be used; what could not be built is None."""
    if admin is None:
        return
    if admin.address is not None and server is not None and admin.address[1] == server.port:
        problems.add("admin.listen", "has the port of the gateway itself", "Use another one")
    if admin.listen is None and not all(ipaddress.ip_network(each, strict=False).is_loopback for each in admin.allow):
        fix = "Set admin.listen to an address of its own, or leave this out"
        problems.add("admin.allow", "lets other machines ask /admin at the gateway's public address", fix)
    key = admin.key.reveal() if admin.key is not None else None
    if key is None:
        return
    if not key.isascii() or not key.isprintable() or " " in key:
        problems.add("admin.key", "holds a space or a character outside ASCII", "Use letters, digits and -_.")
    if any(entry is not None and entry.key.reveal() == key for entry in keys):
        problems.add("admin.key", "is a client's key, too", "Make one that no client has")


def check_telemetry(telemetry: TelemetryConfig | None, problems: Problems) -> None:
    """Check that traces can be sent where they are wanted; nothing is imported where they are not."""
    if telemetry is None or telemetry.url is None:
        return
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        what = "pip install --require-hashes -r requirements-otel.txt, or one-api-gateway[otel]"
        problems.add("telemetry.endpoint", "is set, and what sends traces is not installed", f"Run {what}")


def check_server(
    server: ServerConfig, keys: Collection[object], database: DatabaseConfig | None, problems: Problems
) -> None:
    """Check that only those are let in that should be."""
    if keys or server.host is None or is_loopback(server.host):
        return
    if database is not None and database.url not in ("none", "sqlite"):
        return  # its keys are not known here; without one every call is refused
    fix = "Set API_KEYS before you let others in, or HOST=127.0.0.1"
    problems.add("server.host", "can be reached from elsewhere, and there is no API key", fix)


def check_responses(
    responses: ResponsesConfig | None, server: ServerConfig | None, database: DatabaseConfig | None, problems: Problems
) -> None:
    """Check that whatever kept a response is what is asked for it."""
    if responses is None:
        return
    if responses.state == "database" and database is not None and database.url == "none":
        problems.add("responses.state", "is database, and there is none", "Set database.url (DATABASE_URL) to sqlite")
    if responses.state == "memory" and server is not None and (server.workers or 1) > 1:
        fix = "Set server.workers (WEB_CONCURRENCY) to 1, or responses.state to database or off"
        problems.add("responses.state", "is memory, and there are several processes, which share none", fix)


def check_storage(
    section: str, settings: RateLimitConfig | CacheConfig | None, known: tuple[str, ...], problems: Problems
) -> None:
    """Check where limits or answers are kept."""
    storage = settings.storage if settings else None
    if storage and storage not in known and not re.match(r"(rediss?|unix)://.", storage):
        problems.add(f"{section}.storage", "names no storage", f"Use {', '.join(known)} or redis://HOST:PORT/DB")


def check_database(settings: DatabaseConfig | None, problems: Problems) -> None:
    """Check where keys and the ledger are kept."""
    url = settings.url if settings else None
    if url and url not in ("none", "sqlite") and not re.match(r"sqlite:///.|postgres(ql)?(\+psycopg)?://.", url):
        fix = "Use none, sqlite, sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        problems.add("database.url", "names no database", fix)


def check_prices(settings: PricesConfig | None, adapters: Collection[str], problems: Problems) -> None:
    """Check that each price says enough, and that the adapters are there."""
    for name, price in (settings.models if settings else {}).items():
        where = f"prices.models.{name}"
        if price is None:
            continue
        given = (price.input is not None, price.output is not None)
        if price.same_as is None and not all(given) and (any(given) or not price.units):
            fix = "Give input and output, in US dollars per million tokens, units, or same_as"
            problems.add(where, "has no price", fix)
        elif price.same_as is not None and "/" not in price.same_as:
            problems.add(f"{where}.same_as", "is not provider/model", "Write it like openai/gpt-5-mini")
        sizes = [each.tokens for each in price.above]
        if sizes != sorted(set(sizes)):
            problems.add(f"{where}.above", "does not rise", "Order it by tokens, each size once")
    for name in settings.catalogue if settings else ():
        if name not in adapters:
            problems.add(f"prices.catalogue.{name}", "is no adapter", f"Use one of: {', '.join(adapters) or 'none'}")


def check_adapters(adapters: Mapping[str, AdapterConfig | None], problems: Problems) -> None:
    """Check names, and warn of folders and aliases that lead nowhere."""
    for name, adapter in adapters.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.add(f"adapters.{name}", "is not a usable name", "Use letters, digits, dots, dashes, underscores")
        if isinstance(adapter, OutsideConfig):
            _check_outside(name, adapter, problems)
        if not isinstance(adapter, LocalConfig):
            continue
        for model, kinds in adapter.kinds.items():
            if "rerank" in kinds and len(kinds) > 1:
                fix = "Leave the other kinds out, or give the file a second name, as a link"
                problems.add(f"adapters.{name}.kinds.{model}", "a local model that ranks does nothing else", fix)
        if adapter.models_dir is None:
            continue
        if not _is_folder(adapter.models_dir):
            if adapter.models_dir != DEFAULT_MODELS_DIR:
                fix = "Make it, and put GGUF files into it: `python -m one_api models fetch` fetches a small one"
                problems.warn(
                    f"adapters.{name}.models_dir", f"{adapter.models_dir} is not a folder that this user can read", fix
                )
            continue
        files = _files(adapter.models_dir)
        for alias, model in adapter.aliases.items():
            if model not in files:
                problems.warn(
                    f"adapters.{name}.aliases.{alias}", f"there is no file for {model!r}", _near(model, files)
                )


def _check_outside(name: str, adapter: OutsideConfig, problems: Problems) -> None:
    """Check that an adapter of others is there, and takes its settings."""
    try:
        check_outside(adapter)
    except NoAdapter as error:
        problems.add(f"adapters.{name}", str(error), error.fix)


def check_groups(
    groups: Mapping[str, GroupConfig | None], adapters: Mapping[str, AdapterConfig | None], problems: Problems
) -> None:
    """Check where groups lead; warn of models that their adapters do not list."""
    for name, group in groups.items():
        for target in targets(group.targets + group.fallbacks) if group else ():
            if named_group(target.model, name, groups, adapters):
                continue
            adapter, _, model = target.model.partition("/")
            if not model or adapter not in adapters:
                fix = _target_fix(target.model, name, groups, adapters)
                problems.add(f"model_groups.{name}", f"{target.model!r} names no adapter's model and no group", fix)
            elif (listed := _listed(adapters[adapter])) is not None and model not in listed:
                what = f"{adapter} does not list {model!r}"
                problems.warn(f"model_groups.{name}", what, _near(model, listed))
    whole = {name: group for name, group in groups.items() if group is not None}
    try:
        expanded(whole, adapters)
    except GroupCycle as error:
        fix = "Let one of them name deployments, as adapter/model"
        problems.add(f"model_groups.{error.path[0]}", str(error), fix)


def _target_fix(entry: str, own: str, groups: Collection[str], adapters: Mapping[str, AdapterConfig | None]) -> str:
    """Return what to write for an entry that leads nowhere."""
    serving = [f"{name}/{entry}" for name, adapter in adapters.items() if entry and entry in (_listed(adapter) or ())]
    near = serving or difflib.get_close_matches(entry, [name for name in groups if name != own], 1)
    known = f"Write a group's name, or adapter/model with an adapter of: {', '.join(adapters) or 'none is configured'}"
    return f"{known}. Did you mean {near[0]}?" if near else known


def _listed(adapter: AdapterConfig | None) -> set[str] | None:
    """Return the models that an adapter is known to have; None when that is not known before it is asked."""
    if isinstance(adapter, LocalConfig):
        folder = adapter.models_dir
        return {*_files(folder), *adapter.aliases} if folder is not None and _is_folder(folder) else None
    models = getattr(adapter, "models", None)
    return None if models is None else set(models)


def _is_folder(path: str) -> bool:
    """Return whether there is a folder; of one below a folder that is closed to this user it is not known."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _files(folder: str) -> set[str]:
    """Return the ids of the GGUF files in a folder."""
    return {_SPLIT.sub("", path.stem) for path in Path(folder).rglob("*.gguf")}


def _near(model: str, listed: Collection[str]) -> str:
    """Return the likely cure for a model that is not listed."""
    near = difflib.get_close_matches(model, listed, 1)
    return f"Did you mean {near[0]}?" if near else f"Listed are: {', '.join(sorted(listed)[:10]) or 'none'}"
