"""What the processes of one address know of each other while one of them starts."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_api.serving.siblings import Siblings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: that of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made) / "processes"


async def test_others_see_a_process_only_once_it_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Path]] = []
    listen = socket.socket.listen

    def watched(self: socket.socket, *args: Any) -> None:
        seen.append(list(folder.glob("*.sock")))
        listen(self, *args)
        seen.append(list(folder.glob("*.sock")))

    monkeypatch.setattr(socket.socket, "listen", watched)
    siblings = Siblings("8000", folder)
    await siblings.start()
    try:
        assert seen == [[], []]  # one that is seen and refuses is taken for one that a dead process left behind
        (named,) = folder.glob("*.sock")
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(named))
    finally:
        await siblings.aclose()
