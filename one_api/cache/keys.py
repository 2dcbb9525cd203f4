"""What makes two requests the same: the key of an answer.

An unknown field makes a difference: a field that could change an answer must never be left out.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Self

from msgspec import Struct

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.routing.route import Route
from one_api.settings.adapters import AdapterConfig

#: Part of every key: raise it when the stored format changes. Old entries are then not found any more.
SCHEMA_VERSION = 1
#: How many pieces of a long text are hashed in one step.
_PIECES_A_STEP = 16
#: Fields that do not change the answer: how it is delivered (``stream``, ``stream_options``), the end user, labels,
#: and where the provider keeps its own cache. ``model`` is in the key as the route it leads to.
LEFT_OUT = frozenset(
    {
        "model", "stream", "stream_options", "user", "metadata", "safety_identifier",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    }
)  # fmt: skip


class CacheRoute(Struct, frozen=True):
    """What the cache has to know of a route: all of it but ``streams_usage`` is part of the key."""

    model: str
    #: The name and the address of each deployment: targets first, then fallbacks. Another address may answer otherwise.
    deployments: Sequence[tuple[str, str]]
    #: How many of them are targets.
    targets: int
    #: Every deployment sends the usage of a stream, or can be asked for it, whether or not the client wants it.
    streams_usage: bool = True

    @classmethod
    def of(cls, route: Route, adapters: Mapping[str, AdapterConfig]) -> Self:
        """Return it for a route; ``adapters`` are the settings of those behind it."""
        deployments, streams_usage = [], True
        for each in (*route.targets, *route.fallbacks):
            settings = adapters.get(each.adapter_name)
            deployments.append((each.name, str(getattr(settings, "base_url", ""))))
            streams_usage = streams_usage and getattr(settings, "stream_usage", True)
        return cls(route.model, deployments, len(route.targets), streams_usage)

    def is_target(self, deployment: str | None) -> bool:
        """Return whether a deployment of that name serves the model itself, and does not stand in for it."""
        return any(name == deployment for name, _ in self.deployments[: self.targets])


def key_of(caller: str | None, route: CacheRoute, body: JSONObject) -> bytes:
    """Return the key of the answer to ``body``, see ``key_of_large``, in one go."""
    return hashlib.sha256(json.canonical(_whole(caller, route, body))).digest()


def key_of_large(caller: str | None, route: CacheRoute, body: JSONObject) -> Generator[None, None, bytes]:
    """Return the key (SHA-256) of the answer to ``body``, in steps none of which takes long.

    Args:
        caller: the caller that may get the answer; None if all callers share it.
        route: the route of the request.
        body: the request.
    """
    digest = hashlib.sha256()
    for number, piece in enumerate((yield from json.canonical_large(_whole(caller, route, body))), 1):
        digest.update(piece)
        if number % _PIECES_A_STEP == 0:
            yield
    return digest.digest()


def _whole(caller: str | None, route: CacheRoute, body: JSONObject) -> list[Any]:
    asked = {name: value for name, value in body.items() if name not in LEFT_OUT}
    # As one JSON text, so that no value can pass for the end of another.
    return [SCHEMA_VERSION, caller, route.model, route.targets, list(route.deployments), asked]
