"""Plain values, as YAML gives them, become msgspec structs; all that is wrong is noted, each with its place."""

import difflib
import math
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

S = TypeVar("S", bound=Struct)


#: So many problems are told of one configuration: nobody reads more of them.
MAX_TOLD = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (a variable, or a path in the file), what, and what to do."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.fix}"


class Problems:
    """Collects errors (``found``) and ``warnings``, so that all of them can be reported at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.warnings: list[Problem] = []

    def add(self, where: str, what: str, fix: str) -> None:
        """Note one error."""
        self.found.append(Problem(where, what, fix))

    def warn(self, where: str, what: str, fix: str) -> None:
        """Note what can be used, but is probably not what was meant."""
        self.warnings.append(Problem(where, what, fix))


class Substituted(str):
    """A text of the file after its ``${VARIABLES}`` were filled in.

    ``names`` are the variables. ``scalar`` is the value that YAML gives to the same text without quotes; a ``quoted``
    one stays a text.
    """

    names: tuple[str, ...]
    quoted: bool
    scalar: Any

    def __new__(cls, text: str, names: tuple[str, ...], quoted: bool, scalar: Any) -> Self:
        """Make one."""
        made = super().__new__(cls, text)
        made.names, made.quoted, made.scalar = names, quoted, scalar
        return made


def checked(check: Callable[[Any], tuple[str, str] | None]) -> Meta:
    """Return an annotation for a field; ``check`` returns what is wrong with a value, and the fix, or None."""
    return Meta(extra={"check": check})


def mended(mend: Callable[[str], tuple[str, tuple[str, str] | None]]) -> Meta:
    """Return an annotation for a text; ``mend`` returns the text to use, and a warning (what, fix) if it differs."""
    return Meta(extra={"mend": mend})


@lru_cache
def _fields_of(kind: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return a struct's fields by name: found once, as there may be thousands of structs of one kind."""
    return {field.name: field for field in msgspec.structs.fields(kind)}


