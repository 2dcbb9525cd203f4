"""What ``make run`` and a first ``one-api serve`` do before they serve: a ``.env`` with keys, and a small model."""

import secrets
import sys
from pathlib import Path

from one_api.config import Config, ConfigError, Loaded
from one_api.engine.download import FetchFailed, fetch_default_model
from one_api.engine.files import EngineFailed, find_engine
from one_api.settings.adapters import LocalConfig

_ENV = Path(".env")
_EXAMPLE = Path(".env.example")
#: What stands in for our example where there is none.
_MINIMAL = """\
# Settings of one_api. The environment wins over them.

# The keys that clients may use, separated by commas; name:key gives one a name for the log.
API_KEYS=
# The operator's key, for /admin on this machine and the commands that ask a running gateway.
ADMIN_KEY=
"""
#: Where there is no local model.
_ANOTHER_WAY = (
    "For a model of a provider put OPENAI_API_KEY=... or CLAUDE_API_KEY=... into .env, or OPENAI_BASE_URL=... for any "
    "server that speaks OpenAI's dialect, and start again."
)


def make_env_file(target: Path, example: Path) -> bool:
    """Write ``target`` from our ``example`` with new keys, readable by its owner only; False if it is there."""
    if target.exists():
        return False
    text = example.read_text(encoding="utf-8") if example.is_file() else ""
    if not text.startswith(_MINIMAL.partition(".")[0]):
        text = _MINIMAL  # it is another project's example, or there is none
    for variable, prefix in (("API_KEYS", "sk-one"), ("ADMIN_KEY", "sk-admin")):
        text = text.replace(f"\n{variable}=\n", f"\n{variable}={prefix}-{secrets.token_urlsafe(24)}\n", 1)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_text(text, encoding="utf-8")
    partial.rename(target)
    return True


def _fetch_model(folder: Path) -> None:
    """Fetch the small model, unless the folder holds models already."""
    if not _has_models(folder):
        fetch_default_model(folder, print)


def _has_models(folder: Path) -> bool:
    return any(folder.glob("**/*.gguf"))


def is_first_start(loaded: Loaded) -> bool:
    """Return whether nothing is set up here: there is no API key, and no file that could hold one."""
    return not (loaded.config.api_keys or loaded.files or loaded.named_files)


def has_nothing_to_serve(loaded: Loaded) -> bool:
    """Return whether a start went before this one, and its model is missing: it could not be fetched, say.

    Only where nothing is configured but the keys in ``.env``: what else somebody has set up is not added to.
    """
    adapters = [*loaded.config.adapters.values()]
    if loaded.named_files or [file.name for file in loaded.files] != [_ENV.name]:
        return False
    return all(isinstance(each, LocalConfig) and not _has_models(Path(each.models_dir)) for each in adapters)


def main() -> int:
    """Set up; returns the exit code."""
    try:
        if make_env_file(_ENV, _EXAMPLE):
            print(f"made {_ENV} with new keys")
    except OSError as error:
        print(f"{_ENV} cannot be made ({error.strerror}): set API_KEYS in the environment", file=sys.stderr)
        return 1
    try:
        config = Config.load()
        for name, adapter in config.adapters.items():
            if isinstance(adapter, LocalConfig):
                find_engine(name)  # a model without one would be of no use
                _fetch_model(Path(adapter.models_dir))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (FetchFailed, EngineFailed) as error:
        print(f"{error}\nThe gateway starts without it. {_ANOTHER_WAY}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: run the same command again to go on")
