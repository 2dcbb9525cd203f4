"""The files that settings come from: ``.env``, and YAML whose texts may hold ``${VARIABLES}`` and ``${file:PATHS}``."""

import errno
import io
import os
import re
import select
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from dotenv import dotenv_values, find_dotenv
from dotenv.parser import parse_stream

from one_api.settings.validation import Problems, Substituted

try:  # ten times as fast, where PyYAML was built with it
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?:[^}\w\s][^}]*)?)\}")
#: What stands between the braces: a name, and perhaps what counts where it is not set, as shells and compose write it.
_NAME = re.compile(r"(\w+)(?::?-(.*))?", re.DOTALL)
#: How long a pipe in place of a file is read, in seconds.
_PIPE_S = 5.0
_PIPE_PIECE = 64 * 1024
#: A file with more bytes is none of a configuration: a device, or a slip.
_MAX_BYTES = 16 * 1024 * 1024
#: How deep YAML may nest, and how many values it may hold, with those that its aliases repeat.
_MAX_LEVELS, _MAX_VALUES = 50, 1_000_000
#: What stands before a path in place of a variable's name.
_FILE = "file:"


class Files:
    """Reads the files of a configuration, and keeps what it has read in ``texts``, by path; None is no such file.

    With ``kept``, such texts of before, nothing else is read.
    """

    def __init__(self, kept: Mapping[str, str | None] | None = None) -> None:
        self._kept = kept
        self.texts: dict[str, str | None] = {}

    def read(self, path: str | Path) -> str:
        """Return the text of a file in UTF-8; raises OSError and UnicodeDecodeError."""
        name = str(path)
        text = self._kept.get(name) if self._kept is not None else _text_of(name)
        self.texts[name] = text
        if text is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return text


def _text_of(path: str) -> str | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with io.FileIO(file) as opened:
        data = _from_pipe(file, path) if stat.S_ISFIFO(os.fstat(file).st_mode) else _whole(opened)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {_MAX_BYTES >> 20} MiB", path)
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()


