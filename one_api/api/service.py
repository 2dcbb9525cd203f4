"""What the routes share, and what lives as long as the process: found at ``app.extensions["one_api"]``."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from one_api.config import Config
from one_api.models.registry import ModelRegistry
from one_api.telemetry import CallRecord, Observer


@dataclass(slots=True)
class Service:
    """The parts that ``create_app`` built."""

    config: Config
    registry: ModelRegistry
    observers: tuple[Observer, ...]
    #: The process is about to end: nothing new should be sent here.
    draining: bool = False

    @property
    def body_timeout_s(self) -> float:
        """Return how long a request's body may take, in seconds."""
        return self.config.server.body_timeout_s

    def report(self, record: CallRecord) -> None:
        """Tell every observer that a request has ended."""
        for observer in self.observers:
            observer.on_call(record)

    async def start(self) -> None:
        """Start what works in the background; called on the loop."""
        await self.registry.start()

    async def aclose(self) -> None:
        """Close what is open."""
        await self.registry.aclose()


def service() -> Service:
    """Return the service of the current application."""
    return cast(Service, current_app.extensions["one_api"])
