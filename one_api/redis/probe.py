"""A few questions to a Redis, outside of any event loop: whether it can be used, and how fast it is."""

import time
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

#: Writes a key, as all that is kept there is written.
_WRITE, _KEY = "return redis.call('SET', KEYS[1], '', 'PX', 1)", "one_api:probe"


class ProbeFailed(Exception):
    """A Redis cannot be used: ``what`` is wrong, and ``fix`` says what to do. Neither holds its address."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Probe:
    """What a Redis that can be used is like."""

    #: How long it takes to answer on an open connection, in seconds: the best of three.
    latency_s: float
    #: It may throw away what it keeps, to save memory.
    evicts: bool


def probe(url: str, timeout_s: float) -> Probe:
    """Ask a Redis to answer, and to write by a script.

    Raises:
        ProbeFailed: when it gives no answer within ``timeout_s``, or refuses.
    """
    try:
        # The connection counts as open after the first answer: only later ones are measured.
        with Redis.from_url(url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None) as client:
            client.ping()
            taken_s = min(_ping_s(client) for _ in range(3))
            client.eval(_WRITE, 1, _KEY)
            return Probe(taken_s, _evicts(client))
    except AuthenticationError:
        raise ProbeFailed("Redis refuses the password", "Write it into the address: redis://:PASSWORD@HOST") from None
    except NoPermissionError:
        fix = "Give it a password in the address, or allow `+@all ~one_api:*` with ACL SETUSER"
        raise ProbeFailed("Redis does not let this user do what is needed", fix) from None
    except ReadOnlyError:
        raise ProbeFailed("Redis takes no writes, as a replica does", "Name its primary in the address") from None
    except OutOfMemoryError:
        raise ProbeFailed("Redis has no memory left", "Raise its `maxmemory`, or empty it") from None
    except ResponseError as error:
        fix = "Look at its log, and at the number of the database at the end of the address"
        raise ProbeFailed(f"Redis refuses to answer ({type(error).__name__})", fix) from None
    except (RedisError, OSError, ValueError) as error:
        tls = " (rediss:// only if it uses TLS)" if url.startswith("rediss:") else ""
        fix = f"Start it, or correct the address{tls}; until then each process counts and caches by itself"
        raise ProbeFailed(f"Redis does not answer ({type(error).__name__})", fix) from None


def _evicts(client: Redis) -> bool:
    """Return whether it may throw keys away; what it does not say is taken for no."""
    try:
        memory = client.info("memory")
    except ResponseError:
        return False
    return bool(memory.get("maxmemory")) and memory.get("maxmemory_policy", "noeviction") != "noeviction"


def _ping_s(client: Redis) -> float:
    started = time.monotonic()
    client.ping()
    return time.monotonic() - started
