"""`make scale`: what so many gateways ask of Redis, of PostgreSQL, of Prometheus and of an upstream that is down.

Redis's CPU for a request is measured here, with a Redis and a gateway of our own, unless it is given; the rest follows
from the code's own constants and from what is assumed of the traffic. docs/scaling.md shows the table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from bench.console import exit_status, progress
from bench.report import table
from bench.target import BenchError
from one_api.accounts.keyring import POLL_S
from one_api.routing.circuit import FAILURES_IN_A_ROW, FIRST_COOLDOWN_S, MAX_COOLDOWN_S
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.sections import RetryConfig
from tests.limits.conftest import redis_at
from tests.support import Gateway, RawClient, ScriptedUpstream, post_chat
from tests.support.gateway import free_port

REPLICAS = (10, 100, 1000)
CLIENTS, REQUESTS, KEYS = 8, 4_000, 4
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one request or one replica (a gateway of one process) costs; times in microseconds where they say so."""

    redis_us: float
    """Redis's CPU for one request whose limits are there."""

    requests_per_s: float = 200.0
    """Of one replica."""

    seconds_in_flight: float = 5.0
    """How long a request is under way."""

    connections: int = 2
    """To PostgreSQL: one that writes the ledger, and one that reads the keys."""

    series: int = 2_700
    """In Prometheus, with 20 models and 40 deployments."""

    max_concurrency: int = 1_000
    """Of a deployment, in each process."""


def rows(costs: Costs) -> list[tuple[str, Callable[[int], float]]]:
    """Return the rows of the table: what is counted, and how much of it there is for a number of replicas."""
    retry, discovery_s = RetryConfig(), OpenAIConfig().discovery_interval_s
    in_flight = costs.requests_per_s * costs.seconds_in_flight
    return [
        ("requests per second", lambda n: n * costs.requests_per_s),
        ("Redis: cores", lambda n: n * costs.requests_per_s * costs.redis_us / 1e6),
        ("PostgreSQL: connections", lambda n: n * costs.connections),
        ("PostgreSQL: looks at the keys, per second", lambda n: n / POLL_S),
        ("PostgreSQL: rows of the ledger, per second", lambda n: n * costs.requests_per_s),
        ("an upstream dies: failures until all know", lambda n: n * FAILURES_IN_A_ROW),
        ("probes to it, per second, in the first seconds", lambda n: n / FIRST_COOLDOWN_S),
        ("probes later, where it refuses", lambda n: n / MAX_COOLDOWN_S[0]),
        ("probes later, where it is silent", lambda n: n / MAX_COOLDOWN_S[1]),
        ("retries under way, at most", lambda n: n * max(retry.min_concurrent, in_flight * retry.budget)),
        ("model lists asked for, per second and adapter", lambda n: n / discovery_s),
        ("requests at a time to one deployment, at most", lambda n: n * costs.max_concurrency),
        ("series in Prometheus", lambda n: n * costs.series),
    ]


def redis_us_per_request() -> float:
    """Measure Redis's CPU for one request of a busy key, by its own count of the time in each command."""
    keys = [f"sk-scale-{number}" for number in range(KEYS)]
    with (
        ScriptedUpstream(models=["m"]) as upstream,
        TemporaryDirectory() as folder,
        redis_at(free_port(), Path(folder)) as (url, _),
        closing(Redis.from_url(url)) as redis,
    ):
        config = (
            f"adapters: {{a: {{type: openai, base_url: '{upstream.base_url}', api_key: k, models: [m]}}}}\n"
            f"rate_limit: {{requests_per_minute: 1000000, storage: '{url}'}}\n"
        )
        with Gateway(config_yaml=config, env={"API_KEYS": ",".join(keys)}) as gateway:
            _ask(gateway, keys, CLIENTS * 50)
            redis.config_resetstat()
            _ask(gateway, keys, REQUESTS)
            spent = redis.info("commandstats")
    return float(sum(each["usec"] for each in spent.values())) / REQUESTS


def _ask(gateway: Gateway, keys: Sequence[str], count: int) -> None:
    """Send so many requests over a few connections, with the keys in turn."""

    def client(number: int) -> None:
        with RawClient(gateway.host, gateway.port, timeout_s=30) as connection:
            for turn in range(count // CLIENTS):
                key = keys[(number + turn) % len(keys)]
                connection.send(post_chat(gateway.host, gateway.port, BODY, key))
                if (status := connection.read_response().status) != 200:
                    raise BenchError(f"a request was answered {status}")

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))


def short(value: float) -> str:
    """Return a number with two digits that count, and with commas."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def main() -> int:
    """Measure what is not given, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--redis-us", type=float, help="Redis's CPU for a request, in microseconds; else it is measured"
    )
    parser.add_argument("--requests-per-s", type=float, default=Costs.requests_per_s, help="of one replica")
    parser.add_argument(
        "--seconds", type=float, default=Costs.seconds_in_flight, help="how long a request is under way"
    )
    parser.add_argument("--series", type=int, default=Costs.series, help="in Prometheus, of one replica")
    given = parser.parse_args()
    redis_us = given.redis_us
    if redis_us is None:
        progress(f"{REQUESTS} requests with limits in Redis")
        redis_us = redis_us_per_request()
    costs = Costs(
        redis_us=redis_us, requests_per_s=given.requests_per_s, seconds_in_flight=given.seconds, series=given.series
    )
    print(f"Redis: {redis_us:.0f} us of CPU for a request, {1e6 / redis_us:,.0f} requests/s for one of its cores\n")
    heads = ["replicas", *(f"{n:,}" for n in REPLICAS)]
    print(table(heads, [[name, *(short(count(n)) for n in REPLICAS)] for name, count in rows(costs)]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
