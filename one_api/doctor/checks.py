"""The whole examination, in the order in which people set things up."""

from collections.abc import Iterator
from pathlib import Path

from one_api.config import ConfigError, Loaded, load
from one_api.doctor import machine
from one_api.doctor.finding import Finding, of_configuration, ok, problem, warning, without_secrets
from one_api.doctor.upstreams import of_upstreams
from one_api.settings.adapters import OutsideConfig
from one_api.upstream.scrubbing import secrets_in


def examine(instance: Path) -> list[Finding]:
    """Read the configuration, and return everything that is found; no secret is in it.

    ``instance`` is the folder in which the gateway keeps its own files. Blocks on the disk and the network.
    """
    try:
        loaded = load()
    except ConfigError as error:
        return of_configuration("problem", error.problems)
    return without_secrets(_findings(loaded, instance), secrets_in(loaded.config))


def _findings(loaded: Loaded, instance: Path) -> Iterator[Finding]:
    config = loaded.config
    yield ok("configuration", f"read from {loaded.sources}")
    yield from of_configuration("warning", loaded.warnings)
    if not config.api_keys:
        yield warning("api_keys", "there is none, so every call to /v1 is answered with 401", "Set API_KEYS")
    if not config.adapters:
        yield problem("adapters", "there is none, so nothing can be served", "Set OPENAI_API_KEY or another adapter")
    yield from machine.of_files(loaded)
    yield machine.of_folder(instance)
    yield machine.of_space(instance)
    yield machine.of_descriptors(config.server)
    yield from machine.of_redis(config)
    yield from machine.of_database(config, instance)
    yield from machine.of_local(config)
    yield from of_upstreams(config)
    for name, settings in config.adapters.items():
        if isinstance(settings, OutsideConfig):
            yield ok(f"adapters.{name}", f"{settings.type} is there and takes its settings; it was not asked anything")
