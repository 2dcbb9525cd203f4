"""Names of upstreams, looked up by the system: each at most for a while, and never two times at once.

The system's own look-up blocks a thread and may take half a minute. It gets a thread of its own here, one per host,
so that a name server that is silent for one host holds up neither another host nor the end of the process. While it
is silent or failing, the addresses that it gave last are used on.
"""

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

from one_api.errors import OutOfDescriptors

#: How long a request waits for a look-up, in seconds.
LOOKUP_S = 2.0
#: How long a name that was not found is taken for not existing, in seconds.
_NEGATIVE_S = 5.0
#: The system's words for a name that does not exist, as against a name server that does not answer.
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

Look: TypeAlias = Callable[..., list[Any]]
Place: TypeAlias = tuple[str, int, int]


class BoundedResolver(AbstractResolver):
    """Looks names up in threads, one per name. As many names as upstreams are configured: nothing grows."""

    def __init__(self, look: Look = socket.getaddrinfo, lookup_s: float = LOOKUP_S) -> None:
        self._look = look
        self._lookup_s = lookup_s
        self._running: dict[Place, asyncio.Future[list[ResolveResult]]] = {}
        #: When a failure is forgotten, in monotonic seconds, and the failure.
        self._failed: dict[Place, tuple[float, OSError]] = {}
        #: What was found last.
        self._found: dict[Place, list[ResolveResult]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``; raises OSError, also when that takes too long.

        Unless the name does not exist any more, those that were found last do as well as none.
        """
        place = (host, port, int(family))
        try:
            return await self._look_up_once(place)
        except OSError as error:
            if place not in self._found or error.errno in _NO_SUCH_NAME or error.errno == errno.EMFILE:
                raise
            return self._found[place]

    async def _look_up_once(self, place: Place) -> list[ResolveResult]:
        """Wait for the look-up of a name that is under way, or for a new one."""
        until, error = self._failed.get(place, (0.0, OSError()))
        if time.monotonic() < until:
            raise OSError(*error.args)
        running = self._running.get(place)
        if running is None:
            running = self._running[place] = self._start(place)
        try:
            async with asyncio.timeout(self._lookup_s):
                return await asyncio.shield(running)
        except TimeoutError:
            raise OSError(f"looking up the name took longer than {self._lookup_s:g} s") from None

    def _start(self, place: Place) -> "asyncio.Future[list[ResolveResult]]":
        """Begin a look-up; its outcome is noted when it comes, however late."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()
        found.add_done_callback(lambda done: self._note(place, done))

        def finish(answer: list[ResolveResult] | OSError) -> None:
            if not found.done():
                found.set_exception(answer) if isinstance(answer, OSError) else found.set_result(answer)

        def run() -> None:
            answer = self._look_up(place)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(finish, answer)

        threading.Thread(target=run, name=f"look-up-{place[0][:32]}", daemon=True).start()
        return found

    def _look_up(self, place: Place) -> list[ResolveResult] | OSError:
        """Ask the system, in a thread; what it raises is the waiting requests'."""
        host, port, family = place
        try:
            return _entries(host, self._look(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG))
        except OSError as error:
            # The system's own words for it may be "temporary failure": the error has to say that it is our limit.
            return OSError(errno.EMFILE, "no file descriptor is left") if _lacks_descriptors() else error
        except ValueError as error:  # no name at all, such as one with an empty label
            return OSError(f"not a name: {error}")

    def _note(self, place: Place, done: "asyncio.Future[list[ResolveResult]]") -> None:
        del self._running[place]
        error = None if done.cancelled() else done.exception()
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            self._failed[place] = (time.monotonic() + _NEGATIVE_S, error)
        else:
            self._failed.pop(place, None)
        if error is None and not done.cancelled():
            self._found[place] = done.result()

    async def close(self) -> None:
        """Nothing is held; a look-up under way ends by itself."""


class Unresolved(AbstractResolver):
    """Looks nothing up: a proxy does."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the name as if it were its address."""
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""


def _lacks_descriptors() -> bool:
    """Return whether this process may open nothing more."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return OutOfDescriptors.is_cause(error)
    return False


def _entries(host: str, found: list[Any]) -> list[ResolveResult]:
    """Return what ``getaddrinfo`` has found as aiohttp wants it; scoped addresses are left out."""
    return [
        ResolveResult(
            hostname=host,
            host=address[0],
            port=address[1],
            family=family,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for family, _, proto, _, address in found
        if not (family == socket.AF_INET6 and len(address) > 3 and address[3])
    ]
