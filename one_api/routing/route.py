"""Where one model id leads, and what its group asks of the attempts there."""

from dataclasses import dataclass
from typing import Self

from msgspec import Struct, field

from one_api.routing.deployment import Deployment
from one_api.settings.sections import GroupConfig, HedgeConfig, HoldBackConfig


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests for one model id are tried; the defaults are those of an id without a group. Times are seconds."""

    #: To the first content of a stream, while another candidate is left.
    first_event_s: float | None = None
    #: Between two events of a stream.
    idle_s: float | None = None
    #: A whole answer, while another candidate is left.
    total_s: float | None = None
    #: Go on elsewhere when a stream breaks after content was sent.
    resume: bool = False
    hold_back: HoldBackConfig | None = None
    hedge: HedgeConfig | None = None
    #: All targets make vectors, or scores of documents, that can be compared with each other.
    embedding_space: str | None = None
    rerank_space: str | None = None

    @classmethod
    def of(cls, group: GroupConfig) -> Self:
        """Return the policy that a group's settings amount to."""
        times = group.timeouts
        return cls(
            times.first_event_s,
            times.idle_s,
            times.total_s,
            group.on_stream_failure == "resume",
            group.hold_back,
            group.hedge,
            group.embedding_space,
            group.rerank_space,
        )


class Route(Struct):
    """Where one model id leads. ``targets`` serve that model; ``fallbacks`` are other models, in order."""

    model: str
    targets: list[Deployment]
    fallbacks: list[Deployment] = field(default_factory=list)
    strategy: str = "adaptive"
    policy: Policy = Policy()
    #: How often a target was chosen here; round robin counts on.
    turn: int = 0