class Builder:
    """Builds structs; a text where a struct may stand is the struct's first field.

    ``hook`` makes the values of classes that msgspec does not know (its ``dec_hook``). ``kind_of`` returns which of
    several structs a ``type`` stands for; its ValueError says what could stand there.
    """

    def __init__(
        self, problems: Problems, hook: Callable[[type, Any], Any], kind_of: Callable[[object], type[Struct]]
    ) -> None:
        self._problems = problems
        self._hook = hook
        self._kind_of = kind_of

    def fields(self, kind: type[Struct], raw: Any, where: str = "") -> dict[str, Any]:
        """Return the values of one struct; those that are wrong are None."""
        if not isinstance(raw, dict):
            self._problems.add(where or "the file", f"is {_name(raw)}, not a mapping", "Give it fields")
            return {}
        fields = _fields_of(kind)
        for key in raw:
            if key != kind.__struct_config__.tag_field:
                self._check_key(key, fields, where)
        values = {}
        for name, field in fields.items():
            if name in raw:
                values[name] = self._value(field.type, raw[name], _join(where, name))
            elif field.required:
                self._problems.add(_join(where, name), "is missing", "Add it")
        return values

    def _check_key(self, key: object, known: Collection[str], where: str) -> None:
        """Note a key that is not known at a place."""
        if key not in known:
            is_read = len(self._problems.found) < MAX_TOLD
            near = difflib.get_close_matches(str(key), known, 1) if is_read else []
            fix = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(known))}"
            self._problems.add(_join(where, key), "is not a setting", fix)

    def struct(self, kind: type[S], raw: Any, where: str) -> S | None:
        """Build one struct; returns None after noting what stands in the way."""
        before = len(self._problems.found)
        values = self.fields(kind, raw, where)
        return kind(**values) if len(self._problems.found) == before else None

    def _value(self, kind: Any, raw: Any, where: str) -> Any:
        """Convert one value to its field's type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            return self._annotated(kind, raw, where)
        if raw is None and type(None) in arguments:
            return None
        structs = [each for each in arguments or (kind,) if isinstance(each, type) and issubclass(each, Struct)]
        if arguments and structs == list(arguments):
            return self._tagged(raw, where)
        if structs and not (origin is dict or origin is tuple):
            whole = {structs[0].__struct_fields__[0]: raw} if str in arguments and isinstance(raw, str) else raw
            return self.struct(structs[0], whole, where)
        if origin is dict and not isinstance(raw, dict):
            self._problems.add(where, f"is {_name(raw)}, not a mapping", "Give it fields")
            return None
        if origin is dict:
            for key in raw if (known := _choices(arguments[0])) else ():
                self._check_key(key, known, where)
            return {str(key): self._value(arguments[1], child, _join(where, key)) for key, child in raw.items()}
        if origin is tuple and isinstance(raw, list):
            return tuple(self._value(arguments[0], child, f"{where}[{i}]") for i, child in enumerate(raw))
        return self._plain(kind, raw, where)

    def _annotated(self, kind: Any, raw: Any, where: str) -> Any:
        """Convert a value that must keep to more than its type."""
        inner, *notes = typing.get_args(kind)
        extras = [note.extra for note in notes if note.extra]
        given = raw
        if isinstance(raw, str):
            for extra in extras:
                raw = self._mended(extra["mend"], raw, where) if "mend" in extra else raw
        value = self._plain(kind, raw, where) if inner in (int, float, str) else self._value(inner, raw, where)
        if value == () and any(note.min_length for note in notes):
            self._problems.add(where, "is empty", "Give at least one")
        for extra in extras:
            if value is not None and "check" in extra and (wrong := extra["check"](value)):
                self._problems.add(where, wrong[0] + _origin(given), wrong[1])
        return value

    def _mended(self, mend: Callable[[str], tuple[str, tuple[str, str] | None]], raw: str, where: str) -> str:
        """Return a text as it was probably meant; a warning says what was changed."""
        text, warning = mend(raw)
        if warning:
            self._problems.warn(where, warning[0] + _origin(raw), warning[1])
        return raw if text == raw else text

    def _plain(self, kind: Any, raw: Any, where: str) -> Any:
        choices = _choices(kind)
        if isinstance(raw, str) and raw.lower() in choices:
            return raw.lower()
        if isinstance(raw, float) and not math.isfinite(raw):
            self._problems.add(where, f"is {raw}, no finite number", "Set a number, or leave it out")
            return None
        complaint = ""
        for reading, strict in _readings(raw):
            try:
                return msgspec.convert(reading, kind, strict=strict, dec_hook=self._hook)
            except msgspec.ValidationError as error:
                complaint = complaint if not strict else str(error)
        if choices:
            fix = f"Use one of: {', '.join(choices)}{', or a number' if _numeric(kind) else ''}"
        elif isinstance(raw, str) and _converts(raw, kind):
            fix = "Write it without quotes"
        else:
            fix = "Change it as the message says"
        self._problems.add(where, f"has a bad value: {complaint}{_origin(raw)}", fix)
        return None

    def _tagged(self, raw: Any, where: str) -> Struct | None:
        """Build the struct that ``type`` stands for."""
        try:
            kind = self._kind_of(raw.get("type") if isinstance(raw, dict) else None)
        except ValueError as error:
            self._problems.add(_join(where, "type"), "names no known kind", str(error))
            return None
        return self.struct(kind, raw, where)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _name(raw: Any) -> str:
    return {list: "a list", str: "a text", type(None): "empty"}.get(type(raw), "a " + type(raw).__name__)


def _readings(raw: Any) -> list[tuple[Any, bool]]:
    """Return what a value may stand for, in order, each with whether its type is decided.

    A variable that is filled in without quotes has the type that its field asks for.
    """
    if not isinstance(raw, Substituted):
        return [(raw, True)]
    text = str(raw)
    return [(text, True)] if raw.quoted else [(text, True), (raw.scalar, True), (text.strip(), False)]


def _converts(text: str, kind: Any) -> bool:
    """Return whether a text is a number or a switch of that kind, in quotes."""
    try:
        msgspec.convert(text.strip(), kind, strict=False)
    except (msgspec.ValidationError, TypeError):
        return False
    return True


def _choices(kind: Any) -> list[str]:
    """Return the words that a field may hold, when they are a closed list."""
    if typing.get_origin(kind) is Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    return [choice for part in typing.get_args(kind) for choice in _choices(part)]


def _numeric(kind: Any) -> bool:
    """Return whether a number may stand there, beside words."""
    return kind in (int, float) or any(_numeric(part) for part in typing.get_args(kind))


def _origin(raw: Any) -> str:
    """Name the variables that a value was made of."""
    return f" (from {', '.join(raw.names)})" if isinstance(raw, Substituted) else ""
