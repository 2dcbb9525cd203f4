"""Which models an upstream has: configured, or asked for now and then in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from one_api.contract import ModelInfo
from one_api.dialects.json import JSONObject
from one_api.errors import UpstreamBroken, UpstreamError
from one_api.serving.tasks import stop

logger = logging.getLogger(__name__)

#: How long one question for the model list may take, in seconds.
DISCOVERY_TIMEOUT_S = 10.0
#: More models than this from one upstream are not kept.
MAX_MODELS = 10_000
#: Pause after a failed question: doubles from the first to the last, in seconds.
_RETRY_S = (0.5, 10.0)
#: Where servers keep their list, and what they call the id of an entry; the first that is there counts.
_LISTS = ("data", "models", "items", "results", "result", "body")
_IDS = ("id", "name", "model", "model_name", "modelId", "model_id", "slug", "key")
#: Lists in which no models are.
_NO_LISTS = frozenset({"errors", "error", "messages", "warnings"})


def entries_of(listing: Any) -> list[JSONObject]:
    """Return the entries of a model list in any of the shapes that servers use, each with a text as its ``id``.

    A bare array; an array under any name (Ollama: ``models``; AWS: ``modelSummaries``), null for an empty one (Go's
    servers), or one level deeper; an object with the ids as its keys. Entries are objects, or the ids themselves.

    Raises:
        UpstreamBroken: when it is none of these, or holds entries and no id.
    """
    found = _listed(listing)
    if found is None:
        raise UpstreamBroken("The upstream's model list has no known shape: list its models in the configuration.")
    entries = [entry for each in found[:MAX_MODELS] if (entry := _entry(each)) is not None]
    if found and not entries:
        raise UpstreamBroken("The upstream's model list names no model: list its models in the configuration.")
    return entries


def _listed(value: Any, levels: int = 2) -> list[Any] | None:
    """Return the array that a model list holds, not more than ``levels`` deep; None when there is none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not levels:
        return None
    for name in _LISTS:
        inner = value.get(name)
        if (found := _listed(inner, levels - 1)) is not None:
            return found
        if isinstance(inner, dict) and all(isinstance(each, dict) for each in inner.values()):
            return [{"id": key} | each for key, each in inner.items()]
    if any(name in value and value[name] is None for name in _LISTS):
        return []
    others = (inner for name, inner in value.items() if name not in _NO_LISTS and isinstance(inner, list))
    return next((inner for inner in others if any(map(_entry, inner))), None)


def _entry(value: Any) -> JSONObject | None:
    """Return an entry with its ``id``; None when it names no model."""
    entry = {"id": value} if isinstance(value, str) else value
    if not isinstance(entry, dict):
        return None
    model = next((entry[name] for name in _IDS if isinstance(entry.get(name), str) and entry[name]), None)
    return None if model is None else entry | {"id": model}


class Discovery:
    """The models of the adapter ``name``: those of ``configured``, or what ``ask`` returned last.

    ``ask`` raises UpstreamError; what was known stays when it does. ``pending`` says why nothing is known yet.
    With ``ask_anyway`` it is called also when the models are configured, for what else it learns: no request waits.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[list[ModelInfo]]],
        configured: Iterable[ModelInfo] | None,
        interval_s: float,
        *,
        ask_anyway: bool = False,
    ) -> None:
        self._name = name
        self._ask = ask
        self._wanted = configured is None
        self._asks = self._wanted or ask_anyway
        self._interval_s = interval_s
        self.models = {info.id: info for info in configured or ()}
        self.pending: str | None = "its models are not known yet" if self._wanted else None
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def inherit(self, before: "Discovery") -> None:
        """Begin with the models that another one has been answered with."""
        if self._wanted and before._wanted and before.pending is None:
            self.models, self.pending = before.models, None

    def start(self) -> None:
        """Begin to ask, on the running loop, unless there is nothing to learn."""
        if self._asks and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_asking())

    async def wait_discovered(self, timeout_s: float) -> None:
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
                    logger.debug("adapter %s: %d models", self._name, len(found))
                if self._wanted:
                    self.models, self.pending = {info.id: info for info in found[:MAX_MODELS]}, None
                wait_s, pause_s = self._interval_s, _RETRY_S[0]
            self._tried.set()
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """Stop asking."""
        await stop(self._task)
        self._task = None
