"""Which models an upstream has: configured, or asked for now and then in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from one_api.errors import UpstreamError
from one_api.models.adapters.base import ModelInfo

logger = logging.getLogger(__name__)

#: How long one question for the model list may take, in seconds.
DISCOVERY_TIMEOUT_S = 10.0
#: More models than this from one upstream are not kept.
MOST_MODELS = 10_000
#: Pause after a failed question: doubles from the first to the last, in seconds.
_RETRY_S = (0.5, 10.0)


class Discovery:
    """The models of the adapter ``name``: those of ``configured``, or what ``ask`` returned last.

    ``ask`` raises UpstreamError; what was known stays when it does. ``pending`` says why nothing is known yet.
    With ``ask_anyway`` it is called for what else it learns when the models are configured, too: nobody waits for that.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[list[ModelInfo]]],
        configured: Iterable[str] | None,
        interval_s: float,
        *,
        ask_anyway: bool = False,
    ) -> None:
        self._name = name
        self._ask = ask
        self._wanted = configured is None
        self._asks = self._wanted or ask_anyway
        self._interval_s = interval_s
        self.models = {model: ModelInfo(model, name) for model in configured or ()}
        self.pending: str | None = "its models are not known yet" if self._wanted else None
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask, on the running loop, unless there is nothing to learn."""
        if self._asks and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_asking())

    async def settled(self, timeout_s: float) -> None:
        """Wait for the end of the first question that the models depend on, at most ``timeout_s``."""
        if self._wanted and self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._tried.wait()

    async def _keep_asking(self) -> None:
        pause_s, longest_s = _RETRY_S
        while True:
            try:
                found = await self._ask()
            except UpstreamError as error:
                if self.pending is not None and self.pending != error.message:
                    self.pending = error.message
                    logger.warning("adapter %s: its model list cannot be had: %s", self._name, error.message)
                wait_s, pause_s = pause_s, min(pause_s * 2, longest_s)
                if not self._wanted:  # many servers have no list: they are not to be pestered
                    wait_s = self._interval_s
            else:
                if self.pending is not None:
                    logger.info("adapter %s: %d models", self._name, len(found))
                if self._wanted:
                    self.models, self.pending = {info.id: info for info in found[:MOST_MODELS]}, None
                wait_s, pause_s = self._interval_s, _RETRY_S[0]
            self._tried.set()
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
