"""What lies in the models folders, and what of it is loaded, as a table for people."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from one_api.engine.files import default_run_dir
from one_api.engine.gguf import ModelFile, discover
from one_api.engine.loaded import LoadedEngine, loaded_engines
from one_api.engine.process import engine_settings
from one_api.engine.settings import EngineSettings, slot_context
from one_api.settings.adapters import LocalConfig

_HEADS = ("MODEL", "SIZE", "CONTEXT", "TEMPLATE", "LOADED", "MEMORY", "FILE")


def table(
    folders: Iterable[Path], run_dir: Path | None = None, configs: Mapping[Path, LocalConfig] | None = None
) -> list[str]:
    """Return the lines of a table with one row for each model, and a line for each file that cannot be used.

    Engines are looked for in ``run_dir``; by default that of this user. ``configs`` are those of the folders' adapters,
    which decide on the context. Blocks on the disk.
    """
    place = run_dir or default_run_dir()
    loaded = {each.model: each for each in loaded_engines(place)} if place.is_dir() else {}
    rows: list[tuple[str, ...]] = [_HEADS]
    problems: list[str] = []
    for folder in folders:
        models, unreadable = discover(folder)
        settings = engine_settings((configs or {}).get(folder, LocalConfig()))
        rows += [_row(model, settings, loaded.get(str(model.path.absolute()))) for model in models]
        problems += [f"left out: {path}: {reason}" for path, reason in unreadable.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + problems


def _row(model: ModelFile, settings: EngineSettings, engine: LoadedEngine | None) -> tuple[str, ...]:
    memory = engine.memory_bytes if engine else None
    template = "tools" if model.template_mentions_tools else "chat" if model.chat_template else "none"
    return (
        model.id,
        f"{model.size_bytes / 1e6:.0f} MB",
        str(slot_context(model, settings)),
        "ranks only" if model.ranks else "embeds only" if model.embedding_only else template,
        "yes" if engine else "no",
        f"{memory / 1e6:.0f} MB" if memory is not None else "-",
        str(model.path),
    )
