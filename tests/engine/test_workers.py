"""Local models behind a gateway of three processes: one engine for all, and nothing left behind whatever is killed."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from one_api.engine.loaded import LoadedEngine, loaded_engines
from one_api.engine.process import is_engine
from one_api.engine.slots import SlotFile
from tests.support import Gateway, ScriptedUpstream, freeze
from tests.support.running_time import RunningTime

ROOT = Path(__file__).parents[2]
#: How long anything here may take, in seconds; the machine may be busy.
LIMIT_S = 60.0
HELLO: Any = [{"role": "user", "content": "Count from 1 to 1000: 1, 2, 3,"}]
#: An answer that does not end before its limit.
LONG: dict[str, Any] = {"messages": HELLO, "stream": True, "temperature": 0, "logit_bias": {"2": -100, "0": -100}}

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="oa-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def place(model_file: Path) -> Iterator[Path]:
    """A folder with a short path for temporary files, and with two models."""
    folder = Path(tempfile.mkdtemp(prefix="oa-", dir="/tmp"))
    (folder / "models").mkdir()
    for name in ("a", "b"):
        (folder / "models" / f"{name}.gguf").symlink_to(model_file)
    yield folder
    shutil.rmtree(folder)


def make_gateway(place: Path, workers: int, **more: Any) -> Gateway:
    """A gateway whose processes meet in ``place``."""
    local = {
        "type": "local", "models_dir": str(place / "models"), "slots": 2, "slot_context": 512,
        "timeouts": {"idle_s": 5},
    }  # fmt: skip
    config = json.dumps({"adapters": {"local": local | more}})
    env = {
        "TMPDIR": str(place), "WEB_CONCURRENCY": str(workers), "API_KEYS": "test-key,other-key",
        "RATE_LIMIT_REQUESTS": "100000",
    }  # fmt: skip
    return Gateway(config_yaml=config, env=env, ready_path="/ready")


@pytest.fixture(scope="module")
def gateway(place: Path) -> Iterator[Gateway]:
    """Three processes."""
    with make_gateway(place, 3) as running:
        yield running


def client(gateway: Gateway, key: str = "test-key") -> OpenAI:
    """A client on connections of its own, so that the kernel deals them out among the processes."""
    return OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0, timeout=LIMIT_S)


def ask(gateway: Gateway, model: str, key: str = "test-key", **more: Any) -> str:
    """A short answer; the likeliest words, since two tokens drawn by chance may hold no whole character."""
    asked = {"messages": HELLO, "max_tokens": 2, "temperature": 0, "logit_bias": LONG["logit_bias"]}
    with client(gateway, key) as opened:
        answer: Any = opened.chat.completions.create(model=model, **asked | more)
    return answer.choices[0].message.content or ""


def run_dir(place: Path) -> Path:
    """Where the gateway's processes meet."""
    return next(path for path in place.iterdir() if path.name.startswith("one_api-"))


def engine(place: Path, model: str) -> LoadedEngine:
    """The one engine of a model."""
    (found,) = [each for each in loaded_engines(run_dir(place)) if Path(each.model).stem == model]
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.05)


def all_free(slots: tuple[Path, ...]) -> bool:
    """Whether no request has a slot."""
    files = [SlotFile(path) for path in slots]
    try:
        return min(file.take() for file in files)
    finally:
        for file in files:
            file.close()


def test_twelve_cold_requests_to_three_processes_start_one_engine(gateway: Gateway, place: Path) -> None:
    assert len(gateway.worker_pids(3)) == 3

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(gateway, "a"), range(12)))

    assert all(answers)
    assert len(loaded_engines(run_dir(place))) == 1
    assert engine(place, "a").pid
    assert sum(path.read_text().count("--- start ") for path in run_dir(place).glob("*.log")) == 1


def test_sixteen_streams_at_once_complete_and_no_key_waits_for_all_of_another(gateway: Gateway) -> None:
    ends: list[str] = []

    keys = ["test-key"] * 12 + ["other-key"] * 4

    def stream(key: str, opened: OpenAI) -> list[ChatCompletionChunk]:
        with opened, opened.chat.completions.create(model="a", max_tokens=12, **LONG) as chunks:
            found = list(chunks)
        ends.append(key)
        return found

    clients = [client(gateway, key) for key in keys]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(stream, keys, clients))

    texts = ["".join(chunk.choices[0].delta.content or "" for chunk in chunks) for chunks in answers]
    assert all(chunks[-1].choices[0].finish_reason == "length" for chunks in answers)
    assert all(texts), "each has an answer"
    assert ends[-1] == "test-key", "who asked for little is served before who asked for much"


