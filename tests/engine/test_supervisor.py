"""The supervisor of local engines, with the real engine and the default model."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

from one_api.engine.download import fetch_default_model
from one_api.engine.files import Endpoint, EngineFailed
from one_api.engine.locks import FileLock
from one_api.engine.process import default_threads
from one_api.engine.settings import EngineSettings
from one_api.engine.supervisor import EngineSupervisor
from tests.support import freeze
from tests.support.running_time import RunningTime

ROOT = Path(__file__).parents[2]
#: The longest that anything here is waited for, in seconds; the machine may be busy.
LIMIT_S = 60.0

needs_engine = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)

#: Another process that uses an engine: reports it, and keeps it until its stdin is closed.
WORKER = """
import asyncio, json, sys
from pathlib import Path
from one_api.engine.settings import EngineSettings
from one_api.engine.supervisor import EngineSupervisor

async def main():
    run_dir, model, settings = json.loads(sys.argv[1])
    supervisor = EngineSupervisor(Path(run_dir), EngineSettings(**settings))
    endpoint = await supervisor.ensure(Path(model), "tiny")
    print(json.dumps([endpoint.pid, str(endpoint.socket_path)]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await supervisor.close()

asyncio.run(main())
"""

SMALL: dict[str, Any] = {"slots": 1, "context_tokens": 256, "threads": 1, "cache_ram_mib": 0, "lease_rest_s": 0.5}


class Worker:
    """A process like a gateway's worker, that asks for an engine at once. A context manager: it is gone afterwards."""

    def __init__(self, run_dir: Path, model: Path) -> None:
        arguments = json.dumps([str(run_dir), str(model), SMALL])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def engine(self) -> tuple[int, Path]:
        """Return pid and socket of the engine that the worker got."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), LIMIT_S)
        pid, socket_path = json.loads(line)
        return pid, Path(socket_path)

    def leave(self) -> None:
        """End the worker in order."""
        self.process.communicate(timeout=LIMIT_S)

    def kill(self) -> None:
        """End the worker without a chance to clean up."""
        self.process.kill()
        self.process.communicate(timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.kill()


async def until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        await asyncio.sleep(0.02)


def living(run_dir: Path) -> list[Path]:
    """Return the ``.alive`` files that an engine holds."""
    held = []
    for path in run_dir.glob("*.alive"):
        lock = FileLock(path)
        if not lock.try_acquire():
            held.append(path)
        lock.release()
    return held


def starts(run_dir: Path) -> int:
    """Return how often an engine was started."""
    return sum(path.read_text(errors="replace").count("--- start ") for path in run_dir.glob("*.log"))


def failures(run_dir: Path) -> int:
    """Return how many failures are on record."""
    return sum(len(json.loads(path.read_text())["times"]) for path in run_dir.glob("*.failures"))


@pytest.fixture(scope="session")
def model() -> Path:
    """The default model, fetched once for all runs."""
    folder = Path(os.environ.get("ONE_API_TEST_MODELS") or ROOT / "models")
    return fetch_default_model(folder, print)


@pytest.fixture
def unloadable(tmp_path: Path) -> Path:
    """A file whose header is in order and that the engine cannot load."""
    name, value, tensor = b"general.architecture", b"llama", b"w"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(value)) + value
    header += struct.pack("<Q", len(tensor)) + tensor + struct.pack("<IQIQ", 1, 64, 0, 0)
    path = tmp_path / "unloadable.gguf"
    path.write_bytes(header + b"\0" * 512)
    return path


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory with a short path. At the end the engines in it are told to end, which saves a second's wait."""
    folder = Path(tempfile.mkdtemp(prefix="oa-", dir="/tmp"))
    yield folder
    for number in (signal.SIGTERM, signal.SIGKILL):
        for path in living(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), number)
        deadline = time.monotonic() + 5
        while living(folder) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not living(folder)
    shutil.rmtree(folder)


Make = Callable[..., EngineSupervisor]


@pytest.fixture
async def make(run_dir: Path) -> AsyncIterator[Make]:
    """Return a function that makes supervisors for ``run_dir``; all are closed at the end."""
    made: list[EngineSupervisor] = []

    def make_supervisor(folder: Path = run_dir, **settings: Any) -> EngineSupervisor:
        made.append(EngineSupervisor(folder, EngineSettings(**SMALL | settings)))
        return made[-1]

    yield make_supervisor
    for supervisor in made:
        await supervisor.close()


async def chat(endpoint: Endpoint, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Ask the engine something; return the HTTP status and the answer."""
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    headers = {"authorization": f"Bearer {key or endpoint.api_key}"}
    connector = aiohttp.UnixConnector(str(endpoint.socket_path))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session,
        session.post("http://localhost/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


@needs_engine
async def test_an_engine_answers_over_its_socket(make: Make, model: Path) -> None:
    endpoint = await make().ensure(model, "tiny")

    status, answer = await chat(endpoint)

    assert status == 200
    assert answer["model"] == "tiny"
    assert 0 < answer["usage"]["completion_tokens"] <= 4
    assert endpoint.context_tokens == 256


@needs_engine
async def test_nobody_else_can_use_it(make: Make, model: Path, run_dir: Path) -> None:
    endpoint = await make().ensure(model, "tiny")

    status, _ = await chat(endpoint, key="guessed")

    process = Path(f"/proc/{endpoint.pid}")
    visible = b"".join((process / name).read_bytes() for name in ("cmdline", "environ") if process.exists())
    assert status == 401
    assert endpoint.api_key not in repr(endpoint)
    assert endpoint.api_key.encode() not in visible
    assert {path.stat().st_mode & 0o077 for path in [run_dir, *run_dir.iterdir()]} == {0}


@needs_engine
async def test_the_engine_gets_none_of_the_gateways_secrets(
    make: Make, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux shows the environment of a process")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    endpoint = await make(environment={"EXTRA": "1"}).ensure(model, "tiny")

    environment = Path(f"/proc/{endpoint.pid}/environ").read_bytes().split(b"\0")
    assert b"EXTRA=1" in environment
    assert not [item for item in environment if b"secret" in item]


@needs_engine
async def test_all_who_ask_at_once_share_one_start(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make()

    endpoints = await asyncio.gather(*(supervisor.ensure(model, "tiny") for _ in range(20)))

    assert len(set(endpoints)) == 1
    assert starts(run_dir) == 1


@needs_engine
async def test_several_processes_share_one_engine(model: Path, run_dir: Path) -> None:
    with Worker(run_dir, model) as one, Worker(run_dir, model) as two, Worker(run_dir, model) as three:
        engines = await asyncio.gather(one.engine(), two.engine(), three.engine())

        assert len(set(engines)) == 1
        assert starts(run_dir) == 1


@needs_engine
async def test_a_killed_engine_is_replaced(make: Make, model: Path, run_dir: Path) -> None:
    first, second = make(), make()
    old = await first.ensure(model, "tiny")
    assert await second.ensure(model, "tiny") == old
    os.kill(old.pid, signal.SIGKILL)
    await until(lambda: not living(run_dir), "the engine is dead")

    for supervisor in (first, second):
        await supervisor.report_failure(old)
    new = await first.ensure(model, "tiny")

    assert new.pid != old.pid
    assert await second.ensure(model, "tiny") == new
    assert (await chat(new))[0] == 200
    assert (starts(run_dir), failures(run_dir)) == (2, 1)
    assert list(run_dir.glob("*.sock")) == [new.socket_path]


@needs_engine
async def test_a_dead_engine_is_noticed_without_a_report(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make()
    old = await supervisor.ensure(model, "tiny")
    os.kill(old.pid, signal.SIGKILL)
    await until(lambda: not living(run_dir), "the engine is dead")

    deadline = time.monotonic() + LIMIT_S
    while (await supervisor.ensure(model, "tiny")) == old:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

    assert starts(run_dir) == 2


@needs_engine
async def test_an_engine_that_hangs_is_replaced(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make(health_limit_s=1.0)
    old = await supervisor.ensure(model, "tiny")
    freeze(old.pid)

    await supervisor.report_failure(old)
    new = await supervisor.ensure(model, "tiny")

    assert new.pid != old.pid
    assert len(living(run_dir)) == 1


@needs_engine
async def test_an_engine_outlives_all_users_but_the_last(make: Make, model: Path, run_dir: Path) -> None:
    with Worker(run_dir, model) as starter, Worker(run_dir, model) as other:
        engine = await starter.engine()
        assert await other.engine() == engine
        supervisor = make()
        endpoint = await supervisor.ensure(model, "tiny")
        starter.kill()
        other.leave()

    with pytest.raises(AssertionError, match="the engine has ended"):
        await until(lambda: not living(run_dir), "the engine has ended", 2)
    assert (endpoint.pid, endpoint.socket_path) == engine
    assert (await chat(endpoint))[0] == 200


@needs_engine
async def test_an_engine_without_users_ends_and_leaves_no_trace_of_a_crash(
    make: Make, model: Path, run_dir: Path
) -> None:
    supervisor = make()
    await supervisor.ensure(model, "tiny")

    await supervisor.close()

    await until(lambda: not living(run_dir), "the engine has ended", 10)
    assert not list(run_dir.glob("*.state")) + list(run_dir.glob("*.sock"))
    await make().ensure(model, "tiny")
    assert (starts(run_dir), failures(run_dir)) == (2, 0)


@needs_engine
async def test_users_that_are_all_killed_leave_no_engine_behind(model: Path, run_dir: Path) -> None:
    with Worker(run_dir, model) as one, Worker(run_dir, model) as two:
        await asyncio.gather(one.engine(), two.engine())
        one.kill()
        two.kill()

    await until(lambda: not living(run_dir), "the engine has ended", 10)


@needs_engine
async def test_a_start_whose_process_was_killed_does_not_stand_in_the_way(
    make: Make, model: Path, run_dir: Path
) -> None:
    with Worker(run_dir, model) as worker:
        await until(lambda: bool(living(run_dir)), "the engine is loading")
        worker.kill()

    endpoint = await make().ensure(model, "tiny")

    assert (await chat(endpoint))[0] == 200
    assert len(living(run_dir)) == 1


@needs_engine
async def test_a_caller_that_gives_up_does_not_stop_the_start(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make()
    impatient = asyncio.create_task(supervisor.ensure(model, "tiny"))
    await until(lambda: bool(living(run_dir)), "the engine is loading")
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient

    await supervisor.ensure(model, "tiny")

    assert starts(run_dir) == 1
    assert await make().ensure(model, "tiny") == await supervisor.ensure(model, "tiny")


@needs_engine
async def test_closing_gives_up_a_start_at_once(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make()
    caller = asyncio.create_task(supervisor.ensure(model, "tiny"))
    await until(lambda: bool(living(run_dir)), "the engine is loading")

    await supervisor.close()

    with contextlib.suppress(EngineFailed):
        await caller
    await until(lambda: not living(run_dir), "the engine has ended", 10)
    with pytest.raises(EngineFailed, match="shutting down"):
        await supervisor.ensure(model, "tiny")
    assert failures(run_dir) == 0


@needs_engine
async def test_closing_does_not_wait_for_the_start_of_another_process(make: Make, model: Path, run_dir: Path) -> None:
    first, second = make(), make()
    starter = asyncio.create_task(first.ensure(model, "tiny"))
    await until(lambda: bool(living(run_dir)), "the engine is loading")
    other = asyncio.create_task(second.ensure(model, "tiny"))
    await until(lambda: [task.get_name() for task in asyncio.all_tasks()].count("engine tiny") == 2, "both want it")

    with RunningTime() as took:
        await second.close()

    assert took.seconds < 5
    await asyncio.wait([other])
    other.exception()
    assert (await chat(await starter))[0] == 200


@needs_engine
async def test_other_settings_mean_another_engine(make: Make, model: Path) -> None:
    one = await make().ensure(model, "tiny")
    two = await make(context_tokens=512).ensure(model, "tiny")

    assert one.pid != two.pid
    assert two.context_tokens == 512


@needs_engine
async def test_a_file_that_is_no_model_is_refused_without_a_start(make: Make, tmp_path: Path, run_dir: Path) -> None:
    supervisor = make()
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")

    for file, reason in ((path, "not a GGUF file"), (tmp_path / "gone.gguf", "No such file")):
        with pytest.raises(EngineFailed, match=reason) as caught:
            await supervisor.ensure(file, "tiny")
        assert str(file) in caught.value.reason

    assert starts(run_dir) == 0


@needs_engine
async def test_repeated_failures_are_answered_without_a_start(make: Make, unloadable: Path, run_dir: Path) -> None:
    supervisor = make(failure_window_s=300.0)
    for _ in range(4):
        with pytest.raises(EngineFailed, match=r"could not load it.*failed to load model"):
            await supervisor.ensure(unloadable, "broken")

    with RunningTime() as took, pytest.raises(EngineFailed, match="keeps failing") as caught:
        await supervisor.ensure(unloadable, "broken")

    assert took.seconds < 1
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 300
    assert starts(run_dir) == 4
    with pytest.raises(EngineFailed, match="keeps failing"):
        await make(failure_window_s=300.0).ensure(unloadable, "broken")


@needs_engine
async def test_after_the_window_it_is_tried_again(make: Make, unloadable: Path, run_dir: Path) -> None:
    supervisor = make(failure_limit=0, failure_window_s=1.0)

    async def starts_again() -> bool:
        with pytest.raises(EngineFailed):
            await supervisor.ensure(unloadable, "broken")
        return starts(run_dir) == 2

    await eventually(starts_again)
    assert failures(run_dir) == 2


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the asynchronous ``condition`` holds."""
    deadline = time.monotonic() + LIMIT_S
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@needs_engine
async def test_a_repaired_file_works_at_once(make: Make, unloadable: Path, model: Path) -> None:
    supervisor = make(failure_limit=0, failure_window_s=300.0)
    for _ in range(2):
        with pytest.raises(EngineFailed):
            await supervisor.ensure(unloadable, "tiny")

    unloadable.unlink()
    unloadable.symlink_to(model)

    assert (await chat(await supervisor.ensure(unloadable, "tiny")))[0] == 200


@needs_engine
async def test_a_start_that_takes_too_long_is_ended(make: Make, model: Path, run_dir: Path) -> None:
    supervisor = make(start_limit_s=0.1)

    with pytest.raises(EngineFailed, match=r"not ready within 0\.1 s"):
        await supervisor.ensure(model, "tiny")

    assert not living(run_dir)
    assert failures(run_dir) == 1


@needs_engine
async def test_processes_that_wait_for_a_failing_start_share_its_failure(
    make: Make, unloadable: Path, run_dir: Path
) -> None:
    supervisors = [make() for _ in range(5)]

    results = await asyncio.gather(
        *(supervisor.ensure(unloadable, "broken") for supervisor in supervisors), return_exceptions=True
    )

    assert all(isinstance(result, EngineFailed) for result in results)
    assert starts(run_dir) == 1


@needs_engine
async def test_a_log_over_its_cap_is_emptied(make: Make, unloadable: Path, run_dir: Path) -> None:
    supervisor = make(log_cap_bytes=1000)

    for _ in range(3):
        with pytest.raises(EngineFailed):
            await supervisor.ensure(unloadable, "broken")

    assert starts(run_dir) == 1


@needs_engine
async def test_a_directory_that_others_can_enter_is_refused(make: Make, model: Path, run_dir: Path) -> None:
    run_dir.chmod(0o755)

    with pytest.raises(EngineFailed, match=f"chmod 700 {run_dir}"):
        await make().ensure(model, "tiny")


@needs_engine
async def test_a_directory_with_a_long_name_has_its_sockets_elsewhere(
    make: Make, model: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(run_dir))

    endpoint = await make(run_dir / ("long-" * 20)).ensure(model, "tiny")

    assert len(os.fsencode(endpoint.socket_path)) < 100
    assert endpoint.socket_path.parent.stat().st_mode & 0o777 == 0o700
    assert (await chat(endpoint))[0] == 200


@needs_engine
def test_the_event_loop_and_its_host_may_end_while_the_engine_goes_on(model: Path, run_dir: Path) -> None:
    async def ask() -> Endpoint:
        supervisor = EngineSupervisor(run_dir, EngineSettings(**SMALL | {"lease_rest_s": 3.0}))
        try:
            return await supervisor.ensure(model, "tiny")
        finally:
            await supervisor.close()

    assert asyncio.run(ask()) == asyncio.run(ask())


def test_without_the_engine_the_message_says_so(tmp_path: Path, run_dir: Path) -> None:
    import msgspec

    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    arguments = json.dumps([str(run_dir), "model.gguf", SMALL])

    done = subprocess.run(
        [sys.executable, "-S", "-c", WORKER, arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert "the engine is missing; `pip install xllamacpp`" in done.stderr


def test_a_lock_is_exclusive_or_shared(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two, three = FileLock(path, shared=True), FileLock(path, shared=True), FileLock(path)

    assert one.try_acquire()
    assert two.try_acquire()
    assert not three.try_acquire()
    one.release()
    two.release()
    assert three.try_acquire()
    three.release()
    assert not three.try_acquire()


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"context_tokens": 2_000_000_000}, {"threads": 5000}, {"batch_tokens": 1}, {"kv_type": "q9"}],
)
def test_settings_that_kill_or_hang_the_engine_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineSettings(**wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_threads_count_the_quota_of_every_cgroup_above(tmp_path: Path) -> None:
    (tmp_path / "pod" / "box").mkdir(parents=True)
    (tmp_path / "pod" / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "pod" / "box" / "cpu.max").write_text("max 100000\n")
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/ignored\n0::/pod/box\n")

    assert default_threads(tmp_path, own) == 1
    assert default_threads(tmp_path, tmp_path / "missing") == max(1, len(os.sched_getaffinity(0)) - 1)
