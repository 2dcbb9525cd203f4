"""What the gateway reports once when it starts: what it serves, where, what is doubtful, and a first request."""

import contextlib
import errno
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import one_api
from one_api import __version__
from one_api.config import ConfigError, Loaded, load
from one_api.contract import JSONObject
from one_api.dialects import json
from one_api.engine.download import DEFAULT_MODEL
from one_api.engine.gguf import discover
from one_api.observability.log import bounded_line, head_of, write_at_once
from one_api.settings.adapters import AdapterConfig, LocalConfig, OutsideConfig
from one_api.settings.kinds import without_secrets
from one_api.settings.outside import type_name
from one_api.settings.private_files import machine_warnings
from one_api.settings.sections import AdminConfig, KeyConfig, TargetConfig, key_names, targets
from one_api.settings.validation import Problem

#: How long a port may stay in use while the process that held it ends, in seconds.
_PORT_WAIT_S = 2.0
#: The model that comes with the gateway: it may talk on and on, so it is given a limit.
_SMALLEST, _SMALLEST_TOKENS = DEFAULT_MODEL.file_name.removesuffix(".gguf"), 100
#: Names in one line of the table.
_MAX_NAMES = 10
_WHAT_TO_DO = {
    errno.EADDRNOTAVAIL: "this machine has no such address: set {host} to one of its own, or to 0.0.0.0",
    errno.EACCES: "only root may listen there: set {port} to 1024 or more",
}


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens, and in how many processes. ``url`` is None for anything but TCP."""

    url: str | None
    processes: int
    #: Whether it listens at ``admin.listen``, too.
    has_admin: bool = False


def report(loaded: Loaded, listening: Listening) -> None:
    """Print what is doubtful, and what is served, in the format of the log."""
    as_json = loaded.config.log.format == "json"
    for warning in [*loaded.warnings, *machine_warnings(loaded.files)]:
        write_at_once(warning_as_json(warning) if as_json else f"warning: {warning}", sys.stderr.fileno())
    if as_json:
        write_at_once(announcement_as_json(loaded, listening), sys.stderr.fileno())
    else:
        write_at_once(announcement(loaded, listening), sys.stdout.fileno())


def announcement(loaded: Loaded, listening: Listening) -> str:
    """Return what people read at the start: a table, and a first request if one can work as printed."""
    title = f"one_api {__version__} is listening" + (f" on {listening.url}" if listening.url else "")
    rows = [(name, value) for name, values in table(loaded, listening).items() for name, value in _rows(name, values)]
    width = max(len(name) for name, _ in rows)
    lines = [title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)]
    if listening.url and (request := first_request(loaded, listening.url)):
        lines += ["", "A first request:", "", request]
    return "\n".join([*lines, ""])


def announcement_as_json(loaded: Loaded, listening: Listening) -> str:
    """Return the same table as one line of the log."""
    return bounded_line(head_of("start") | {"version": __version__} | table(loaded, listening))


def warning_as_json(warning: Problem) -> str:
    """Return a warning as one line of the log."""
    return bounded_line(head_of("log", "warning") | {"logger": "one_api", "message": str(warning)})


def _rows(name: str, values: list[str]) -> Iterator[tuple[str, str]]:
    yield from zip([name, *[""] * len(values)], values, strict=False)


def table(loaded: Loaded, listening: Listening) -> dict[str, list[str]]:
    """Return what is served, by row."""
    config = loaded.config
    limits = config.rate_limit
    return {
        "address": [listening.url or "see gunicorn's own settings"],
        "processes": [str(listening.processes)],
        "configuration": [loaded.sources],
        "adapters": [_adapter(*each) for each in config.adapters.items()] or ["none: nothing can be served"],
        "groups": [
            f"{name}: {_names(targets(group.targets))}"
            + (f"; else {_names(targets(group.fallbacks))}" if group.fallbacks else "")
            for name, group in config.model_groups.items()
        ]
        or ["none"],
        "admin": [_admin(config.admin, listening)],
        "keys": [", ".join(key_names(config.api_keys)) or "none: every call to /v1 is answered with 401; set API_KEYS"],
        "limits": [_limits(loaded) if limits.enabled else "off"],
        "cache": [_kind_of(config.cache.storage) if config.cache.enabled else "off"],
        "database": [without_secrets(config.database.url).replace("***@", "")],
    }


def _admin(settings: AdminConfig, listening: Listening) -> str:
    """Return where ``/admin`` is, and for whom."""
    if settings.listen is None:
        return "/admin, for this machine only"
    if not listening.has_admin:
        return f"nowhere: this server does not listen on {settings.listen}"
    return f"{settings.url}/admin, for {', '.join(settings.allow) or 'nobody'}"


def _adapter(name: str, settings: AdapterConfig) -> str:
    """Return one adapter and its models in a line."""
    if isinstance(settings, LocalConfig):
        models, _ = discover(Path(settings.models_dir))
        ids = [*(model.id for model in models), *settings.aliases]
        return f"{name} (local, {settings.models_dir}): {_few(ids) or 'no model yet'}"
    if isinstance(settings, OutsideConfig):
        return f"{name} ({settings.type})"
    kind = type_name(settings)
    listed = "its models are asked for" if settings.models is None else _few(list(settings.models)) or "no model"
    return f"{name} ({kind}, {settings.base_url}): {listed}"


def _kind_of(storage: str) -> str:
    """Return what kind of storage an address names, and nothing else of it."""
    return str(storage).partition(":")[0]


def _limits(loaded: Loaded) -> str:
    limits = loaded.config.rate_limit
    parts = [f"{limits.requests_per_minute} requests a minute"]
    parts += [f"{limits.tokens_per_minute} tokens a minute"] if limits.tokens_per_minute else []
    parts += [f"{limits.concurrent} at a time"] if limits.concurrent else []
    return f"{', '.join(parts)} for each key; storage: {_kind_of(limits.storage)}"


def _few(names: list[str]) -> str:
    more = f", and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _names(entries: tuple[TargetConfig, ...]) -> str:
    return _few([entry.model for entry in entries])


# A first request


def first_request(loaded: Loaded, url: str) -> str | None:
    """Return a curl line that works as it stands on this machine; None when the key cannot be had there.

    It has the model answer when one is known, else it asks for the list. The key is read by our own command, never
    printed.
    """
    command = _key_command(loaded)
    if command is None:
        return None
    head = f'-H "Authorization: Bearer $({command})"'
    model = _model(loaded)
    if model is None:
        return f"curl {url}/v1/models \\\n  {head}"
    body: JSONObject = {"model": model, "messages": [{"role": "user", "content": "Hello! Who are you?"}]}
    if model == _SMALLEST:
        body["max_tokens"] = _SMALLEST_TOKENS
    return (
        f"curl {url}/v1/chat/completions \\\n  {head} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.encode(body).decode())}"
    )


def _key_command(loaded: Loaded) -> str | None:
    """Return the command that prints the first key in any shell of this machine; None when there is none."""
    if not loaded.config.api_keys:
        return None
    named = {name: str(Path(value).absolute()) for name, value in loaded.named_files.items()}
    if _first_key(named) != loaded.config.api_keys[0].key:
        return None  # it is in the environment of this process alone
    here, home = Path.cwd(), Path(one_api.__file__).parents[1]
    given = named if here == home or "site-packages" in home.parts else {**named, "PYTHONPATH": str(home)}
    words = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
    return " ".join(["cd", shlex.quote(str(here)), "&&", *words, shlex.quote(sys.executable), "-m one_api key"])


def _first_key(environ: dict[str, str]) -> object:
    """Return the first key of the configuration that another shell would read; None when it would read none."""
    try:
        keys: tuple[KeyConfig, ...] = load(environ).config.api_keys
    except ConfigError:
        return None
    return keys[0].key if keys else None


def _model(loaded: Loaded) -> str | None:
    """Return the id of a model that is there now; small local ones first."""
    config = loaded.config
    found = []
    for adapter in config.adapters.values():
        if isinstance(adapter, LocalConfig):
            found += [each.id for each in discover(Path(adapter.models_dir))[0] if each.chats]
    if _SMALLEST in found:
        return _SMALLEST
    listed = [model for each in config.adapters.values() for model in getattr(each, "models", None) or ()]
    return next(iter([*found, *config.model_groups, *listed]), None)


# The address


def address_problem(host: str, port: int, settings: tuple[str, str] = ("HOST", "PORT")) -> str | None:
    """Return in one sentence why the gateway cannot listen there, or None; waits briefly for a port in use.

    ``settings`` are the variables that host and port are set by.
    """
    names = dict(zip(("host", "port"), settings, strict=True))
    deadline = time.monotonic() + _PORT_WAIT_S
    while (error := _bind_error(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            what = _WHAT_TO_DO.get(error.errno or 0, f"{error.strerror or error}: check {{host}} and {{port}}")
            return f"The gateway cannot listen on {host}, port {port}: {what.format(**names)}."
        if time.monotonic() > deadline:
            return f"Port {port} is in use{_holder(port)}: end that program, or set {names['port']} to another number."
        time.sleep(0.1)
    return None


def _bind_error(host: str, port: int) -> OSError | None:
    """Try to take the address for a moment."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _holder(port: int) -> str:
    """Return " by process ..." if the system shows which process listens on a port, else nothing."""
    inodes = {inode for inode in _listening(port) if inode != "0"}
    for link in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        with contextlib.suppress(OSError):
            if str(link.readlink())[len("socket:[") : -1] in inodes:
                process = link.parents[1]
                return f" by process {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def _listening(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on a port; see proc(5) on /proc/net/tcp."""
    for table_path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table_path.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
