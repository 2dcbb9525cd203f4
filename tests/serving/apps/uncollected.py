"""The gateway without Python's collector: what would only be freed by it can be asked for."""

import gc
from typing import Any

from flask import Flask

from one_api.app import create_app
from one_api.serving.disconnect import DisconnectSignal


def left() -> dict[str, Any]:
    """Return the types of what only the collector frees of the gateway's and its HTTP client's, and free it.

    And how many requests are held, with this one: what leads to them may be where the collector cannot look.
    """
    gc.collect()
    gc.set_debug(0)
    names = sorted({type(each).__name__ for each in gc.garbage if _is_ours(each)})
    gc.garbage.clear()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    return {"left": names, "requests": sum(isinstance(each, DisconnectSignal) for each in gc.get_objects())}


def _is_ours(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in ("one_api", "aiohttp", "flask")


def uncollected() -> Flask:
    """Return the application, as the environment configures it."""
    app = create_app()
    app.get("/left")(left)
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    return app


app = uncollected()
