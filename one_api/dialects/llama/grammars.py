"""What the local engine can hold an answer to: schemas for its own converter, and regular expressions."""

import re
from collections.abc import Iterator
from typing import Any

from one_api.dialects.json import JSONObject

#: More repetitions than this are more than the engine's grammars hold.
MAX_REPETITIONS = 2000
#: With more values at one place, or more items of an array, the engine's grammars are slow, or refused as too large.
_MAX_VALUES, _MAX_ITEMS = 64, 256
_TOKEN = re.compile(
    r"""(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<escape>\\.)|(?P<group>\(\?.?)|(?P<repeat>\{[^}]*\}?)|(?P<other>.)""",
    re.DOTALL,
)
#: Letters and digits that have a meaning after a backslash, in all dialects that matter here.
_ESCAPES = frozenset("dDwWsSnrtfvxu")


def unsupported_syntax(pattern: str) -> str | None:
    """Return what a pattern (a regular expression of ECMA-262) uses that cannot be enforced; None when it can be."""
    if fault := next(_faults(pattern), None):
        return fault
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return "a syntax that is not known"
    return None


def _faults(pattern: str) -> Iterator[str]:
    last = ""
    for found in _TOKEN.finditer(pattern):
        kind, text, at = found.lastgroup, found[0], found.start()
        if kind == "class" and re.search(r"^\^?\]|\[|&&|--|~~|\|\|", re.sub(r"\\.", "", text[1:-1])):
            yield "a bracket or a set operation within brackets: put a backslash before it"
        if kind in ("class", "escape") and any(
            each.isalnum() and each not in _ESCAPES for each in re.findall(r"\\(.)", text)
        ):
            yield "a back-reference, a word boundary or an unknown escape"
        if kind == "group" and text != "(?:":
            yield "a look-ahead, look-behind, flag or named group"
        if kind == "repeat" and not (counts := re.fullmatch(r"\{(\d+)(?:,(\d*))?\}", text)):
            yield "a brace that is no repetition: put a backslash before it"
        elif kind == "repeat" and counts and max(int(each or 0) for each in counts.groups()) > MAX_REPETITIONS:
            yield f"more than {MAX_REPETITIONS} repetitions"
        if kind == "other" and text == "+" and last in ("*", "+", "?", "}"):
            yield "a possessive repetition"
        if (text == "^" and at > 0) or (text == "$" and at < len(pattern) - 1):
            yield "an anchor in its middle"
        last = text[-1] if kind in ("repeat", "other") else ""


def begun_with(name: str, definitions: JSONObject) -> set[str]:
    """Return the definitions of a clean schema that a value of ``name`` may be, by references alone."""
    found: set[str] = set()
    left = [definitions[name]]
    while left:
        node = left.pop()
        node = node if isinstance(node, dict) else {}
        left += node.get("anyOf", ())
        if "$ref" in node and (target := node["$ref"].rpartition("/")[2]) not in found:
            found.add(target)
            left.append(definitions[target])
    return found


def is_simple(node: Any) -> bool:
    """Return whether a clean schema holds nothing but what the engine's converter enforces, and not too much of it."""
    if not isinstance(node, dict):
        return False
    keys = node.keys() - {"$defs"}
    if not all(is_simple(each) for each in node.get("$defs", {}).values()):
        return False
    if keys in ({"$ref"}, set()):
        return True
    if keys == {"enum"}:
        return len(node["enum"]) <= _MAX_VALUES
    if keys == {"anyOf"}:
        return all(is_simple(each) for each in node["anyOf"])
    names = node.get("type")
    return all(_is_simple_type(name, node, keys) for name in (names if isinstance(names, list) else [names]))


def _is_simple_type(name: Any, node: JSONObject, keys: set[str]) -> bool:
    known = _SIMPLE.get(name)
    if known is None or not keys <= {"type", *known}:
        return False
    if name == "array":
        if max(node.get("minItems", 0), node.get("maxItems", 0)) > _MAX_ITEMS:
            return False
        return ("items" in keys and is_simple(node["items"])) or keys == {"type"}
    if name == "integer":
        return all(isinstance(node[key], int) for key in keys - {"type"})
    inner = list(node.get("properties", {}).values())
    more = node.get("additionalProperties", False)
    named = set(node.get("required", ())) <= node.get("properties", {}).keys()
    return named and all(map(is_simple, inner)) and (isinstance(more, bool) or is_simple(more))


_SIMPLE: dict[str, tuple[str, ...]] = {
    "null": (), "boolean": (), "number": (), "integer": ("minimum", "maximum"), "string": ("minLength", "maxLength"),
    "array": ("items", "minItems", "maxItems"), "object": ("properties", "required", "additionalProperties"),
}  # fmt: skip
