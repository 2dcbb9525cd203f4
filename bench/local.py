"""`make bench-local`: tokens per second of the local model through the gateway, against its engine asked directly.

Both in one run, in turns, with the same requests: as many streams at once as the engine has slots.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench import servers
from bench.console import exit_status, progress
from bench.report import Goal
from bench.servers import Command, running
from bench.target import CLIENT_KEY, LOOPBACK, BenchError, Target
from one_api.engine.download import fetch_default_model

STREAMS = 4
"""Streams at once: the slots of the engine."""

WANTED = 0.95
"""Of the engine's own tokens per second."""

_ANSWER_LIMIT_S = 300.0
_END_OF_TEXT = {"0": -100, "2": -100}


@dataclass(frozen=True)
class Door:
    """One way to the engine: an address, a key, and the socket behind it if it is not on TCP."""

    url: str
    key: str
    socket: str | None = None


def gateway(models: Path, place: Path) -> Command:
    """The gateway with one worker and the local models only, its temporary files in ``place``."""
    port = servers.free_port()
    config = place / "one_api.yaml"
    local = {"type": "local", "models_dir": str(models), "slots": STREAMS}
    config.write_text(json.dumps({"adapters": {"local": local}}))
    env = servers.clean_environment(
        ONE_API_ENV_FILE=os.devnull, ONE_API_CONFIG=str(config), API_KEYS=CLIENT_KEY, RATE_LIMIT_ENABLED="false",
        HOST=LOOPBACK, PORT=str(port),
    ) | {"TMPDIR": str(place)}  # fmt: skip
    return Command("one_api", [sys.executable, "-m", "gunicorn", "wsgi:app"], env, Target(port), "/ready")


def engine(place: Path) -> Door:
    """The engine that the gateway has started, from what it tells its other processes."""
    (state,) = (place / f"one_api-{os.geteuid()}").glob("*.state")
    told = json.loads(state.read_text())
    return Door("http://engine", told["key"], told["socket"])


async def tokens_per_s(door: Door, model: str, tokens: int) -> float:
    """The tokens per second of all streams together, first requests to last ends."""
    connector = aiohttp.UnixConnector(door.socket, force_close=True) if door.socket else aiohttp.TCPConnector()
    timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        began = time.perf_counter()
        counts = await asyncio.gather(*(_stream(session, door, model, tokens, each) for each in range(STREAMS)))
        return sum(counts) / (time.perf_counter() - began)


async def _stream(session: aiohttp.ClientSession, door: Door, model: str, tokens: int, number: int) -> int:
    """Read one stream to its end, and return how many tokens it was."""
    body = {
        "model": model, "messages": [{"role": "user", "content": f"Tell me story {number}."}], "max_tokens": tokens,
        "temperature": 0.2, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.0, "seed": number,
        "logit_bias": _END_OF_TEXT, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    last = b""
    headers = {"authorization": f"Bearer {door.key}"}
    async with session.post(f"{door.url}/v1/chat/completions", json=body, headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {"):
                last = line
        if answer.status != 200 or not last:
            raise BenchError(f"a stream was answered {answer.status}")
    usage = json.loads(last[6:]).get("usage")
    if not usage or usage["completion_tokens"] < tokens:
        raise BenchError(f"a stream ended early: {last[:300]!r}")
    return int(usage["completion_tokens"])


def compare(doors: Sequence[Door], model: str, tokens: int, rounds: int) -> list[list[float]]:
    """The figures of each door, round by round; the doors take turns at being first."""
    figures: list[list[float]] = [[] for _ in doors]
    for door in doors:
        asyncio.run(tokens_per_s(door, model, 8))
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for index in sorted(range(len(doors)), reverse=number % 2 == 1):
            figures[index].append(asyncio.run(tokens_per_s(doors[index], model, tokens)))
    return figures


def main() -> int:
    """Parse the command line, run, print. A goal that is missed is told, not punished."""
    parser = argparse.ArgumentParser(prog="python -m bench.local", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder with the default model")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    model = fetch_default_model(args.models.absolute(), progress).stem
    with tempfile.TemporaryDirectory(prefix="oa-", dir="/tmp") as folder:
        place = Path(folder)
        with running(gateway(args.models.absolute(), place)) as server:
            ours = Door(server.target.url, CLIENT_KEY)
            asyncio.run(tokens_per_s(ours, model, 1))
            direct, through = compare([engine(place), ours], model, args.tokens, args.rounds)
    goal = Goal("", statistics.median(through) / statistics.median(direct), WANTED, at_least=True)
    print(f"{STREAMS} streams of {args.tokens} tokens, {args.rounds} rounds each in turns, one run:\n")
    print("| | tokens/s, median | least | most |\n|---|---|---|---|")
    for name, found in (("engine asked directly", direct), ("through the gateway", through)):
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |")
    print(f"\nratio {goal.measured:.3f}, wanted {WANTED}: {'met' if goal.met else 'MISSED'}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
