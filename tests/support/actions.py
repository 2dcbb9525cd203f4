"""What a scripted upstream does with one exchange: a script is a sequence of these actions.

When the script is over the connection is kept for the next request. Nothing after a `Close` or `Reset` is done.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a while. Only where time itself is what is tested; else `WaitFor`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Go on once the test sets the event."""

    event: threading.Event


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait until so many bytes came that no request has claimed yet, and leave them unclaimed.

    With `Reset` it is the upstream that dies inside a request (`ScriptedUpstream.on_connect`), or as the next
    request of a kept connection begins.
    """

    count: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Be silent until the peer closes."""


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with RST; what the peer has not read yet is lost."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with FIN, after all that was sent."""


@dataclass(frozen=True, slots=True)
class Chop:
    """Write the data in pieces of `size` bytes, each flushed, with a pause between two of them."""

    data: bytes
    size: int
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Flood:
    """Write whole pieces, as fast as the peer reads, until at least `total_bytes` are out; see `Seen.sent_bytes`."""

    total_bytes: int
    piece: bytes = b"x" * 65536


Action: TypeAlias = Send | Wait | WaitFor | Receive | Hang | Reset | Close | Chop | Flood
Script: TypeAlias = Sequence[Action]
