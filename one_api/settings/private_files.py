"""Folders and files that only this user can change, also where others may write beside them (``/tmp``)."""

import contextlib
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from one_api.settings.validation import Problem


def user_folder() -> Path:
    """Return where this user's processes meet, in the folder for temporary files.

    It goes by the user's number: a container may run as one that has no name.
    """
    return Path(tempfile.gettempdir()) / f"one_api-{os.geteuid()}"


def private_folder(path: Path) -> Path:
    """Make a folder of mode 0700, or check the one that is there; return where it really is.

    Its parents are made, too, and not checked. A link that another user has put there is not followed.

    Raises:
        PermissionError: when it is another user's, or open to others; the message says what to do.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.geteuid() or path.stat().st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user: it must be a folder of this user. Remove it")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PermissionError(f"{path} is open to others: run `chmod 700 {path}`")
    return path.resolve()


def check_owned_folder(path: Path) -> None:
    """Raise PermissionError for a folder in which others can put files."""
    status = path.stat()
    if status.st_uid not in {os.geteuid(), 0} or stat.S_IMODE(status.st_mode) & 0o022:
        raise PermissionError(f"others can write in {path}: run `chmod go-w {path}`")


def open_private(path: Path, flags: int) -> int:
    """Open a file of mode 0600 without following a link, and never wait for it (a pipe); return the descriptor.

    Raises:
        OSError: when it cannot be opened, or is not a plain file of this user alone.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if (
        not stat.S_ISREG(status.st_mode)
        or status.st_uid != os.geteuid()
        or stat.S_IMODE(status.st_mode) & 0o077
        or status.st_nlink > 1
    ):
        os.close(descriptor)
        raise PermissionError(f"{path} is not a plain file of this user alone: remove it")
    return descriptor


def machine_warnings(files: Iterable[Path], user: int | None = None) -> list[Problem]:
    """Return what a careful operator would change: root as the user, and secrets in ``files`` that others can read.

    ``user`` is the number of the user; by default that of this process.
    """
    found = []
    if (os.geteuid() if user is None else user) == 0:
        fix = "Start it as a user of its own that may read only what it needs"
        found.append(Problem("root", "the gateway runs as root", fix))
    for path in files:
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            if mode & stat.S_IWOTH or (mode & stat.S_IROTH and _holds_secrets(path)):
                fix = f"Run `chmod 600 {shlex.quote(str(path))}`"
                found.append(Problem(str(path), f"other users of this machine can use it (mode {mode & 0o777:o})", fix))
    return found


def _holds_secrets(path: Path) -> bool:
    """Return whether a settings file has a secret in plain text."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.search(r"(?im)^[^#\n]*key[A-Z0-9_]*[\"']?\s*[=:]\s*[\"']?[^\s\"'#$,}]", text) is not None
