"""One place where a model is served, and how it has been doing."""

from dataclasses import dataclass, field

from one_api.models.adapters.base import BaseModelAdapter
from one_api.routing.health import Health


@dataclass(slots=True, eq=False)
class Deployment:
    """An adapter, and the name of a model there."""

    adapter_name: str
    adapter: BaseModelAdapter
    model: str
    weight: float = 1.0
    #: Requests in flight at once.
    max_concurrency: int = 1000
    #: How long its first event may take, in seconds, where the configuration says so; the adapter keeps to it.
    first_event_s: float | None = None
    health: Health = field(default_factory=Health)
    #: "adapter/upstream model", which names it everywhere.
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"{self.adapter_name}/{self.model}"
