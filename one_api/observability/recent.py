"""The last requests of this process, for people that look into a problem."""

from collections import deque
from itertools import islice

import msgspec

from one_api.records import CallRecord

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(CallRecord).decode
#: A kept record is no larger: names and warnings are as long as clients and upstreams make them.
_MAX_PACKED_BYTES = 16 * 1024


class RecentCalls:
    """Keeps the last chat requests of this process, for people that look into a problem.

    Each record is kept in one piece of bytes: small objects that stay would pin the memory of those that do not.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._packed: deque[bytes] = deque(maxlen=capacity)

    def on_call(self, record: CallRecord) -> None:
        """Keep the record of a request that named a model, unless it is absurdly large."""
        if record.model is not None and len(packed := _pack(record)) <= _MAX_PACKED_BYTES:
            self._packed.append(packed)

    def of(self, model: str, most: int) -> list[CallRecord]:
        """Return the last ones for a model, newest first."""
        found = (record for record in map(_unpack, reversed(self._packed)) if record.model == model)
        return list(islice(found, most))
