"""JSON schemas, as far as Anthropic's structured outputs can express them.

What they cannot check (numeric bounds, lengths, most formats) moves into the description, as the official SDK does it.
What would change the meaning (free-form objects, ``not``, recursion) is reported instead.
"""

from dataclasses import dataclass
from typing import Any

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: Upstream limits on one schema: parameters of several types, and parameters that may be left out.
MAX_UNIONS = 16
MAX_OPTIONAL = 24
#: More schemas than this are not looked at: references that copy each other grow without bound.
_MAX_NODES = 5_000
#: References that are followed for the properties of a tool; each can lead to the next.
_MAX_REFERENCES = 64
#: At most so many different schemas of one property are kept.
_MAX_KINDS = 32

_KEPT = frozenset({"type", "description", "title", "enum", "const", "default", "required"})
_COMBINATORS = ("oneOf", "anyOf", "allOf")
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)  # fmt: skip
#: Keywords that only narrow a plain value: in words they lose little.
_NARROWING = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "examples", "example",
    "contentEncoding", "contentMediaType",
})  # fmt: skip
#: Keywords that are for people and tools only.
_SILENT = frozenset({"$schema", "$id", "$comment", "$anchor", "deprecated", "readOnly", "writeOnly", "strict"})
_DEFINITIONS = ("$defs", "definitions")


class Inexpressible(ValueError):
    """The schema means something that structured outputs cannot say; the message says what."""


def express(schema: JSONObject) -> JSONObject:
    """Return an equivalent schema for ``output_config.format``; the input stays as it is.

    Raises:
        Inexpressible: when the meaning would be lost, or the schema is over the upstream's limits.
    """
    try:
        return _Expression(schema).run()
    except RecursionError:
        raise Inexpressible("it nests too deep") from None


def strict_form(schema: JSONObject) -> JSONObject | None:
    """Return the schema for a ``strict`` tool, or None when it would have to be changed for that."""
    bare = {key: value for key, value in schema.items() if key != "$schema"}
    try:
        return bare if express(bare) == bare else None
    except Inexpressible:
        return None


def flattened(schema: JSONObject) -> JSONObject | None:
    """Return an object schema without a combinator at its top, or None when it has none.

    It allows whatever one of the branches allows, and requires nothing.
    """
    if not any(key in schema for key in _COMBINATORS):
        return None
    found: dict[str, list[Any]] = {}
    _collect(schema, schema, found, set())
    properties = {name: _any_of(kinds) for name, kinds in found.items()}
    kept = {key: value for key, value in schema.items() if key in (*_DEFINITIONS, "description", "title")}
    return {"type": "object", **kept, "properties": properties}


def _any_of(kinds: list[Any]) -> Any:
    """Return one schema for a property that has several; for too many, one that allows anything."""
    if len(kinds) == _MAX_KINDS:
        return {}
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _collect(schema: Any, root: JSONObject, found: dict[str, list[Any]], seen: set[str]) -> None:
    """Note the properties of a schema and of its branches, each reference once; all kinds of one property are kept."""
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen and len(seen) < _MAX_REFERENCES:
        seen.add(reference)
        _collect(_resolve(root, reference), root, found, seen)
    properties = schema.get("properties")
    for name, kind in properties.items() if isinstance(properties, dict) else ():
        kinds = found.setdefault(name, [])
        if len(kinds) < _MAX_KINDS and kind not in kinds:
            kinds.append(kind)
    for key in _COMBINATORS:
        for branch in schema[key] if isinstance(schema.get(key), list) else ():
            _collect(branch, root, found, seen)


