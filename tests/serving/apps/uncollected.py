"""The gateway without Python's collector: what would only be freed by it can be asked for."""

import gc

from flask import Flask

from one_api.app import create_app


def left() -> dict[str, list[str]]:
    """Return the types of what only the collector frees of the gateway's and its HTTP client's, and free it."""
    gc.collect()
    gc.set_debug(0)
    names = sorted({type(each).__name__ for each in gc.garbage if _is_ours(each)})
    gc.garbage.clear()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    return {"left": names}


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
