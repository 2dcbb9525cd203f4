"""`make limits`: 200 requests race for a limit of 50, again and again, on a machine that is loaded meanwhile."""

import argparse
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.console import exit_status, progress
from bench.report import table
from tests.limits.conftest import redis_at
from tests.support import Gateway, RawClient, ScriptedUpstream, post_chat
from tests.support.busy import busy_machine
from tests.support.gateway import free_port

LIMIT, REQUESTS, CLIENTS = 50, 200, 50
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
#: Where counts are kept -> how many workers race; memory is one process's own.
WORKERS = {"shared": 4, "redis": 4, "memory": 1}


def races(storage: str, workers: int, count: int) -> list[int]:
    """Return how many requests each race let in. Each has a key of its own."""
    keys = [f"sk-race-{number}" for number in range(count)]
    with ScriptedUpstream(models=["m"]) as upstream:
        config = (
            f"adapters: {{a: {{type: openai, base_url: '{upstream.base_url}', api_key: k, models: [m]}}}}\n"
            f"rate_limit: {{requests_per_minute: {LIMIT}, storage: '{storage}', storage_timeout_s: 5}}\n"
        )
        env = {"WEB_CONCURRENCY": str(workers), "API_KEYS": ",".join(keys)}
        with (
            Gateway(config_yaml=config, env=env, start_timeout_s=120) as gateway,
            busy_machine(),
            ThreadPoolExecutor(CLIENTS) as clients,
        ):
            gateway.worker_pids(workers, timeout_s=60)
            return [race(gateway, key, clients) for key in keys]


def race(gateway: Gateway, key: str, clients: ThreadPoolExecutor) -> int:
    """Send all requests at once; returns how many were let in."""
    begin = threading.Barrier(CLIENTS)

    def ask(number: int) -> int:
        if number < CLIENTS:
            begin.wait(60)
        with RawClient(gateway.host, gateway.port, timeout_s=120) as client:
            client.send(post_chat(gateway.host, gateway.port, BODY, key=key))
            return client.read_response().status

    counts = Counter(clients.map(ask, range(REQUESTS)))
    if set(counts) - {200, 429}:
        raise RuntimeError(f"unexpected answers: {dict(counts)}")
    return counts[200]


def main() -> int:
    """Run the races, and print what each storage let in; fails unless every race was exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=20, help="races for each storage")
    count = parser.parse_args().races
    rows, exact = [], True
    for kind, workers in WORKERS.items():
        progress(f"{count} races, counts in {kind}")
        with TemporaryDirectory() as folder, redis_at(free_port(), Path(folder)) as (url, _):
            admitted = races(url if kind == "redis" else kind, workers, count)
        right = sum(each == LIMIT for each in admitted)
        exact = exact and right == count
        rows.append([kind, str(workers), f"{right} of {count}", ", ".join(map(str, sorted(set(admitted))))])
    print(table(["counts in", "processes", "exact", "let in"], rows))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
