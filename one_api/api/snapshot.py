"""What a request is served with: one configuration, and all that was built from it. It never changes."""

from dataclasses import dataclass, field
from typing import cast

from flask import g

from one_api.api.cors import CrossOrigin
from one_api.config import Config
from one_api.models.registry import ModelRegistry
from one_api.utils.auth import KeyRing
from one_api.utils.rate_limit import RateLimits


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration with its parts. A request takes it when it begins, and uses no other to its end."""

    config: Config
    #: SHA-256 of the configuration, see ``settings.changes``.
    digest: str
    registry: ModelRegistry
    #: The keys of clients, and that of the operator.
    keys: KeyRing
    admin: KeyRing
    limits: RateLimits
    cors: CrossOrigin
    #: What is set in the files, but counts from the next start only: places of settings.
    restart_needed: tuple[str, ...] = ()
    #: The ids of the requests that are served with it, open streams included.
    requests: set[str] = field(default_factory=set)


def snapshot() -> Snapshot:
    """Return what the current request is served with."""
    return cast(Snapshot, g.snapshot)
