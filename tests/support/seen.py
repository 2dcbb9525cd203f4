"""What the scripted upstream remembers of a request."""

import json
import re
import threading
from dataclasses import dataclass, field

from .http1 import Headers, Json

MOMENT_S = 0.01


@dataclass(eq=False)
class Seen:
    """A request as it arrived, and how its exchange went; `arrived_at` is of `time.monotonic()`.

    `closed` is set when the peer closes the connection while the exchange is open, which is until its script is over;
    `ended` is set when the exchange is over, in whichever way. `sent_bytes` counts what the kernel has taken.
    """

    method: str
    path: str
    headers: Headers
    body: bytes
    connection: int
    keep_alive: bool
    arrived_at: float
    closed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    sent_bytes: int = 0

    def closes_within(self, seconds: float) -> bool:
        """Whether the peer closes in so much time in which this process can run.

        It is counted in moments: a machine that stands still, however long, has lost one of them.
        """
        return any(self.closed.wait(MOMENT_S) for _ in range(round(seconds / MOMENT_S)))

    @property
    def json(self) -> Json:
        """The body as JSON; raises ValueError if it is none."""
        return json.loads(self.body)

    @property
    def model(self) -> str:
        """The model asked for, empty if the body names none; a form names it in a field of its own."""
        if (self.headers.first("content-type") or "").startswith("multipart/"):
            field = re.search(rb'name="model"\r\n\r\n([^\r]*)\r\n', self.body)
            return field[1].decode() if field else ""
        try:
            return str(self.json["model"])
        except (ValueError, TypeError, KeyError):
            return ""
