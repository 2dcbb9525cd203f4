"""What makes two requests the same: the key of an answer.

A field that is not known here makes a difference: what could change an answer must never be left out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: Part of every key: raise it when the form of what is stored changes, and no old entry is found any more.
SCHEMA_VERSION = 1
#: Fields that do not change what a model says: how the answer is delivered (``stream``, ``stream_options``), who the
#: end user is, labels, and where the provider keeps its own cache. ``model`` is in the key as the route it leads to.
LEFT_OUT = frozenset(
    {
        "model", "stream", "stream_options", "user", "metadata", "safety_identifier",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """What an answer depends on beside the request: the model's name, and the deployments that it leads to.

    ``deployments`` name each, and where it is, targets first; ``targets`` says how many those are.
    """

    model: str
    deployments: Sequence[Sequence[str]]
    targets: int


def key_of(caller: str | None, place: Place, body: JSONObject) -> bytes:
    """Return the key (SHA-256) of the answer to ``body``.

    Args:
        caller: whose answer it is; None when everybody shares it.
        place: where the request goes.
        body: the request.
    """
    asked = {name: value for name, value in body.items() if name not in LEFT_OUT}
    # As one JSON text, so that no value can pass for the end of another.
    whole = [SCHEMA_VERSION, caller, place.model, place.targets, list(place.deployments), asked]
    return hashlib.sha256(json.canonical(whole)).digest()
