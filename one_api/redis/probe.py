"""A few questions to a Redis, outside of any event loop: whether it can be used, and how fast it is."""

import time
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from one_api.redis.problems import problem_of

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
    except (RedisError, OSError, ValueError) as error:
        problem = problem_of(error)
        raise ProbeFailed(f"{problem.what} ({type(error).__name__})", problem.fix) from None


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
