"""What makes two requests the same: the key of an answer.

An unknown field makes a difference: a field that could change an answer must never be left out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: Part of every key: raise it when the stored format changes. Old entries are then not found any more.
SCHEMA_VERSION = 1
#: Fields that do not change the answer: how it is delivered (``stream``, ``stream_options``), the end user, labels,
#: and where the provider keeps its own cache. ``model`` is in the key as the route it leads to.
LEFT_OUT = frozenset(
    {
        "model", "stream", "stream_options", "user", "metadata", "safety_identifier",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RouteFingerprint:
    """The part of the key that depends on the route: the model's name, and the deployments behind it.

    ``deployments`` holds the name and the address of each, targets first; ``targets`` is the number of targets.
    """

    model: str
    deployments: Sequence[Sequence[str]]
    targets: int


def key_of(caller: str | None, fingerprint: RouteFingerprint, body: JSONObject) -> bytes:
    """Return the key (SHA-256) of the answer to ``body``.

    Args:
        caller: the caller that may get the answer; None if all callers share it.
        fingerprint: the route of the request.
        body: the request.
    """
    asked = {name: value for name, value in body.items() if name not in LEFT_OUT}
    # As one JSON text, so that no value can pass for the end of another.
    whole = [SCHEMA_VERSION, caller, fingerprint.model, fingerprint.targets, list(fingerprint.deployments), asked]
    return hashlib.sha256(json.canonical(whole)).digest()
