"""Probes: is the process alive, and can it serve?"""

from flask import Blueprint, Response

from one_api.api.service import service
from one_api.api.snapshot import snapshot
from one_api.serving.responses import JSONResponse

health = Blueprint("health", __name__)


@health.get("/health")
def alive() -> Response:
    """Answer that the process is alive."""
    return JSONResponse({"status": "healthy"})


@health.get("/ready")
async def ready() -> Response:
    """Answer 200 when a model can be served, else 503 with the reason.

    ``pending`` names upstreams that have not answered yet. The body also says when ``limits``, ``cache``
    or ``accounts`` work only in part; the status stays 200 then.
    """
    used, reason = snapshot(), await why_unready()
    body = {"status": "unready" if reason else "ready", "reason": reason, "pending": used.registry.pending}
    accounts, store = service().accounts, used.registry.answer_store
    for part, degraded in (
        ("limits", used.limits.degraded),
        ("cache", store and store.degraded),
        ("accounts", accounts and accounts.degraded),
    ):
        if degraded:
            body[part] = degraded
    return JSONResponse(body, 503 if reason else 200)


async def why_unready() -> str | None:
    """Return why no requests should be sent here now; None when they may be."""
    registry = snapshot().registry
    await registry.start()
    return "draining: the process is about to end" if service().draining else registry.unready
