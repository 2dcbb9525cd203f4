"""Names of tools and ids of calls that Anthropic accepts, for those that it does not.

Both are functions of the request alone: the same history gives the same names, which the upstream's cache needs.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping

_LEGAL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_LEGAL_ID = re.compile(r"[a-zA-Z0-9_-]+")
#: How much of an illegal name is kept before its hash.
_NAME_PREFIX = 48


def tool_names(names: Iterable[str]) -> Mapping[str, str]:
    """Return the upstream's name for each of the client's; a legal name is its own, and no two are the same."""
    wanted = list(dict.fromkeys(names))
    found = {name: name for name in wanted if _LEGAL_NAME.fullmatch(name)}
    taken = set(found)
    for name in wanted:
        if name not in found:
            found[name] = _free_name(name, taken)
            taken.add(found[name])
    return found


def _free_name(name: str, taken: set[str]) -> str:
    """Return a safe prefix and as much of the name's hash as makes it differ from all that are taken."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    prefix = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:_NAME_PREFIX] or "tool"
    hashed = (f"{prefix}_{digest[:digits]}" for digits in range(8, 65, 8))
    # If other tools already have all of these names, a number is added; one of them is always free.
    numbered = (f"{prefix}_{digest}_{n}" for n in itertools.count(2))
    return next(candidate for candidate in itertools.chain(hashed, numbered) if candidate not in taken)


class CallIds:
    """Gives each tool call of one history an id of its own, in the order of the history."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._times: dict[str, int] = {}

    def give(self, client_id: str) -> str:
        """Return the id to send: the client's own when it is legal and new."""
        base = client_id
        if not _LEGAL_ID.fullmatch(client_id):
            base = f"call_{hashlib.sha256(client_id.encode()).hexdigest()[:24]}"
        given = base
        while given in self._given:
            self._times[base] = self._times.get(base, 1) + 1
            given = f"{base}_{self._times[base]}"
        self._given.add(given)
        return given
