"""JSON schemas for the local engine: each is enforced as a whole, or refused with the name of what cannot be.

The engine has two ways to hold a model to a schema. Its own converter knows the usual keywords and skips all others in
silence (https://github.com/ggml-org/llama.cpp/tree/master/grammars). LLGuidance knows more, but a schema that it cannot
compile is not enforced at all (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md). So what is
sent is made from keywords that are known here: small and simple schemas go to the converter, which also bounds the
length of numbers, and the others to LLGuidance. There, blanks stand where Python's ``json.dumps`` has them: where they
may stand anywhere, small models write nothing else any more.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.grammars import MAX_REPETITIONS, begun_with, is_simple, unsupported_syntax
from one_api.errors import InvalidRequest

_FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]
)  # fmt: skip
#: Keywords that no grammar here can express, unless they have a value that demands nothing.
_IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "not": (False,), "if": (), "then": (), "else": (), "uniqueItems": (False,), "contains": (), "minContains": (),
    "maxContains": (), "propertyNames": (True, {}), "dependentRequired": ({},), "dependentSchemas": ({},),
    "dependencies": ({},), "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}), "$dynamicRef": (),
    "$recursiveRef": (), "contentSchema": (True, {}),
}  # fmt: skip
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
#: How LLGuidance writes JSON.
_LAYOUT = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
#: Numbers beyond this have more digits than the engine's converter writes.
_MAX_NUMBER = Fraction(10**15)
#: Numbers get as many decimals, so that a small model comes to an end.
_STEP = Fraction("0.000001")
_KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def constrained(schema: JSONObject, param: str) -> JSONObject:
    """Return the fields of a request to the engine that hold its answer to ``schema``; ``param`` is where it stands.

    Raises:
        InvalidRequest: naming the first keyword that cannot be enforced.
    """
    cleaned = _Cleaner(schema, param).clean()
    if is_simple(cleaned):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": cleaned}}}
    return {"grammar": f"%llguidance {{}}\nstart: %json {json.encode({**_LAYOUT, **cleaned}).decode()}"}


class _Cleaner:
    """Makes a schema of known keywords only; what is referred to stands under ``$defs``."""

    def __init__(self, schema: JSONObject, param: str) -> None:
        self._schema = schema
        self._param = param
        #: By pointer: the name under ``$defs``, and what stands there.
        self._names: dict[str, str] = {}
        self._definitions: JSONObject = {}

    def clean(self) -> JSONObject:
        """Return the clean schema."""
        found = self._node(self._schema, "")
        if not isinstance(found, dict):
            self._refuse("false", "", "No value fits this schema.")
        for pointer, name in self._names.items():
            if name in begun_with(name, self._definitions):
                self._refuse("$ref", "", f"`{pointer[:100]}` refers to itself before it says anything.")
        return {**found, "$defs": self._definitions} if self._definitions else found

    def _node(self, node: Any, path: str) -> Any:
        """Return a clean (sub)schema."""
        if isinstance(node, bool):
            return {} if node else False
        if not isinstance(node, dict):
            self._invalid(path, "a schema is an object")
        for key, harmless in _IMPOSSIBLE.items():
            if key in node and not any(node[key] is each or node[key] == each for each in harmless):
                self._refuse(key, path)
        whole = node.get("allOf")
        if whole is not None:
            return self._all_of(node, whole, path)
        if "$ref" in node:
            return self._ref(node, path)
        found: JSONObject = {}
        for key, value in node.items():
            if (read := _READ.get(key)) is not None and value is not None:
                found |= read(self, node, value, path)
        self._check_counts(found, path)
        return self._with_numbers(self._with_names(found, path), path)

    def _all_of(self, node: JSONObject, parts: Any, path: str) -> Any:
        """Take the only part for the whole: intersections are not always enforced."""
        if not isinstance(parts, list) or len(parts) != 1 or _keywords(node) != {"allOf"}:
            self._refuse("allOf", path, "Write its parts as one schema.")
        return self._node(parts[0], f"{path}.allOf[0]")

    def _ref(self, node: JSONObject, path: str) -> JSONObject:
        pointer = node["$ref"]
        if not isinstance(pointer, str) or _keywords(node) != {"$ref"}:
            self._refuse("$ref", path, "Leave out what stands beside it.")
        if pointer not in self._names:
            target = self._target(pointer, path)
            self._names[pointer] = name = f"d{len(self._names)}"
            self._definitions[name] = self._node(target, path)
        return {"$ref": f"#/$defs/{self._names[pointer]}"}

    def _target(self, pointer: str, path: str) -> Any:
        """Return what a reference points to."""
        found: Any = self._schema
        start, _, rest = pointer.partition("#")
        for step in rest.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                self._invalid(path, f"`{pointer[:100]}` points to nothing")
        if start or (rest and not rest.startswith("/")):
            self._refuse("$ref", path, "It can point to a place in the same schema only.")
        return found

    # Keywords: each returns what it becomes

    def _type(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        names = value if isinstance(value, list) else [value]
        if not names or any(name not in _TYPES for name in names):
            self._invalid(path, f"`type` is one of {', '.join(_TYPES)}")
        return {} if {"anyOf", "oneOf", "enum", "const"} & node.keys() else {"type": value}

    def _values(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        """Take ``enum`` and ``const``: of their values those that fit the type."""
        key = "const" if "const" in node else "enum"
        values = [node["const"]] if key == "const" else value
        if not isinstance(values, list) or not values:
            self._invalid(path, "`enum` is a list of values")
        if extra := _keywords(node) - {"type", "enum", "const"}:
            self._refuse(sorted(extra)[0], path, f"Leave it out beside `{key}`.")
        types = node.get("type", list(_TYPES))
        fitting = [each for each in values if _is_of(each, types)]
        if key == "const" and "enum" in node:
            fitting = [each for each in fitting if each in node["enum"]]
        if not fitting:
            self._refuse(key, path, "None of its values fits the rest of the schema.")
        return {"enum": fitting}

    def _properties(self, _: JSONObject, value: Any, path: str) -> JSONObject:
        if not isinstance(value, dict):
            self._invalid(path, "`properties` is an object")
        cleaned = {name: self._node(each, f"{path}.{name}") for name, each in value.items()}
        return {"properties": cleaned}

    def _required(self, _: JSONObject, value: Any, path: str) -> JSONObject:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._invalid(path, "`required` is a list of names")
        return {"required": value}

    def _additional(self, _: JSONObject, value: Any, path: str) -> JSONObject:
        return {"additionalProperties": value if isinstance(value, bool) else self._node(value, f"{path}.*")}

    def _by_pattern(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        if not isinstance(value, dict) or len(value) != 1 or node.get("properties"):
            self._refuse("patternProperties", path, "It can hold one pattern, without `properties` beside it.")
        ((pattern, inner),) = value.items()
        return {"patternProperties": {self._regex(pattern, path): self._node(inner, f"{path}.*")}}

    def _items(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        if isinstance(value, list):  # as before 2020-12
            rest = node.get("additionalItems")
            after = {} if rest is None else {"items": self._node(rest, f"{path}[]")}
            return self._prefix(node, value, path) | after
        return {"items": self._node(value, f"{path}[]")}

    def _prefix(self, _: JSONObject, value: Any, path: str) -> JSONObject:
        if not isinstance(value, list):
            self._invalid(path, "`prefixItems` is a list of schemas")
        return {"prefixItems": [self._node(each, f"{path}[{i}]") for i, each in enumerate(value)]}

    def _pattern(self, _: JSONObject, value: Any, path: str) -> JSONObject:
        return {"pattern": self._regex(value, path)}

    def _format(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        if not _may_be("string", node.get("type")):
            return {}
        if value not in _FORMATS:
            self._refuse("format", path, f"It can be: {', '.join(sorted(_FORMATS))}. Or use `pattern`.")
        return {"format": value}

    def _any_of(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        return {"anyOf": self._branches(node, value, "anyOf", path)}

    def _one_of(self, node: JSONObject, value: Any, path: str) -> JSONObject:
        """Take ``oneOf`` for ``anyOf`` where no value can fit two branches."""
        branches = self._branches(node, value, "oneOf", path)
        solved = [self._solved(each) for each in branches]
        if not all(_disjoint(one, other) for i, one in enumerate(solved) for other in solved[:i]):
            self._refuse("oneOf", path, "Use `anyOf`, or give the branches different types or constants.")
        return {"anyOf": branches}

    def _branches(self, node: JSONObject, value: Any, key: str, path: str) -> list[Any]:
        """Return the branches: they must say all there is, because intersections are not always enforced."""
        if not isinstance(value, list) or not value:
            self._invalid(path, f"`{key}` is a list of schemas")
        branches = [self._node(each, f"{path}.{key}[{i}]") for i, each in enumerate(value)]
        extra = _keywords(node) - {key}
        if extra == {"type"} and all(_kinds_of(self._solved(each)) <= _kinds_of(node) for each in branches):
            extra = set()
        if extra:
            self._refuse(sorted(extra)[0], path, f"Write it into the branches of `{key}`.")
        return branches

    def _solved(self, node: Any) -> JSONObject:
        """Return what a clean schema says itself, behind references."""
        for _ in self._names:
            if isinstance(node, dict) and "$ref" in node:
                node = self._definitions.get(node["$ref"].rpartition("/")[2], {})
        return node if isinstance(node, dict) else {}

    def _count(self, key: str, value: Any, path: str) -> JSONObject:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            self._invalid(path, f"`{key}` is a whole number")
        if value > MAX_REPETITIONS:
            self._refuse(key, path, f"It can be at most {MAX_REPETITIONS}.")
        return {key: int(value)}

    def _number(self, key: str, value: Any, path: str) -> JSONObject:
        if isinstance(value, bool) or not isinstance(value, int | float) or (key == "multipleOf" and value <= 0):
            self._invalid(path, f"`{key}` is a number")
        if abs(value) > _MAX_NUMBER:
            self._refuse(key, path, "The number is too large.")
        return {key: value}

    def _check_counts(self, found: JSONObject, path: str) -> None:
        """Refuse bounds that nothing fits between, and those that a grammar can hold in part only."""
        for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")):
            if found.get(low, 0) > found.get(high, MAX_REPETITIONS):
                self._refuse(low, path, f"It is more than `{high}`.")
        if found.get("items") is False and found.get("minItems", 0) > len(found.get("prefixItems", ())):
            self._refuse("minItems", path, "There are not so many items.")
        if "pattern" in found and "format" in found:
            self._refuse("format", path, "Leave it out beside `pattern`.")

    def _with_names(self, found: JSONObject, path: str) -> JSONObject:
        """Return a schema whose required properties are all among its properties; without a word, there are no others.

        JSON Schema allows others, but small models then find no end.
        """
        named, required = found.get("properties", {}), found.get("required", [])
        bound = next((key for key in ("minProperties", "maxProperties") if key in found), None)
        if bound is not None and (named or required):
            self._refuse(bound, path, "It can be used without `properties` and `required` only.")
        if not named and not required:
            return found
        more = found.get("additionalProperties", False)
        missing = [name for name in required if name not in named]
        if missing and ("patternProperties" in found or found.get("additionalProperties") is False):
            self._refuse("required", path, f"`{missing[0][:64]}` is not among `properties`.")
        named = named | dict.fromkeys(missing, more if isinstance(more, dict) else {})
        return {**found, "properties": named, "additionalProperties": more}

    def _with_numbers(self, found: JSONObject, path: str) -> JSONObject:
        """Return a schema whose numbers, if it bounds them, come to an end; refuse bounds that no number fits."""
        bounds = {key: Fraction(str(found[key])) for key in _NUMBERS if key in found}
        if not bounds:
            return found
        types = found.get("type", _TYPES)
        whole = "integer" in types and "number" not in types
        step = bounds.get("multipleOf", Fraction(1 if whole else _STEP))
        step = Fraction(step.numerator) if whole else step  # what is whole and a multiple of it
        first = _first_multiple(step, bounds.get("minimum", -_MAX_NUMBER), bounds.get("exclusiveMinimum"))
        last = -_first_multiple(step, -bounds.get("maximum", _MAX_NUMBER), _negative(bounds.get("exclusiveMaximum")))
        if first > last:
            self._refuse(
                "multipleOf" if "multipleOf" in bounds else next(iter(bounds)),
                path,
                "No number fits, or none with six decimals: use `enum`.",
            )
        kept = {key: value for key, value in found.items() if key not in _NUMBERS}
        kept |= {"minimum": _plain(first), "maximum": _plain(last)}
        return kept if whole and step == 1 else {**kept, "multipleOf": _plain(step)}

    def _regex(self, pattern: Any, path: str) -> str:
        if not isinstance(pattern, str):
            self._invalid(path, "`pattern` is a string")
        if reason := unsupported_syntax(pattern):
            self._refuse("pattern", path, f"It uses {reason}.")
        return pattern

    def _refuse(self, keyword: str, path: str, help_text: str = "Leave it out, and check the answer.") -> NoReturn:
        place = f" at `{path.lstrip('.')[:200]}`" if path else ""
        raise InvalidRequest(
            f"A local model cannot be held to `{keyword}`{place} of this schema. {help_text}",
            param=self._param,
            code="unsupported_value",
        )

    def _invalid(self, path: str, reason: str) -> NoReturn:
        place = f" at `{path.lstrip('.')[:200]}`" if path else ""
        raise InvalidRequest(f"The schema is not valid{place}: {reason}.", param=self._param, code="invalid_value")


Reader: TypeAlias = Callable[[_Cleaner, JSONObject, Any, str], JSONObject]


def _counter(key: str) -> Reader:
    return lambda self, _, value, path: self._count(key, value, path)


def _numeric(key: str) -> Reader:
    return lambda self, _, value, path: self._number(key, value, path)


_READ: dict[str, Reader] = {
    "type": _Cleaner._type,
    "enum": _Cleaner._values,
    "const": _Cleaner._values,
    "properties": _Cleaner._properties,
    "required": _Cleaner._required,
    "additionalProperties": _Cleaner._additional,
    "patternProperties": _Cleaner._by_pattern,
    "items": _Cleaner._items,
    "prefixItems": _Cleaner._prefix,
    "pattern": _Cleaner._pattern,
    "format": _Cleaner._format,
    "anyOf": _Cleaner._any_of,
    "oneOf": _Cleaner._one_of,
    **{key: _counter(key) for key in _COUNTS},
    **{key: _numeric(key) for key in _NUMBERS},
}


def _first_multiple(step: Fraction, low: Fraction, above: Fraction | None) -> Fraction:
    """Return the first multiple of ``step`` that is not below ``low``, and above the other bound."""
    first = math.ceil(low / step) * step
    return first if above is None else max(first, (math.floor(above / step) + 1) * step)


def _negative(number: Fraction | None) -> Fraction | None:
    return None if number is None else -number


def _plain(number: Fraction) -> int | float:
    return number.numerator if number.denominator == 1 else float(number)


def _keywords(node: JSONObject) -> set[str]:
    """Return the keywords of a schema that constrain something."""
    return {key for key in node if key in _READ or key in _IMPOSSIBLE or key in ("$ref", "allOf")}


def _is_of(value: Any, types: Any) -> bool:
    return any(_KINDS[name](value) for name in ([types] if isinstance(types, str) else types) if name in _KINDS)


def _may_be(name: str, types: Any) -> bool:
    return types is None or name in ([types] if isinstance(types, str) else types)


def _disjoint(one: JSONObject, other: JSONObject) -> bool:
    """Return whether no value fits two clean schemas, as far as types or constants show it."""
    if not _kinds_of(one) & _kinds_of(other):
        return True
    if "enum" in one and "enum" in other:
        return not any(value in other["enum"] for value in one["enum"])
    if one.get("type") != "object" or other.get("type") != "object":
        return False
    shared = set(one.get("required", ())) & set(other.get("required", ()))
    inner = [(one.get("properties", {}).get(name), other.get("properties", {}).get(name)) for name in shared]
    return any(a and b and "enum" in a and "enum" in b and _disjoint(a, b) for a, b in inner)


def _kinds_of(schema: JSONObject) -> set[str]:
    """Return the types that a value of a clean schema may have; whole numbers are numbers."""
    if "enum" in schema:
        return {name for name in _TYPES for value in schema["enum"] if name != "integer" and _KINDS[name](value)}
    types = schema.get("type", _TYPES)
    return {"number" if name == "integer" else name for name in ([types] if isinstance(types, str) else types)}
