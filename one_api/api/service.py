"""What the routes share, and what lives as long as the process: found at ``app.extensions["one_api"]``."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from one_api.config import Config
from one_api.models.registry import ModelRegistry
from one_api.observability.recent import RecentCalls
from one_api.observability.records import CallRecord, Observer
from one_api.serving.siblings import Siblings
from one_api.settings.sections import ServerConfig
from one_api.utils.rate_limit import RateLimits


@dataclass(slots=True)
class Service:
    """The parts that ``create_app`` built."""

    config: Config
    registry: ModelRegistry
    limits: RateLimits
    observers: tuple[Observer, ...]
    #: The last chat requests, whoever else is told of them.
    recent: RecentCalls = field(default_factory=RecentCalls)
    #: The processes that serve the same address.
    siblings: Siblings = field(default_factory=lambda: Siblings("alone"))
    #: The process is about to end: nothing new should be sent here.
    draining: bool = False
    #: Large bodies are decoded one at a time, lest they hold up the loop together.
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def server(self) -> ServerConfig:
        """Return the settings of the listening side."""
        return self.config.server

    async def report(self, record: CallRecord) -> None:
        """Settle what a request was counted for, and tell every observer that it has ended."""
        await self.limits.settle(record)
        for observer in (self.recent, *self.observers):
            observer.on_call(record)

    async def start(self) -> None:
        """Start what works in the background; called on the loop."""
        await self.siblings.start()
        await self.registry.start()
        await self.limits.start()

    async def aclose(self) -> None:
        """Close what is open."""
        await self.siblings.aclose()
        await self.registry.aclose()
        await self.limits.aclose()


def service() -> Service:
    """Return the service of the current application."""
    return cast(Service, current_app.extensions["one_api"])