def _whole(opened: io.FileIO) -> bytes:
    """Return what a file holds, or soon more than is read."""
    whole = bytearray()
    while len(whole) <= _MAX_BYTES and (piece := opened.read(_MAX_BYTES // 16)):
        whole += piece
    return bytes(whole)


def _from_pipe(file: int, path: str) -> bytes:
    """Read a pipe, which some keepers of secrets put in a file's place, to its end; nobody need ever write to it."""
    ready, deadline, pieces = select.poll(), time.monotonic() + _PIPE_S, list[bytes]()
    ready.register(file, select.POLLIN)
    while ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if not (piece := os.read(file, _PIPE_PIECE)):
            return b"".join(pieces)
        pieces.append(piece)
        if sum(map(len, pieces)) > _MAX_BYTES:
            return b"".join(pieces)
    raise TimeoutError(errno.ETIMEDOUT, f"it is a pipe that nobody has written to its end within {_PIPE_S:g} s", path)


def read_env_file(path: str, problems: Problems, files: Files) -> dict[str, str]:
    """Return the variables of a ``.env`` file; none when there is no such file.

    A line that is not ``NAME=value`` is a warning with its number, never with its text: that may be a secret.
    """
    try:
        text = files.read(path)
    except FileNotFoundError:
        return {}
    except IsADirectoryError:
        problems.add(path, "is a folder, not a file", "Put the settings into a file, or remove the folder")
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.add(path, f"cannot be read: {error}", "Save it as UTF-8 text, or remove it")
        return {}
    bad = {binding.original.line for binding in parse_stream(io.StringIO(text)) if binding.error}
    for line in sorted(bad):
        problems.warn(path, f"line {line} is not NAME=value and is ignored", "Mend it: quotes must be closed")
    mended = "".join(binding.original.string for binding in parse_stream(io.StringIO(text)) if not binding.error)
    return {key: value for key, value in dotenv_values(stream=io.StringIO(mended)).items() if value is not None}


def loaded_by_flask() -> dict[str, str]:
    """Return the variables that Flask's command line has put into the environment, from the files that it looks for."""
    found: dict[str, str | None] = {}
    for name in (".flaskenv", ".env"):
        if path := find_dotenv(name, usecwd=True):
            with suppress(OSError, UnicodeDecodeError):  # Flask has taken nothing from it, then
                found |= dotenv_values(path, encoding="utf-8")
    return {name: value for name, value in found.items() if value is not None}


class _Loader(_SafeLoader):
    """YAML's safe subset, without duplicate keys; remembers which texts stand in quotes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build one mapping; a key given twice is an error that names its line."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep)
        return built

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build one value; one that looks like a number or a date and is none is an error with its line."""
        try:
            return super().construct_object(node, deep)
        except ValueError:
            what = "a value looks like a number, a date or the like, and is none"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Build one text; one with variables and without quotes is marked."""
        text = str(self.construct_scalar(node))
        return _Unquoted(text) if not node.style and _VARIABLE.search(text) else text


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


class _Unquoted(str):
    """A text with variables that stands without quotes: its type is decided when they are filled in."""

    __slots__ = ()


def read_yaml(path: Path, variables: Mapping[str, str], problems: Problems, files: Files) -> dict[str, Any]:
    """Return the mapping in a YAML file, its ``${VARIABLES}`` filled in; empty when it cannot be used."""
    text = ""
    try:
        text = files.read(path)
        _check_size(text)
        raw = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        problems.add("ONE_API_CONFIG", f"cannot read {path}: {error}", "Name a readable YAML file")
        return {}
    except yaml.YAMLError as error:
        problems.add(str(path), f"is not valid YAML: {_complaint(error)}", _yaml_fix(error, text))
        return {}
    if raw is None:
        problems.warn(str(path), "holds no setting", "Start it with a section, such as `adapters:`")
        return {}
    if not isinstance(raw, dict):
        problems.add(str(path), "holds no mapping at its top", "Start it with a section, such as `adapters:`")
        return {}
    expanded: dict[str, Any] = _expand(raw, "", _lookup(variables, problems, files))
    return expanded


class _TooMuch(yaml.YAMLError):
    """YAML that is not loaded; ``problem`` and ``problem_mark`` as the parser's own errors have them."""

    def __init__(self, problem: str, event: yaml.Event) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, event.start_mark


def _check_size(text: str) -> None:
    """Raise YAMLError for a text that nests too deep, or whose aliases repeat too much of it.

    To load it could end the process: the loader goes down as deep as it nests.
    """
    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = []
    values = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes[anchor] = values - before
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise _TooMuch("an alias stands in what it stands for", event)
            values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(open_) > _MAX_LEVELS:
            raise _TooMuch(f"it nests deeper than {_MAX_LEVELS} levels", event)
        if values > _MAX_VALUES:
            raise _TooMuch(f"it holds more than {_MAX_VALUES} values", event)


def _lookup(variables: Mapping[str, str], problems: Problems, files: Files) -> "Lookup":
    """Return what finds the value for a name between ``${`` and ``}``; where there is none that is a problem."""

    def find(name: str, where: str) -> str | None:
        if not name.startswith(_FILE):
            if (match := _NAME.fullmatch(name)) is None:
                problems.add(
                    where, "holds a ${...} that is not known", "Write ${NAME}, ${NAME:-default} or ${file:PATH}"
                )
                return None
            variable, default = match.groups()
            value = variables.get(variable) or default
            if value is None:
                fix = f"Set {variable} in the environment or in .env"
                problems.add(where, f"the variable {variable} is not set", fix)
            return value
        path = name.removeprefix(_FILE).strip()
        try:
            value = files.read(path).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            problems.add(where, f"cannot read {path}: {reason}", "Name a readable file that holds the value alone")
            return None
        if not value:
            problems.add(where, f"the file {path} is empty", "Write the value into it")
        return value or None

    return find


def variables_in(value: Any) -> set[str]:
    """Return the names of the variables that were filled into any text of a file."""
    if isinstance(value, dict):
        return set().union(*(variables_in(child) for child in value.values()))
    if isinstance(value, list):
        return set().union(*(variables_in(child) for child in value))
    return set(value.names) if isinstance(value, Substituted) else set()


def as_yaml(value: Any) -> str:
    """Return plain values as YAML, in their own order."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1_000))


def _complaint(error: yaml.YAMLError) -> str:
    """Return the parser's complaint and its line, without the text of the line: that may be a secret."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    return f"line {mark.line + 1}: {what}" if mark else str(what)


def _yaml_fix(error: yaml.YAMLError, text: str) -> str:
    """Return what to do; YAML takes the braces of a variable for its own where it stands between { } or [ ]."""
    mark, lines = getattr(error, "problem_mark", None), text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    unquoted = [found.start() for found in re.finditer(r"(?<![\"'])\$\{", line)]
    if unquoted and re.search(r"[{\[,]", line[: unquoted[-1]]):
        return "Put ${...} into quotes there, or for a number give the setting a line of its own"
    return "Mend the file there"


#: Finds the value for a name, which stands at a place of the file.
Lookup: TypeAlias = Callable[[str, str], str | None]


def _expand(value: Any, where: str, find: Lookup) -> Any:
    """Replace ``${NAME}`` in every text of ``value`` by what ``find`` returns for it."""
    if isinstance(value, dict):
        return {key: _expand(child, f"{where}.{key}" if where else str(key), find) for key, child in value.items()}
    if isinstance(value, list):
        return [_expand(child, f"{where}[{i}]", find) for i, child in enumerate(value)]
    names = tuple(_VARIABLE.findall(value)) if isinstance(value, str) else ()
    if not names:
        return value
    found = {name: find(name, where) for name in names}
    text = _VARIABLE.sub(lambda match: match[0] if (text := found[match[1]]) is None else text, value)
    names = tuple(name if name.startswith(_FILE) else re.split(r"\W", name)[0] for name in names)
    return Substituted(text, names, not isinstance(value, _Unquoted), _scalar(text))


def _scalar(text: str) -> Any:
    """Return what YAML takes a text without quotes for: a number, a switch, nothing, or the text."""
    loader = yaml.SafeLoader("")
    try:
        tag: str = loader.resolve(yaml.ScalarNode, text.strip(), (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(tag, text.strip()))
    except (yaml.YAMLError, ValueError):
        return text
    finally:
        loader.dispose()
