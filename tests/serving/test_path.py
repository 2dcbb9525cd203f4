"""How much of our code a request passes, counted in a real worker; docs/architecture.md names these figures."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai import OpenAI

from tests.support.actions import WaitFor
from tests.support.gateway import Gateway
from tests.support.launcher import REPOSITORY
from tests.support.replies import sse, text_chunks
from tests.support.upstream import ScriptedUpstream, say_hello

#: Files between the socket of the client and that to the upstream, each of which calls the next.
MAX_WAY_DOWN = 12
#: All files that do something for it, beside the event loop under Flask.
MAX_OF_A_REQUEST = 62
#: Files that a chunk passes, beside the event loop under Flask.
MAX_OF_A_CHUNK = 6
KEY = "k" * 20


class Bed(NamedTuple):
    """A gateway that follows its own calls, and its upstream."""

    gateway: Gateway
    upstream: ScriptedUpstream

    def ask(self, *, chunks: int = 0) -> None:
        """Ask for an answer: whole, or so many chunks, each of which comes when the one before has arrived."""
        client = OpenAI(base_url=f"{self.gateway.url}/v1", api_key=KEY, max_retries=0)
        messages: Any = [{"role": "user", "content": "Hi"}]
        if not chunks:
            self.upstream.on("m", say_hello)
            assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content
            return
        role, first, *others = text_chunks(*["word "] * chunks)
        gates = [threading.Event() for _ in others]
        pieces = [part for gate, chunk in zip(gates, others, strict=True) for part in (WaitFor(gate), chunk)]
        self.upstream.on("m", sse(role, first, *pieces))
        stream = iter(client.chat.completions.create(model="m", messages=messages, stream=True))
        next(stream)
        for gate in gates:
            next(stream)
            gate.set()
        assert len(list(stream)) == 1

    def follow(self, *, chunks: int = 0) -> tuple[Counter[str], set[str]]:
        """Ask, and return the calls of our functions by file and name, and the files on the way to the upstream."""
        self._get("/follow")
        self.ask(chunks=chunks)
        found = json.loads(self._get("/followed"))
        return Counter(found["calls"]), set(found["way_down"])

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.gateway.url}{path}") as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with ScriptedUpstream(["m"]) as upstream:
        env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": upstream.base_url, "API_KEYS": f"alice:{KEY}"}
        app = "tests.serving.apps.followed:app"
        with Gateway(env=env, wsgi_app=app, pythonpath=[REPOSITORY]) as gateway:
            bed = Bed(gateway, upstream)
            bed.ask()
            bed.ask(chunks=1)
            yield bed


def test_a_request_goes_down_through_few_files(bed: Bed) -> None:
    calls, way_down = bed.follow()

    assert {"serving/asgi.py", "api/chat.py", "upstream/client.py"} <= way_down
    assert len(way_down) <= MAX_WAY_DOWN, sorted(way_down)
    assert len(beside_the_loop(calls)) <= MAX_OF_A_REQUEST, beside_the_loop(calls)


def test_the_architecture_follows_the_way_down(bed: Bed) -> None:
    page = Path(REPOSITORY, "docs/architecture.md").read_text(encoding="utf-8")
    _, way_down = bed.follow()

    assert [file for file in sorted(way_down) if f"`{file}`" not in page] == []


def test_a_chunk_passes_few_files(bed: Bed) -> None:
    few, _ = bed.follow(chunks=10)
    many, _ = bed.follow(chunks=60)

    each = {name for name in many if many[name] - few[name] >= 25}
    assert "upstream/stream.py" in beside_the_loop(each)
    assert len(beside_the_loop(each)) <= MAX_OF_A_CHUNK, sorted(each)


def beside_the_loop(names: Iterable[str]) -> list[str]:
    """The files of functions, without those of the event loop under Flask."""
    return sorted({file for name in names if not (file := name.partition(":")[0]).startswith("serving/")})
