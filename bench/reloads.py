"""`make reloads`: reloads and killed workers under open streams. What is cut, what is refused, what is out of date?"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench import procfs
from bench.console import exit_status, progress
from bench.target import BenchError
from tests.support import Gateway, RawClient, ScriptedUpstream, Wait, build_request, post_chat, sse, text_chunks

T = TypeVar("T")

WORKERS, STREAMS, RELOADS, KILLS = 2, 100, 100, 60
#: How long each stream goes on, in seconds.
STREAM_S = 3.0
#: Between two reloads, in seconds.
PAUSE_S = 0.1
#: How long every process may take to use what was written, in seconds.
MAX_TAKEN_S = 10.0
KEY, ADMIN = "test-key", [("Authorization", "Bearer admin-key")]


@dataclass
class Clients:
    """Streams that follow each other, so many at a time; counts how they ended."""

    gateway: Gateway
    ended: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask for one stream after the other until it is enough."""
        while not self.stopped.is_set():
            self.ended[self._one()] += 1

    def _one(self) -> str:
        body = {"model": "slow", "messages": [{"role": "user", "content": "x"}], "stream": True}
        try:
            with RawClient(self.gateway.host, self.gateway.port, timeout_s=30.0) as client:
                client.send(post_chat(self.gateway.host, self.gateway.port, body, KEY))
                head = client.read_head()
                if head.status != 200:
                    return f"refused {head.status}"
                return "whole" if list(client.iter_events(head))[-1] == "data: [DONE]" else "cut"
        except (OSError, EOFError):
            return "cut"


def configuration(gateway: Gateway, upstream: ScriptedUpstream, number: int) -> str:
    """Return the file for the reload of this number: each adds another model, and changes a weight and a time-out."""
    adapter = {"type": "openai", "base_url": upstream.base_url, "models": ["slow", f"m-{number}"], "weight": 1 + number}
    sections = {
        "server": {"workers": WORKERS, "host": gateway.host, "port": gateway.port},
        "adapters": {"a": adapter | {"timeouts": {"idle_s": 30 + number % 2}}},
        "rate_limit": {"enabled": False},
    }
    return json.dumps(sections)


def processes(gateway: Gateway) -> list[dict[str, Any]]:
    """Return what every process says of its configuration; nothing while one is just dying."""
    try:
        with RawClient(gateway.host, gateway.port, timeout_s=10.0) as client:
            client.send(build_request("GET", "/admin/config", gateway.host, gateway.port, headers=ADMIN))
            found: list[dict[str, Any]] = json.loads(client.read_response().body)["processes"]
            return found
    except (OSError, EOFError):
        return []


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; raises BenchError when it takes too long."""
    deadline = time.monotonic() + MAX_TAKEN_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {MAX_TAKEN_S} s for {what}")
        time.sleep(0.05)


def digests(gateway: Gateway) -> set[str]:
    """Return the digests in use once every worker answers."""
    wait_until(lambda: len(processes(gateway)) == WORKERS, "every worker to answer")
    return {each["digest"] for each in processes(gateway)}


def reload_often(gateway: Gateway, upstream: ScriptedUpstream, count: int) -> None:
    """Write and ring so often; at the end every process has to use the last file."""
    first = digests(gateway)
    for number in range(1, count + 1):
        written = gateway.config_path.with_name("next.yaml")
        written.write_text(configuration(gateway, upstream, number))
        written.replace(gateway.config_path)
        gateway.hang_up()
        time.sleep(PAUSE_S)
    wait_until(lambda: len(digests(gateway)) == 1 and digests(gateway) != first, "the last file to win")


def kill_often(gateway: Gateway, count: int) -> int:
    """Kill a worker so often, with a bad file in place; each that follows has to use what was applied last.

    Returns how many connections the killed ones held.
    """
    before, held = digests(gateway), 0
    gateway.config_path.write_text("adapters: [")
    for _ in range(count):
        pid = gateway.worker_pids(at_least=WORKERS)[0]
        os.kill(pid, signal.SIGSTOP)  # it takes no more of them
        held += procfs.connections(pid, gateway.port)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pid not in gateway.worker_pids(0), "the worker to be gone")  # type: ignore[misc]
        gateway.worker_pids(at_least=WORKERS, timeout_s=MAX_TAKEN_S)
        if digests(gateway) != before:
            raise BenchError("a worker that started later uses another configuration")
    return held


def under_streams(gateway: Gateway, streams: int, act: Callable[[], T]) -> tuple[Counter[str], T]:
    """Return how the streams ended that were open while ``act`` ran, and what it returned."""
    clients = Clients(gateway)
    threads = [threading.Thread(target=clients.run) for _ in range(streams)]
    for thread in threads:
        thread.start()
    try:
        done = act()
    finally:
        clients.stopped.set()
        for thread in threads:
            thread.join()
    return clients.ended, done


def main() -> int:
    """Run both; returns the exit code: reloads cut and refuse nothing, kills cut only what the killed ones held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=RELOADS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args()
    chunks = text_chunks(*"abcdef")
    with ScriptedUpstream(["slow"]) as upstream:
        upstream.on("slow", sse(*(each for chunk in chunks for each in (chunk, Wait(STREAM_S / len(chunks))))))
        gateway = Gateway(start_timeout_s=60.0)
        gateway.config_yaml = configuration(gateway, upstream, 0)
        with gateway:
            gateway.worker_pids(at_least=WORKERS)
            progress(f"{options.reloads} reloads under {options.streams} streams")
            reloads, _ = under_streams(
                gateway, options.streams, lambda: reload_often(gateway, upstream, options.reloads)
            )
            progress(f"{options.kills} killed workers under {options.streams} streams")
            kills, held = under_streams(gateway, options.streams, lambda: kill_often(gateway, options.kills))
    print(f"reloads: {dict(reloads)}\nkills:   {dict(kills)}; the killed workers held {held}")
    return 0 if set(reloads) == {"whole"} and set(kills) <= {"whole", "cut"} and kills["cut"] <= held else 1


if __name__ == "__main__":
    sys.exit(exit_status(main))
