"""What a door's dialect writes of one streamed answer, as server-sent events."""

from abc import ABC, abstractmethod
from typing import ClassVar

from one_api.contract import JSONObject
from one_api.errors import GatewayError


class EventWriter(ABC):
    """Writes one streamed answer in the dialect of a door. It is pure: no waiting, no clock.

    The calls come in this order: ``begin`` once, then ``write`` and ``heartbeat`` as often as need be, then ``end`` or
    ``fail`` once. After ``fail`` a client must be able to see that the answer is not complete.
    """

    #: ``write`` writes each chunk for itself, whatever came before it.
    is_stateless: ClassVar[bool] = False

    #: The longest silence, in seconds, where the operator allows a longer one.
    heartbeat_s: ClassVar[float] = float("inf")

    #: The whole answer, once it is to be kept before the client learns of its end: the event of the end is not
    #: in what ``end`` and ``fail`` return, and waits for ``last``.
    to_keep: JSONObject | None = None

    @abstractmethod
    def begin(self) -> bytes:
        """Return what goes out before everything else, perhaps before there is any content; may be nothing."""

    @abstractmethod
    def heartbeat(self) -> bytes:
        """Return what keeps a silent stream alive, and what clients ignore."""

    @abstractmethod
    def write(self, chunks: list[JSONObject]) -> bytes:
        """Return the events that chunks of the stream amount to; may be nothing."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the last events of a complete answer."""

    @abstractmethod
    def fail(self, error: GatewayError) -> bytes:
        """Return the last events of an answer that is not complete; ``error`` says why."""

    def last(self, *, kept: bool) -> bytes:
        """Return the event that has waited, if there is one; ``kept`` says whether the answer is kept."""
        return b""
