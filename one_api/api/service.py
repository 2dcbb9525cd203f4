"""What the routes share, and what lives as long as the process: found at ``app.extensions["one_api"]``."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from one_api.api.reload import Reload
from one_api.api.snapshot import Snapshot
from one_api.models.registry import ModelRegistry
from one_api.observability.recent import RecentCalls
from one_api.observability.records import CallRecord, Observer
from one_api.serving.siblings import Siblings
from one_api.settings.sections import ServerConfig


@dataclass(slots=True)
class Service:
    """The parts that ``create_app`` built."""

    reload: Reload
    observers: tuple[Observer, ...]
    #: The last chat requests, whichever observers there are.
    recent: RecentCalls = field(default_factory=RecentCalls)
    #: The processes that serve the same address.
    siblings: Siblings = field(default_factory=lambda: Siblings("alone"))
    #: The process is about to end: nothing new should be sent here.
    draining: bool = False
    #: Large bodies are decoded one at a time, lest they hold up the loop together.
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def snapshot(self) -> Snapshot:
        """Return what new requests are served with; a reload replaces it as a whole."""
        return self.reload.snapshot

    @property
    def server(self) -> ServerConfig:
        """Return the settings of the listening side."""
        return self.snapshot.config.server

    @property
    def registry(self) -> ModelRegistry:
        """Return the models of new requests, for code that registers adapters of its own at the start."""
        return self.snapshot.registry

    async def report(self, record: CallRecord, used: Snapshot) -> None:
        """Settle what a request was counted for, and hand its record to every observer: it has ended."""
        try:
            await used.limits.settle(record)
            for observer in (self.recent, *self.observers):
                observer.on_call(record)
        finally:
            used.requests.discard(record.request_id)

    def notice(self, by: str) -> None:
        """Load the configuration anew, on the running loop; ``by`` names what asked for it, for the log."""
        self.reload.notice(by)

    async def start(self) -> None:
        """Start what works in the background; called on the loop."""
        await self.siblings.start()
        await self.snapshot.registry.start()
        await self.snapshot.limits.start()
        self.reload.start()

    async def aclose(self) -> None:
        """Close what is open."""
        await self.reload.aclose()
        await self.siblings.aclose()
        await self.snapshot.registry.aclose()
        await self.snapshot.limits.aclose()


def service() -> Service:
    """Return the service of the current application."""
    return cast(Service, current_app.extensions["one_api"])