def _resolve(root: JSONObject, reference: str) -> Any:
    """Return what a reference within the schema points at, or None."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    place: Any = root
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        place = place.get(step) if isinstance(place, dict) else None
    return place


@dataclass(slots=True)
class _Expression:
    """One run over one schema."""

    root: JSONObject
    nodes: int = 0
    unions: int = 0
    optional: int = 0

    def run(self) -> JSONObject:
        self._refuse_recursion()
        root = self.root
        definitions = {
            key: {name: self.schema(value) for name, value in root[key].items()}
            for key in _DEFINITIONS
            if isinstance(root.get(key), dict)
        }
        found = self.schema({key: value for key, value in root.items() if key not in _DEFINITIONS}, at_root=True)
        if self.unions > MAX_UNIONS:
            raise Inexpressible(f"it has more than {MAX_UNIONS} properties of several types")
        if self.optional > MAX_OPTIONAL:
            raise Inexpressible(f"it has more than {MAX_OPTIONAL} optional properties")
        return {**found, **definitions}

    def schema(self, schema: Any, *, at_root: bool = False) -> JSONObject:
        """Return one schema and all below it, rewritten."""
        self._count()
        if not isinstance(schema, dict):
            raise Inexpressible("a schema that is not an object allows anything or nothing")
        if "$ref" in schema:
            return self._reference(schema, at_root)
        if "allOf" in schema:
            schema = self._merged(schema)
        found = {key: value for key, value in schema.items() if key in _KEPT}
        self._check_enum(found)
        branches = [branch for key in ("anyOf", "oneOf") for branch in _list(schema, key)]
        if "anyOf" in schema and "oneOf" in schema:
            raise Inexpressible("`anyOf` beside `oneOf`")
        if branches:
            self._refuse_split(schema)
            self.unions += 1
            found["anyOf"] = [self.schema(branch) for branch in branches]
        self._structure(schema, found, bool(branches))
        return self._narrowed(schema, found)

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise Inexpressible("it is too large")

    def _structure(self, schema: JSONObject, found: JSONObject, has_branches: bool) -> None:
        """Add type, properties and items; an untyped schema gets the type that its keywords imply."""
        if "type" not in found and not has_branches:
            implied = "object" if "properties" in schema else "array" if "items" in schema else None
            if implied is not None:
                found["type"] = implied
            elif "enum" not in found and "const" not in found:
                raise Inexpressible("a schema without a type allows anything")
        kinds = found.get("type")
        self.unions += isinstance(kinds, list)
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "object" in kinds:
            self._object(schema, found)
        if "array" in kinds:
            if "items" not in schema:
                raise Inexpressible("an array without `items` allows anything")
            found["items"] = self.schema(schema["items"])
            if schema.get("minItems") in (0, 1):
                found["minItems"] = schema["minItems"]

    def _object(self, schema: JSONObject, found: JSONObject) -> None:
        properties = schema.get("properties")
        if schema.get("additionalProperties", False) is not False:
            raise Inexpressible("an object with additional properties")
        if not isinstance(properties, dict) or (not properties and "additionalProperties" not in schema):
            raise Inexpressible("an object without named properties allows anything")
        found["properties"] = {name: self.schema(value) for name, value in properties.items()}
        required = schema.get("required")
        self.optional += sum(name not in required if isinstance(required, list) else True for name in properties)
        found["additionalProperties"] = False

    def _narrowed(self, schema: JSONObject, found: JSONObject) -> JSONObject:
        """Move into the description what the schema cannot check; raise for what cannot stand there either."""
        left = {key: value for key, value in schema.items() if key not in found and key not in _SILENT}
        if left.get("format") in _FORMATS:
            found["format"] = left.pop("format")
        for key in ("anyOf", "oneOf", "allOf"):
            left.pop(key, None)
        for key in left:
            if key not in _NARROWING and not key.startswith("x-"):
                raise Inexpressible(f"`{key}`")
        said = {key: value for key, value in left.items() if key in _NARROWING}
        if said:
            words = json.encode(said).decode()
            before = found.get("description")
            found["description"] = f"{before}\n\n{words}" if isinstance(before, str) and before else words
        return found

    def _reference(self, schema: JSONObject, at_root: bool) -> JSONObject:
        """Keep a plain reference to a definition; put the target in place of any other."""
        reference = schema["$ref"]
        target = _resolve(self.root, reference) if isinstance(reference, str) else None
        if target is None:
            raise Inexpressible("a `$ref` that leads out of the schema")
        beside = {key: value for key, value in schema.items() if key != "$ref" and key not in _SILENT}
        plain = any(reference.startswith(f"#/{key}/") and reference.count("/") == 2 for key in _DEFINITIONS)
        if plain and not beside and not at_root:
            return {"$ref": reference}
        if not isinstance(target, dict):
            raise Inexpressible("a `$ref` to a schema that is not an object")
        return self.schema({**target, **beside}, at_root=at_root)

    def _merged(self, schema: JSONObject) -> JSONObject:
        """Return one schema for ``allOf`` and what stands beside it: closed objects cannot be combined later."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for branch in _list(schema, "allOf"):
            while isinstance(branch, dict) and "$ref" in branch:
                target = _resolve(self.root, str(branch["$ref"]))
                beside = {key: value for key, value in branch.items() if key != "$ref"}
                branch = {**target, **beside} if isinstance(target, dict) else None
            self._count()
            if not isinstance(branch, dict):
                raise Inexpressible("`allOf` with a branch that cannot be read")
            branch = self._merged(branch) if "allOf" in branch else branch
            for key, value in branch.items():
                merged[key] = _both(key, merged[key], value) if key in merged else value
        return merged

    def _check_enum(self, found: JSONObject) -> None:
        values = found.get("enum", [])
        values = values if isinstance(values, list) else [values]
        if any(isinstance(value, (dict, list)) for value in [*values, found.get("const")]):
            raise Inexpressible("`enum` or `const` of objects or arrays")

    def _refuse_split(self, schema: JSONObject) -> None:
        """Refuse properties beside branches: each branch is closed, and would forbid them."""
        if "properties" in schema or "items" in schema:
            raise Inexpressible("properties beside `anyOf` or `oneOf`")

    def _refuse_recursion(self) -> None:
        """Refuse a schema that contains itself."""
        done: set[str] = set()

        def visit(value: Any, path: frozenset[str]) -> None:
            for reference in _references(value):
                if reference in path:
                    raise Inexpressible("it contains itself")
                if reference not in done:
                    visit(_resolve(self.root, reference), path | {reference})
                    done.add(reference)

        visit(self.root, frozenset())


def _references(value: Any) -> list[str]:
    """Return all references at any depth of a value."""
    found: list[str] = []
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if isinstance(each.get("$ref"), str):
                found.append(each["$ref"])
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)
    return list(dict.fromkeys(found))


def _list(schema: JSONObject, key: str) -> list[Any]:
    """Return the branches of a combinator."""
    branches = schema.get(key, [])
    if not isinstance(branches, list) or (key in schema and not branches):
        raise Inexpressible(f"`{key}` without branches")
    return branches


def _both(key: str, first: Any, second: Any) -> Any:
    """Return one keyword that says what two say together."""
    if first == second or key == "title":
        return first
    if key == "required" and _are_names(first) and _are_names(second):
        return list(dict.fromkeys([*first, *second]))
    if key == "description" and isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    if key == "properties" and isinstance(first, dict) and isinstance(second, dict):
        shared = {name: _both("property", first[name], second[name]) for name in first if name in second}
        return {**first, **second, **shared}
    raise Inexpressible(f"`allOf` with different `{key}`")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
