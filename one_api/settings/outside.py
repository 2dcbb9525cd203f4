"""Kinds of adapters: ours, and those that others wrote, by the place of their class or by an entry point."""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from msgspec import Struct

from one_api.settings.adapters import ClaudeConfig, LocalConfig, OpenAIConfig, OutsideConfig
from one_api.settings.kinds import Secret

#: The group of entry points that name adapters of installed packages.
GROUP = "one_api.adapters"
#: What a class must have to serve as an adapter; ``one_api.models.adapters.base.BaseModelAdapter`` brings most of it.
_NEEDED = ("list_models", "generate_completion", "complete", "stream", "start", "aclose")
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True, slots=True)
class AdapterType:
    """What ``type`` stands for: the settings of such an adapter, and where its class is, as ``module:Class``."""

    settings: type[Struct]
    place: str


_OURS = {
    "openai": AdapterType(OpenAIConfig, "one_api.models.adapters.openai:OpenAIAdapter"),
    "claude": AdapterType(ClaudeConfig, "one_api.models.adapters.claude:ClaudeAdapter"),
    "local": AdapterType(LocalConfig, "one_api.models.adapters.local:LocalModelAdapter"),
}


class NoAdapter(Exception):
    """An adapter cannot be had; the message says why, ``fix`` what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


def adapter_types() -> dict[str, AdapterType]:
    """Return every type that has a name: ours, then those of installed packages."""
    outside = {each.name: AdapterType(OutsideConfig, each.value) for each in entry_points(group=GROUP)}
    return {**_OURS, **{name: each for name, each in outside.items() if name not in _OURS}}


def find_type(name: object) -> AdapterType | None:
    """Return what a ``type`` stands for: a name, or the place of a class; None when it is neither."""
    if not isinstance(name, str):
        return None
    named = adapter_types().get(name) if name not in _OURS else _OURS[name]
    return named or (AdapterType(OutsideConfig, name) if _PLACE.fullmatch(name) else None)


def settings_of(name: object) -> type[Struct]:
    """Return the settings of a ``type``; raises ValueError, which says what could stand there."""
    found = find_type(name)
    if found is None:
        raise ValueError(f"Use one of: {', '.join(adapter_types())}, or package.module:Class")
    return found.settings


def type_name(settings: Struct) -> str:
    """Return the ``type`` of an adapter with these settings."""
    return settings.type if isinstance(settings, OutsideConfig) else str(settings.__struct_config__.tag)


def load_class(name: str) -> Any:
    """Return the class of a type; its module is imported only now.

    Raises:
        NoAdapter: when there is none that can serve as an adapter.
    """
    found = find_type(name)
    module, _, path = (found.place if found else name).partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except Exception as error:  # whatever a foreign module does when it is imported
        why = f"{name} cannot be imported: {type(error).__name__}: {error}"
        raise NoAdapter(why, "Install it, or start the gateway where Python finds it") from error
    if not isinstance(value, type) or not all(callable(getattr(value, each, None)) for each in _NEEDED):
        raise NoAdapter(f"{name} is no BaseModelAdapter", "Derive it from one_api.models.adapters.base")
    return value


def check_outside(settings: OutsideConfig) -> None:
    """Raise NoAdapter when the class of an adapter of others cannot be had, or does not take its settings."""
    kind = load_class(settings.type)
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise NoAdapter(f"{settings.type} lacks {missing}", "Write these methods")
    try:
        inspect.signature(kind).bind(**settings.settings)
    except TypeError as error:
        raise NoAdapter(f"{settings.type} does not take these settings: {error}", _taken(kind)) from None


def _taken(kind: type) -> str:
    names = ", ".join(inspect.signature(kind).parameters)
    return f"It takes {names}" if names else "It takes none"


def revealed(value: Any) -> Any:
    """Return settings as the class of an adapter is given them: plain values, secrets included."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: revealed(child) for key, child in value.items()}
    return [revealed(child) for child in value] if isinstance(value, (list, tuple)) else value
