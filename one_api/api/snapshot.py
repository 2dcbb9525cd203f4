"""What a request is served with: one configuration, and all that was built from it. It never changes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from one_api.api.cors import CrossOrigin
from one_api.config import Config
from one_api.contract import Caller
from one_api.errors import GatewayError
from one_api.models.registry import ModelRegistry
from one_api.records import CallRecord
from one_api.serving.current import current_globals
from one_api.utils.auth import AdminAccess, KeyRing
from one_api.utils.rate_limit import RateLimits

if TYPE_CHECKING:
    from one_api.accounts.prices import Prices


class OpenRequest(Protocol):
    """A request whose answer is not complete, see ``request_log.OpenCall``."""

    #: Its answer is read after the view has returned.
    is_streamed: bool
    #: Whose stream it is; None while it is no stream.
    caller: Caller | None

    def cut(self, why: GatewayError) -> None:
        """End a stream, with ``why`` as its last event."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration with its parts. A request takes it when it begins, and uses no other to its end."""

    config: Config
    #: SHA-256 of the configuration, see ``settings.changes``.
    digest: str
    registry: ModelRegistry
    #: The keys of clients.
    keys: KeyRing
    admin: AdminAccess
    limits: RateLimits
    cors: CrossOrigin
    #: What is set in the files, but counts from the next start only: places of settings.
    restart_needed: tuple[str, ...] = ()
    #: None without a database.
    prices: "Prices | None" = None
    #: The requests that are served with it, open streams included.
    requests: set[OpenRequest] = field(default_factory=set)

    def cost_of(self, record: CallRecord) -> int | None:
        """Return what an answer costs in nano-dollars; None where that is not known, or not yet."""
        if self.prices is None or record.deployment is None or (record.usage is None and record.units is None):
            return None
        rates = self.prices.rates(record.deployment)
        return None if rates is None else rates.cost(record.usage, record.units)


def snapshot() -> Snapshot:
    """Return what the current request is served with."""
    known = current_globals()
    used: Snapshot = known.snapshot
    return used
