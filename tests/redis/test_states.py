"""What `/ready` and the log say of a Redis that cannot be used, with real servers: what is wrong, and no secret."""

import contextlib
import http.client
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.limits.conftest import redis_at
from tests.support import Gateway, RawClient, ScriptedUpstream, freeze, post_chat
from tests.support.gateway import free_port
from tests.support.running_time import PATIENCE_S

_SEEDS = itertools.count()
Act = Callable[["redis.Redis", "subprocess.Popen[bytes]"], object]


def commands(*lines: str) -> Act:
    """Have Redis run these, and end all other connections."""

    def act(operator: Any, _: object) -> None:
        for line in [*lines, "CLIENT KILL TYPE NORMAL SKIPME YES"]:
            operator.execute_command(*shlex.split(line))

    return act


def load_again(operator: "redis.Redis", _: object) -> None:
    """Have Redis load what it keeps for a minute, as after a start; nobody waits for it."""
    operator.mset({f"other:{number}": os.urandom(1024) for number in range(6000)})
    operator.config_set("key-load-delay", 5_000)
    operator.config_set("loading-process-events-interval-bytes", 1024)
    port = operator.connection_pool.connection_kwargs["port"]
    say(port, b"DEBUG RELOAD")
    deadline = time.monotonic() + PATIENCE_S
    while b"LOADING" not in (said := say(port, b"PING")):
        assert time.monotonic() < deadline, said


def say(port: int, command: bytes) -> bytes:
    """Have Redis run a command, and return what it answers to the password, and at once to that."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"AUTH first-word\r\n%b\r\n" % command)
        connection.settimeout(0.2)
        said = b""
        with contextlib.suppress(TimeoutError):
            while said.count(b"\r\n") < 2:
                said += connection.recv(100)
        return said


STATES: dict[str, tuple[Act, str, str]] = {
    "dead": (lambda _, process: process.kill(), "Redis does not answer", "Redis does not answer"),
    "frozen": (lambda _, process: freeze(process.pid), "Redis does not answer", "Redis does not answer"),
    "read-only": (commands("REPLICAOF 127.0.0.1 9"), "as a replica does", "as a replica does"),
    "out of memory": (commands("CONFIG SET maxmemory 1"), "no memory left", "no memory left"),
    "another password": (commands("CONFIG SET requirepass third-word"), "the password", "the password"),
    "scripts forbidden": (commands("ACL SETUSER default -@scripting"), "this user", "this user"),
    "without its replicas": (commands("CONFIG SET min-replicas-to-write 1"), "its replicas", "its replicas"),
    "full": (commands("CONFIG SET maxclients 1"), "as many clients", "as many clients"),
    "loading": (load_again, "still loading", "still loading"),
    "flushed": (commands("FLUSHALL"), "has lost counts", ""),
    "throwing counts away": (
        commands("CONFIG SET maxmemory-policy volatile-random", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        "noeviction",
        "",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_ready_and_the_log_say_what_is_wrong_with_redis(name: str, tmp_path: Path) -> None:
    act, limits, cache = STATES[name]
    with running(tmp_path) as (gateway, operator, process):
        assert "limits" not in ready(gateway)

        act(operator, process)

        deadline = time.monotonic() + PATIENCE_S
        while not (limits in ready(gateway).get("limits", "") and cache in ready(gateway).get("cache", "")):
            assert time.monotonic() < deadline, (ready(gateway), gateway.log[-2000:])
            assert ask(gateway) == 200

        gateway.wait_for_log(limits)
        assert "-word" not in gateway.log + json.dumps(ready(gateway))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Gateway, "redis.Redis", "subprocess.Popen[bytes]"]]:
    """A gateway that has its limits and its cache in a Redis, an operator of that, and its process."""
    port, secured = free_port(), ("--requirepass", "first-word", "--enable-debug-command", "yes")
    with redis_at(port, folder, options=secured) as (_, process), ScriptedUpstream(["m"]) as upstream:
        url = f"redis://:first-word@127.0.0.1:{port}/0"
        config = {
            "adapters": {"a": {"type": "openai", "base_url": upstream.base_url, "api_key": "k", "models": ["m"]}},
            "rate_limit": {"requests_per_minute": 100_000, "storage": url},
            "cache": {"enabled": True, "storage": url},
        }
        with redis.Redis.from_url(url) as operator, Gateway(config_yaml=json.dumps(config)) as gateway:
            assert [ask(gateway) for _ in range(3)] == [200] * 3
            yield gateway, operator, process
            process.send_signal(signal.SIGCONT)


def ask(gateway: Gateway) -> int:
    """The status of a request that is like no other."""
    body = {"model": "m", "seed": next(_SEEDS), "temperature": 0, "messages": [{"role": "user", "content": "x"}]}
    with RawClient(gateway.host, gateway.port) as client:
        client.send(post_chat(gateway.host, gateway.port, body))
        return client.read_response().status


def ready(gateway: Gateway) -> dict[str, Any]:
    """What `/ready` answers, with 200."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        assert answer.status == 200
        found: dict[str, Any] = json.loads(answer.read())
        return found
