"""One question to a Redis, outside of any event loop: whether it can be used, and how fast it is."""

import time

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError


class ProbeFailed(Exception):
    """A Redis cannot be used: ``what`` is wrong, and ``fix`` says what to do. Neither holds its address."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


def latency_s(url: str, timeout_s: float) -> float:
    """Return how long Redis takes to answer on an open connection, in seconds: the best of three.

    Raises:
        ProbeFailed: when it gives no answer within ``timeout_s``, or refuses.
    """
    try:
        # The connection counts as open after the first answer: only later ones are measured.
        with Redis.from_url(url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None) as client:
            client.ping()
            return min(_ping_s(client) for _ in range(3))
    except (AuthenticationError, NoPermissionError):
        raise ProbeFailed("Redis refuses the password", "Write it into the address: redis://:PASSWORD@HOST") from None
    except ResponseError as error:
        fix = "Look at its log, and at the number of the database at the end of the address"
        raise ProbeFailed(f"Redis refuses to answer ({type(error).__name__})", fix) from None
    except (RedisError, OSError, ValueError) as error:
        tls = " (rediss:// only if it uses TLS)" if url.startswith("rediss:") else ""
        fix = f"Start it, or correct the address{tls}; until then each process counts and caches by itself"
        raise ProbeFailed(f"Redis does not answer ({type(error).__name__})", fix) from None


def _ping_s(client: Redis) -> float:
    started = time.monotonic()
    client.ping()
    return time.monotonic() - started
