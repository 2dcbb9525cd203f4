"""What the routes share, and what lives as long as the process: found at ``app.extensions["one_api"]``."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from one_api.api.kept_responses import KeptResponses
from one_api.api.reload import Reload
from one_api.api.snapshot import OpenRequest, Snapshot
from one_api.contract import Caller
from one_api.errors import Unauthorized
from one_api.models.registry import ModelRegistry
from one_api.observability.log import LineWriter
from one_api.observability.metrics import Metrics
from one_api.observability.process import watch_loop
from one_api.observability.recent import RecentCalls
from one_api.records import AttemptRecord, CallRecord, Observer
from one_api.serving.current import current_application
from one_api.serving.siblings import Siblings
from one_api.serving.tasks import stop
from one_api.settings.sections import ServerConfig

if TYPE_CHECKING:
    from one_api.accounts.service import Accounts
    from one_api.observability.tracing import Tracing


@dataclass(slots=True)
class Service:
    """The parts that ``create_app`` built."""

    reload: Reload
    observers: tuple[Observer, ...]
    #: None without a database.
    accounts: "Accounts | None" = None
    #: What is counted of this process; one of the observers.
    metrics: Metrics = field(default_factory=Metrics)
    log_writer: LineWriter | None = None
    #: None without traces; one of the observers.
    tracing: "Tracing | None" = None
    #: The requests under way, probes and scrapes left out.
    calls: set[OpenRequest] = field(default_factory=set)
    #: The scrape that is under way, or the last one.
    scrape: "asyncio.Task[list[bytes]] | None" = None
    #: Returns how many clients are connected; set by a server that knows.
    connections: Callable[[], int | None] = lambda: None
    #: The last chat requests, whichever observers there are.
    recent: RecentCalls = field(default_factory=RecentCalls)
    #: What ``/v1/responses`` keeps for its clients.
    kept_responses: KeptResponses = field(default_factory=KeptResponses)
    #: The processes that serve the same address.
    siblings: Siblings = field(default_factory=lambda: Siblings("alone"))
    #: The process is about to end: nothing new should be sent here.
    draining: bool = False
    #: Large bodies are decoded one at a time: several together would hold up the loop.
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)
    _watching: "asyncio.Task[None] | None" = None

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

    def on_late_attempt(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """Give every observer an attempt that begins after it was given the record."""
        for observer in self.observers:
            observer.on_late_attempt(record, attempt)

    def begin_reload(self, by: str) -> None:
        """Reload the configuration, on the running loop; ``by`` names what asked for it, for the log."""
        self.reload.begin_once(by)

    def cut_revoked(self) -> None:
        """End the streams whose keys are gone, where the configuration wants that."""
        if not self.snapshot.config.reload.cut_revoked:
            return
        for call in [call for each in self.reload.snapshots for call in each.requests]:
            if call.caller is not None and not self._is_known(call.caller):
                call.cut(Unauthorized("This API key was revoked: the answer is not complete.", code="key_disabled"))

    def _is_known(self, caller: Caller) -> bool:
        """Return whether a caller's key is one of those that count now: of clients, the operator's, of the database."""
        rings = self.snapshot.keys, self.snapshot.admin.keys
        return any(ring.has(caller) for ring in rings) or (self.accounts is not None and self.accounts.has_key(caller))

    async def start(self) -> None:
        """Start what works in the background; called on the loop."""
        await self.siblings.start()
        self._watching = asyncio.create_task(watch_loop(self.metrics.loop_lag.at().observe))
        if self.accounts is not None:
            await self.accounts.start()
        await self.snapshot.registry.start()
        await self.snapshot.limits.start()
        self.reload.start()

    async def aclose(self) -> None:
        """Close what is open."""
        await stop(self._watching)
        await self.reload.aclose()
        await self.siblings.aclose()
        await self.snapshot.registry.aclose()
        await self.snapshot.limits.aclose()
        if self.accounts is not None:
            await self.accounts.aclose()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


def service() -> Service:
    """Return the service of the current application."""
    found: Service = current_application().extensions["one_api"]
    return found
