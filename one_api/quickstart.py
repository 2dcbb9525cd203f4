"""What ``make run`` does before it serves: a ``.env`` with a key of its own, and the small local model."""

import secrets
import sys
from pathlib import Path

from one_api.config import Config, ConfigError
from one_api.engine.download import FetchFailed, fetch_default_model
from one_api.settings.adapters import LocalConfig

_ENV = Path(".env")
_EXAMPLE = Path(".env.example")


def make_env_file(target: Path, example: Path) -> bool:
    """Write ``target`` from ``example`` with new keys, readable by its owner only; False if it is there."""
    if target.exists():
        return False
    text = example.read_text(encoding="utf-8")
    for variable, prefix in (("API_KEYS", "sk-one"), ("ADMIN_KEY", "sk-admin")):
        text = text.replace(f"\n{variable}=\n", f"\n{variable}={prefix}-{secrets.token_urlsafe(24)}\n", 1)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_text(text, encoding="utf-8")
    partial.rename(target)
    return True


def _fetch_model(folder: Path) -> None:
    """Fetch the small model, unless the folder holds models already."""
    if not any(folder.glob("**/*.gguf")):
        fetch_default_model(folder, print)


def main() -> int:
    """Set up; returns the exit code."""
    if make_env_file(_ENV, _EXAMPLE):
        print(f"made {_ENV} from {_EXAMPLE}, with new keys")
    try:
        config = Config.load()
        for adapter in config.adapters.values():
            if isinstance(adapter, LocalConfig):
                _fetch_model(Path(adapter.models_dir))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except FetchFailed as error:
        print(f"{error}\nThe gateway starts without it.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
