"""The files that settings come from: ``.env``, and YAML whose texts may hold ``${VARIABLES}``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

from one_api.structs import Problems

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_env_file(path: str, problems: Problems) -> dict[str, str]:
    """Return the variables of a ``.env`` file; none when there is no such file."""
    try:
        return {key: value for key, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        problems.add(path, f"cannot be read: {error}", "Save it as UTF-8 text, or remove it")
        return {}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe subset, without duplicate keys."""

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
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, variables: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return the mapping in a YAML file, its ``${VARIABLES}`` filled in; empty when it cannot be used."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        problems.add("ONE_API_CONFIG", f"cannot read {path}: {error}", "Name a readable YAML file")
        return {}
    except yaml.YAMLError as error:
        problems.add(str(path), f"is not valid YAML: {_complaint(error)}", "Mend the file there")
        return {}
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.add(str(path), "holds no mapping at its top", "Start it with a section, such as `adapters:`")
        return {}
    expanded: dict[str, Any] = _expand(raw, "", variables, problems)
    return expanded


def _complaint(error: yaml.YAMLError) -> str:
    """Return the parser's complaint and its line, without the text of the line: that may be a secret."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    return f"line {mark.line + 1}: {what}" if mark else str(what)


def _expand(value: Any, where: str, variables: Mapping[str, str], problems: Problems) -> Any:
    """Replace ``${NAME}`` in every text of ``value`` by the variable's value."""
    if isinstance(value, dict):
        return {
            key: _expand(child, f"{where}.{key}" if where else str(key), variables, problems)
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [_expand(child, f"{where}[{i}]", variables, problems) for i, child in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if not variables.get(name):
            problems.add(where, f"the variable {name} is not set", f"Set {name} in the environment or in .env")
    return _VARIABLE.sub(lambda match: variables.get(match[1]) or match[0], value)
