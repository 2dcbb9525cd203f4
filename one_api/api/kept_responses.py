"""Responses that clients may read again and go on from: each place for them, and the memory of this process.

Each belongs to the key that made it: for anyone else it is not there, under whichever id it is asked for.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from one_api.bounded import BoundedMap
from one_api.dialects.json import JSONObject
from one_api.dialects.responses.kept import GOES_ON, MAX_CHAIN_BYTES, MAX_LINKS, ChainTooLong, KeptResponse, kept

#: A longer conversation is read beside the loop, in bytes.
_SHORT_BYTES = 64 * 1024
#: One request may refer to items of so many responses.
_MAX_REFERRED = 100
#: So many expired responses are removed at most when one is kept.
_MAX_SWEPT = 100


class ResponseStore(Protocol):
    """A place where responses are kept. What is asked for may raise AccountsUnavailable."""

    async def keep(
        self, owner: str, response: JSONObject, items: list[JSONObject], *, ttl_s: float, max_bytes: int
    ) -> bool:
        """Keep a response with the items that were sent for it; False when that cannot be done, for whatever reason."""

    async def find(self, owner: str, response_id: str) -> KeptResponse | None:
        """Return a response of this owner."""

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; False when this owner has none of that id."""

    async def chain(self, owner: str, response_id: str, ttl_s: float) -> list[KeptResponse] | None:
        """Return a conversation up to a response, the oldest first; None when a part is not kept.

        All of it is kept for ``ttl_s`` from now on.

        Raises:
            ChainTooLong: when it is longer than a request may be.
        """


async def history(store: ResponseStore, owner: str, response_id: str, ttl_s: float) -> list[JSONObject] | None:
    """Return the items of a conversation up to a response; see ``ResponseStore.chain``."""
    links = await store.chain(owner, response_id, ttl_s)
    if links is None:
        return None
    if sum(link.size for link in links) > _SHORT_BYTES:
        return await asyncio.to_thread(_items_of, links)
    return _items_of(links)


def _items_of(links: list[KeptResponse]) -> list[JSONObject]:
    return [item for link in links for item in link.all_items()]


async def find_items(store: ResponseStore, owner: str, item_ids: Iterable[str]) -> dict[str, JSONObject]:
    """Return the items among these that are in responses of this owner; an item's id says of which one."""
    wanted: dict[str, set[str]] = {}
    for item_id in item_ids:
        wanted.setdefault(f"resp_{item_id.partition('_')[2][:32]}", set()).add(item_id)
    found: dict[str, JSONObject] = {}
    for response_id in list(wanted)[:_MAX_REFERRED]:
        if (entry := await store.find(owner, response_id)) is not None:
            found |= {item["id"]: item for item in entry.all_items() if item.get("id") in wanted[response_id]}
    return found


class KeptResponses:
    """Keeps responses in memory up to a number of bytes; those that were longest out of use go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: BoundedMap[str, KeptResponse] = BoundedMap(clock=clock)

    async def keep(
        self, owner: str, response: JSONObject, items: list[JSONObject], *, ttl_s: float, max_bytes: int
    ) -> bool:
        """See ``ResponseStore``: False when it is larger than all that may be kept."""
        entry = kept(owner, response, items)
        self._kept.max_bytes = max_bytes
        self._kept.drop_expired(_MAX_SWEPT)
        return self._kept.put(response["id"], entry, entry.size, ttl_s)

    async def find(self, owner: str, response_id: str) -> KeptResponse | None:
        """See ``ResponseStore``."""
        return self._find(owner, response_id)

    async def delete(self, owner: str, response_id: str) -> bool:
        """See ``ResponseStore``."""
        if self._find(owner, response_id) is None:
            return False
        return self._kept.drop(response_id)

    async def chain(self, owner: str, response_id: str, ttl_s: float) -> list[KeptResponse] | None:
        """See ``ResponseStore``."""
        links: list[KeptResponse] = []
        size = 0
        next_id: str | None = response_id
        while next_id is not None:
            entry = self._find(owner, next_id)
            if entry is None or entry.status not in GOES_ON:
                return None
            links.append(entry)
            size += entry.size
            if len(links) > MAX_LINKS or size > MAX_CHAIN_BYTES:
                raise ChainTooLong
            self._kept.renew(next_id, ttl_s)
            next_id = entry.parent
        return links[::-1]

    def _find(self, owner: str, response_id: str) -> KeptResponse | None:
        entry = self._kept.get(response_id)
        return entry if entry is not None and entry.owner == owner else None