@contextlib.contextmanager
def streaming(gateway: Gateway, model: str, tokens: int = 400) -> Iterator[Iterator[ChatCompletionChunk]]:
    """A long stream that has begun."""
    with (
        client(gateway) as opened,
        opened.chat.completions.create(model=model, max_tokens=tokens, **LONG) as stream,
    ):
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
        yield chunks


def test_while_one_model_loads_another_goes_on(gateway: Gateway, place: Path) -> None:
    with streaming(gateway, "a") as chunks, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(ask, gateway, "b")
        meanwhile = 0
        for _ in chunks:
            if loading.done():
                break
            meanwhile += 1
        assert loading.result(LIMIT_S)

    assert meanwhile >= 3
    assert {Path(each.model).stem for each in loaded_engines(run_dir(place))} == {"a", "b"}


def test_a_client_that_leaves_gives_its_slot_back(gateway: Gateway, place: Path) -> None:
    slots = engine(place, "a").slots
    with streaming(gateway, "a"), streaming(gateway, "a"):
        assert not all_free(slots)

    with RunningTime() as took:
        until(lambda: all_free(slots), "the slots are free")

    assert took.seconds < 2, "it takes 0.1 s where the machine is idle"
    assert ask(gateway, "a")


def test_an_engine_that_crashes_ends_its_streams_with_an_error_and_no_others(gateway: Gateway, place: Path) -> None:
    ask(gateway, "b")
    victim = engine(place, "a")
    with streaming(gateway, "b", 60) as others, streaming(gateway, "a") as chunks:
        os.kill(victim.pid, signal.SIGSEGV)
        with pytest.raises(openai.APIError) as caught:
            list(chunks)
        rest = list(others)

    assert caught.value.code == "upstream_stream_truncated"
    assert rest[-1].choices[0].finish_reason == "length"
    assert ask(gateway, "a")
    assert engine(place, "a").pid != victim.pid


def test_an_engine_that_is_stopped_ends_its_streams_and_is_replaced(gateway: Gateway, place: Path) -> None:
    ask(gateway, "b")
    victim = engine(place, "b")
    with streaming(gateway, "b") as chunks:
        freeze(victim.pid)
        with pytest.raises(openai.APIError) as caught:
            list(chunks)

    assert caught.value.code == "upstream_timeout"
    assert ask(gateway, "b")
    assert engine(place, "b").pid != victim.pid


def test_a_killed_process_of_the_gateway_gives_its_slots_back_and_leaves_the_engine_alone(
    gateway: Gateway, place: Path
) -> None:
    before = engine(place, "a")
    workers = gateway.worker_pids(3)
    with streaming(gateway, "a") as chunks:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError):
            list(chunks)

    until(lambda: all_free(before.slots), "the slots are free")
    until(lambda: not set(gateway.worker_pids(3, LIMIT_S)) & set(workers), "gunicorn has replaced them")
    assert ask(gateway, "a")
    assert engine(place, "a").pid == before.pid


def test_a_killed_gateway_leaves_nothing_behind_and_the_next_one_works(place: Path) -> None:
    with make_gateway(place, 1, slot_context=256) as running:
        assert ask(running, "a")
        (ours,) = [each for each in loaded_engines(run_dir(place)) if Path(each.model).stem == "a"][-1:]

        running.kill()

        until(lambda: ours.name not in {each.name for each in loaded_engines(run_dir(place))}, "its engine has ended")
    assert not is_engine(ours.pid)
    with make_gateway(place, 1, slot_context=256) as running:
        assert ask(running, "a")


def test_while_a_model_cannot_be_loaded_another_provider_answers(
    place: Path, tmp_path: Path, short_folder: Path
) -> None:
    package = tmp_path / "xllamacpp"
    package.mkdir()
    (package / "__init__.py").write_text("import time\ntime.sleep(600)\n")
    with ScriptedUpstream() as upstream:
        adapters = {
            "local": {"type": "local", "models_dir": str(place / "models"), "start_timeout_s": 1},
            "remote": {"type": "openai", "base_url": upstream.base_url, "api_key": "k", "models": ["m"]},
        }
        groups = {"chat": {"targets": ["local/a"], "fallbacks": ["remote/m"]}}
        config = json.dumps({"adapters": adapters, "model_groups": groups})
        env = {"TMPDIR": str(short_folder)}
        with Gateway(config_yaml=config, env=env, pythonpath=[tmp_path], ready_path="/ready") as running:
            with client(running) as opened:
                raw = opened.chat.completions.with_raw_response.create(model="chat", messages=HELLO)
            assert raw.headers["x-gateway-deployment"] == "remote/m"
            with pytest.raises(openai.InternalServerError) as caught:
                ask(running, "a")

    assert caught.value.status_code == 503
    assert "not ready within 1 s" in str(caught.value)
    assert "retry-after" in caught.value.response.headers
