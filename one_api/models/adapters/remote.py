"""What the adapters of servers elsewhere have in common: one door to the upstream, and models asked for there."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from one_api.models.adapters.base import ModelInfo
from one_api.models.adapters.discovery import Discovery
from one_api.models.adapters.request_adapter import RequestAdapter
from one_api.models.adapters.upstream import Upstream


class RemoteAdapter(RequestAdapter):
    """An adapter whose models are those of ``configured``, or what the upstream lists, asked every ``interval_s``."""

    #: Does the list tell more than which models there are, so that it is asked for when they are configured, too?
    list_tells_more: ClassVar[bool] = False

    def __init__(self, name: str, upstream: Upstream, configured: Iterable[str] | None, interval_s: float) -> None:
        self._name = name
        self._upstream = upstream
        self._discovery = Discovery(name, self._ask_for_models, configured, interval_s, ask_anyway=self.list_tells_more)

    @abstractmethod
    async def _ask_for_models(self) -> list[ModelInfo]:
        """Return what the upstream lists; raises UpstreamError."""

    def list_models(self) -> list[ModelInfo]:
        """Return the configured models, or those that the upstream listed last."""
        return list(self._discovery.models.values())

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """Return what the upstream said of one model."""
        return self._discovery.models.get(model_id)

    @property
    def pending(self) -> str | None:
        """Say why no model list has been had yet."""
        return self._discovery.pending

    async def start(self) -> None:
        """Begin to ask for the model list, now and then, unless it is configured."""
        self._discovery.start()

    async def settled(self, timeout_s: float) -> None:
        """Wait for the end of the first question."""
        await self._discovery.settled(timeout_s)

    async def aclose(self) -> None:
        """Stop asking, and close the session."""
        await self._discovery.aclose()
        await self._upstream.aclose()
