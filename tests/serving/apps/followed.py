"""The gateway, which notes the functions of ours that are called between ``GET /follow`` and ``GET /followed``."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask

import one_api
from one_api.app import create_app

ROOT = f"{Path(one_api.__file__).parent}/"
#: Here the view waits for its answer, and here an upstream is asked: what stands on the stack is the way down.
WAITS, ASKS = "serving/bridge.py:await_", "upstream/client.py:"


class Follower:
    """Counts calls by file and function, and collects the files on the stack where an upstream is asked."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.way_down: set[str] = set()
        self._waiting: set[str] = set()

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; a profile function of the interpreter."""
        if event != "call" or (name := name_of(frame)) is None:
            return
        self.calls[name] += 1
        if name == WAITS:
            self._waiting |= files_below(frame)
        elif name.startswith(ASKS):
            self.way_down |= self._waiting | files_below(frame)


def name_of(frame: FrameType) -> str | None:
    """The file below ``one_api`` and the function, if it is one of ours."""
    path = frame.f_code.co_filename
    return f"{path.removeprefix(ROOT)}:{frame.f_code.co_qualname}" if path.startswith(ROOT) else None


def files_below(frame: FrameType | None) -> set[str]:
    """The files of the functions that are on the stack."""
    found = set()
    while frame is not None:
        if (name := name_of(frame)) is not None:
            found.add(name.partition(":")[0])
        frame = frame.f_back
    return found


def followed() -> Flask:
    """Return the application, as the environment configures it."""
    app = create_app()
    follower = Follower()

    @app.get("/follow")
    def follow() -> str:
        follower.__init__()  # type: ignore[misc]
        asyncio.get_running_loop().call_soon(sys.setprofile, follower.note)
        return "begun"

    @app.get("/followed")
    def end() -> str:
        asyncio.get_running_loop().call_soon(sys.setprofile, None)
        return json.dumps({"calls": follower.calls, "way_down": sorted(follower.way_down)})

    return app


app = followed()
