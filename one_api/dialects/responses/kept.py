"""What is kept of a response so that its client can read it again and go on from it."""

from dataclasses import dataclass

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: A conversation of more responses than this cannot be gone on from.
MAX_LINKS = 1000
#: And none whose items take more bytes than this, as JSON.
MAX_CHAIN_BYTES = 32 * 1024 * 1024
#: Statuses that a conversation can go on from.
GOES_ON = ("completed", "incomplete")


class ChainTooLong(Exception):
    """A conversation has become longer than any request may be."""


@dataclass(slots=True)
class KeptResponse:
    """One response as it was given, with the items that were sent for it."""

    owner: str
    parent: str | None
    status: str
    #: As JSON: the response object, and the list of items.
    response: bytes
    items: bytes
    #: In seconds of the clock of whatever keeps it.
    expires: float = 0.0

    @property
    def size(self) -> int:
        """Return what it takes, in bytes."""
        return len(self.response) + len(self.items)

    def read(self) -> JSONObject:
        """Return the response object."""
        return json.decode_object(self.response)

    def input(self) -> list[JSONObject]:
        """Return the items that were sent for it."""
        return list(json.decode(self.items))

    def all_items(self) -> list[JSONObject]:
        """Return the items that were sent for it, and then its own."""
        return [*self.input(), *self.read()["output"]]


def kept(owner: str, response: JSONObject, items: list[JSONObject], expires: float = 0.0) -> KeptResponse:
    """Return what is to be kept of a response object."""
    parent, status = response["previous_response_id"], response["status"]
    return KeptResponse(owner, parent, status, json.encode(response), json.encode(items), expires)
