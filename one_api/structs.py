"""Plain values, as YAML gives them, become msgspec structs; all that is wrong is noted, each with its place."""

import difflib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (a variable, or a path in the file), what, and what to do."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.fix}"


class Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, where: str, what: str, fix: str) -> None:
        """Note one problem."""
        self.found.append(Problem(where, what, fix))


def checked(check: Callable[[Any], tuple[str, str] | None]) -> Meta:
    """Return an annotation for a plain field; ``check`` tells what is wrong with a value, and the fix."""
    return Meta(extra={"check": check})


class Builder:
    """Builds structs; a text where a struct may stand is the struct's first field.

    ``hook`` makes the values of classes that msgspec does not know (its ``dec_hook``).
    """

    def __init__(self, problems: Problems, hook: Callable[[type, Any], Any]) -> None:
        self._problems = problems
        self._hook = hook

    def fields(self, kind: type[Struct], raw: Any, where: str = "") -> dict[str, Any]:
        """Return the values of one struct; those that are wrong are None."""
        if not isinstance(raw, dict):
            self._problems.add(where or "the file", f"is {_name(raw)}, not a mapping", "Give it fields")
            return {}
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for key in raw:
            if key not in fields and key != kind.__struct_config__.tag_field:
                near = difflib.get_close_matches(str(key), fields, 1)
                fix = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(fields))}"
                self._problems.add(_join(where, key), "is not a setting", fix)
        values = {}
        for name, field in fields.items():
            if name in raw:
                values[name] = self._value(field.type, raw[name], _join(where, name))
            elif field.required:
                self._problems.add(_join(where, name), "is missing", "Add it")
        return values

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
        structs = [each for each in arguments or (kind,) if isinstance(each, type) and issubclass(each, Struct)]
        if arguments and structs == list(arguments):
            return self._tagged(structs, raw, where)
        if structs and not (origin is dict or origin is tuple):
            whole = {structs[0].__struct_fields__[0]: raw} if str in arguments and isinstance(raw, str) else raw
            return self.struct(structs[0], whole, where)
        if origin is dict and isinstance(raw, dict):
            return {str(key): self._value(arguments[1], child, _join(where, key)) for key, child in raw.items()}
        if origin is tuple and isinstance(raw, list):
            return tuple(self._value(arguments[0], child, f"{where}[{i}]") for i, child in enumerate(raw))
        return self._plain(kind, raw, where)

    def _annotated(self, kind: Any, raw: Any, where: str) -> Any:
        """Convert a value that must keep to more than its type."""
        inner, *notes = typing.get_args(kind)
        if inner not in (int, float, str):
            value = self._value(inner, raw, where)
            if value == () and any(note.min_length for note in notes):
                self._problems.add(where, "is empty", "Give at least one")
            return value
        value = self._plain(kind, raw, where)
        for note in notes:
            if value is not None and note.extra and (wrong := note.extra["check"](value)):
                self._problems.add(where, *wrong)
        return value

    def _plain(self, kind: Any, raw: Any, where: str) -> Any:
        try:
            return msgspec.convert(raw, kind, dec_hook=self._hook)
        except msgspec.ValidationError as error:
            self._problems.add(where, f"has a bad value: {error}", "Change it as the message says")
            return None

    def _tagged(self, kinds: list[type[Struct]], raw: Any, where: str) -> Struct | None:
        """Build the struct that the tag names."""
        known = {str(kind.__struct_config__.tag): kind for kind in kinds}
        field = str(kinds[0].__struct_config__.tag_field)
        tag = raw.get(field) if isinstance(raw, dict) else None
        if not isinstance(tag, str) or tag not in known:
            self._problems.add(_join(where, field), "names no known kind", f"Use one of: {', '.join(known)}")
            return None
        return self.struct(known[tag], raw, where)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _name(raw: Any) -> str:
    return {list: "a list", str: "a text", type(None): "empty"}.get(type(raw), "a " + type(raw).__name__)
