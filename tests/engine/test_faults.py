"""What can be wrong with a model file, its template or its engine, and what it must never do to the gateway."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from one_api.app import build_registry
from one_api.config import Config
from one_api.engine.client import EngineUnavailable
from one_api.engine.files import EngineFailed
from one_api.engine.gguf import UnreadableModel, read_header
from one_api.engine.loaded import loaded_engines
from one_api.engine.process import memory_bytes
from one_api.engine.settings import EngineSettings
from one_api.engine.slots import QueueFull
from one_api.engine.supervisor import EngineSupervisor
from one_api.errors import GatewayError, UpstreamRejected, UpstreamTimeout
from one_api.models.adapters.local import LocalModelAdapter
from one_api.settings.adapters import LocalConfig, Timeouts
from one_api.settings.sections import ErrorsConfig
from tests.engine.templates import ENDLESS, ESCAPING, WITH_TOOLS, with_template

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "Hello!"}]
#: Enough of the default model to hold its header.
HEADER_BYTES = 4 * 1024 * 1024

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or sys.platform == "win32", reason="the engine has no wheel for this platform"
)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory with a short path, in which no engine is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="oa-", dir="/tmp"))
    yield folder
    deadline = time.monotonic() + 30
    while (left := loaded_engines(folder)) and time.monotonic() < deadline:
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid or 2**22, 15)
        time.sleep(0.05)
    assert not loaded_engines(folder)
    shutil.rmtree(folder)


Make = Callable[..., EngineSupervisor]


@pytest.fixture
async def make(run_dir: Path) -> AsyncIterator[Make]:
    """Return a function that makes supervisors; all are closed at the end."""
    made: list[EngineSupervisor] = []

    def make_supervisor(**settings: Any) -> EngineSupervisor:
        small: dict[str, Any] = {"slots": 1, "context_tokens": 256, "cache_ram_mib": 0, "lease_rest_s": 0.5}
        made.append(EngineSupervisor(run_dir, EngineSettings(**small | settings)))
        return made[-1]

    yield make_supervisor
    for supervisor in made:
        await supervisor.close()


@pytest.fixture
async def serve(run_dir: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that starts an adapter for a folder; all are closed at the end."""
    made: list[LocalModelAdapter] = []

    async def start(folder: Path, **settings: Any) -> LocalModelAdapter:
        small: dict[str, Any] = {"slots": 1, "slot_context": 512, "default_max_tokens": 8}
        adapter = LocalModelAdapter("local", LocalConfig(models_dir=str(folder), **small | settings), run_dir, 0.1)
        made.append(adapter)
        await adapter.start()
        await adapter.wait_discovered(30)
        return adapter

    yield start
    for adapter in made:
        await adapter.aclose()


def header_of(model_file: Path) -> bytearray:
    """The beginning of the default model."""
    with model_file.open("rb") as file:
        return bytearray(file.read(HEADER_BYTES))


def write(path: Path, header: bytes | bytearray, size: int) -> Path:
    """Write a file of ``size`` bytes that begins with ``header``; the rest takes no room."""
    with path.open("wb") as file:
        file.write(header[:size])
        file.truncate(size)
    return path


def patched(header: bytearray, at: int, code: str, value: float) -> bytes:
    """The header with one number replaced."""
    changed = bytearray(header)
    struct.pack_into("<" + code, changed, at, value)
    return bytes(changed)


def value_at(header: bytearray, key: bytes) -> int:
    """Where the value of a metadata key stands: behind its name and its type."""
    return header.index(key) + len(key) + 4


def tensor_at(header: bytearray) -> int:
    """Where the number of dimensions of a tensor stands."""
    name = b"token_embd.weight"
    return header.rindex(name) + len(name)


def corrupt_headers(header: bytearray) -> dict[str, bytes]:
    """The default model's header, damaged in ways that a reader must notice by itself."""
    tensor = tensor_at(header)
    key = header.index(b"general.architecture")
    return {
        "magic": b"GGUX" + bytes(header[4:]),
        "version 0": patched(header, 4, "I", 0),
        "version 1": patched(header, 4, "I", 1),
        "version 99": patched(header, 4, "I", 99),
        "big-endian": patched(header, 4, "I", 0x03000000),
        "tensors 2^40": patched(header, 8, "Q", 2**40),
        "tensors 2^63": patched(header, 8, "Q", 2**63),
        "no tensors": patched(header, 8, "Q", 0),
        "one tensor more": patched(header, 8, "Q", struct.unpack_from("<Q", header, 8)[0] + 1),
        "entries 2^63": patched(header, 16, "Q", 2**63),
        "entries 2^31": patched(header, 16, "Q", 2**31),
        "no entries": patched(header, 16, "Q", 0),
        "one entry more": patched(header, 16, "Q", struct.unpack_from("<Q", header, 16)[0] + 1),
        "key length 2^62": patched(header, 24, "Q", 2**62),
        "key length 0": patched(header, 24, "Q", 0),
        "value type 13": patched(header, key + 20, "I", 13),
        "value type 2^31": patched(header, key + 20, "I", 2**31),
        "string length 2^62": patched(header, key + 24, "Q", 2**62),
        "template length 2^62": patched(header, value_at(header, b"tokenizer.chat_template"), "Q", 2**62),
        "array type 99": patched(header, value_at(header, b"tokenizer.ggml.tokens"), "I", 99),
        "array length 2^61": patched(header, value_at(header, b"tokenizer.ggml.tokens") + 4, "Q", 2**61),
        "array of arrays": patched(header, value_at(header, b"tokenizer.ggml.tokens"), "I", 9),
        "dimensions 0": patched(header, tensor, "I", 0),
        "dimensions 5": patched(header, tensor, "I", 5),
        "dimensions 2^31": patched(header, tensor, "I", 2**31),
        "a dimension of 0": patched(header, tensor + 4, "Q", 0),
        "a dimension of 2^63": patched(header, tensor + 4, "Q", 2**63),
        "a dimension that fits no block": patched(header, tensor + 4, "Q", 577),
        "tensor type 4": patched(header, tensor + 20, "I", 4),
        "tensor type 2^31": patched(header, tensor + 20, "I", 2**31),
        "offset beyond the end": patched(header, tensor + 24, "Q", 2**40),
        "offset 2^63": patched(header, tensor + 24, "Q", 2**63),
        "offset unaligned": patched(header, tensor + 24, "Q", 7),
    }  # fmt: skip


#: In per cent of the file.
CUTS = (0, 1, 2, 5, 10, 25, 50, 75, 90, 99)


def test_corrupt_copies_of_a_real_model_are_refused_by_name_and_cost_no_memory(
    model_file: Path, tmp_path: Path
) -> None:
    header, size = header_of(model_file), model_file.stat().st_size
    corrupt = {name: write(tmp_path / f"{name}.gguf", data, size) for name, data in corrupt_headers(header).items()}
    corrupt |= {f"cut at {cut} %": write(tmp_path / f"cut-{cut}.gguf", header, size * cut // 100) for cut in CUTS}
    assert len(corrupt) >= 40
    assert read_header(write(tmp_path / "good.gguf", header, size)).architecture == "llama"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for name, path in corrupt.items():
        with pytest.raises(UnreadableModel) as caught:
            read_header(path)
        assert path.name in str(caught.value), name

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 32 * 1024


#: Damage in parts that only the engine reads: key, struct code, value.
UNLOADABLE: dict[str, tuple[bytes, str, float]] = {
    "no layers": (b"llama.block_count", "I", 0),
    "more layers than weights": (b"llama.block_count", "I", 77),
    "no heads": (b"llama.attention.head_count", "I", 0),
    "another width": (b"llama.embedding_length", "I", 64),
}


async def test_files_that_only_the_engine_finds_wrong_end_its_process_and_no_other(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    header, size = header_of(model_file), model_file.stat().st_size
    for name, (key, code, value) in UNLOADABLE.items():
        write(tmp_path / f"{name}.gguf", patched(header, value_at(header, key), code, value), size)
    (tmp_path / "good.gguf").symlink_to(model_file)
    adapter = await serve(tmp_path)
    assert len(adapter.list_models()) == len(UNLOADABLE) + 1

    for name in UNLOADABLE:
        with pytest.raises(EngineUnavailable) as caught:
            await adapter.generate_completion(name, HELLO)
        assert caught.value.message.startswith(f"{name}: ")
        assert caught.value.status == 503

    assert (await adapter.generate_completion("good", HELLO))["choices"]


async def test_a_model_that_is_larger_than_the_memory_is_not_started(tmp_path: Path, make: Make, run_dir: Path) -> None:
    elements = (int(memory_bytes()) // 4 + 2**28) // 64 * 64
    name, value, tensor = b"general.architecture", b"llama", b"w"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(value)) + value
    header += struct.pack("<Q", len(tensor)) + tensor + struct.pack("<IQIQ", 1, elements, 0, 0)
    path = write(tmp_path / "huge.gguf", header, elements * 4 + 4096)

    with pytest.raises(EngineFailed, match="MB of memory"):
        await make().ensure(path, "huge")

    assert not list(run_dir.glob("*.log"))


def test_the_memory_is_the_least_of_the_machines_and_its_cgroups(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemFree:        1 kB\n")
    (tmp_path / "a/b").mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")

    assert memory_bytes(tmp_path / "meminfo", tmp_path, own) == 2000 * 1024
    (tmp_path / "a/b/memory.max").write_text("max\n")
    (tmp_path / "a/memory.max").write_text("1000\n")
    assert memory_bytes(tmp_path / "meminfo", tmp_path, own) == 1000
    assert memory_bytes(tmp_path / "none", tmp_path / "none", own) == float("inf")


# Engines of our own making


def fake_engine(folder: Path, code: str) -> str:
    """Put a package in ``folder`` that passes for the engine's, and return the folder."""
    package = folder / "xllamacpp"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    return str(folder)


SEGFAULT = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
NEVER_READY = "import time\ntime.sleep(600)\n"


async def test_an_engine_that_crashes_while_it_loads_is_started_only_so_often(
    model_file: Path, tmp_path: Path, make: Make, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(fake_engine(tmp_path, SEGFAULT))
    supervisor = make(backoff_s=0.3)

    reasons = []
    for _ in range(6):
        with pytest.raises(EngineFailed) as caught:
            await supervisor.ensure(model_file, "tiny")
        reasons.append(caught.value.reason)

    assert "SIGSEGV" in reasons[0]
    assert "keeps failing" in reasons[-1]
    (failures,) = run_dir.glob("*.failures")
    times = json.loads(failures.read_text())["times"]
    assert len(times) == 4
    assert times[2] - times[1] >= 0.3
    assert times[3] - times[2] >= 0.6


async def test_while_an_engine_takes_long_to_load_the_answer_is_503_and_when_to_come_back(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(fake_engine(tmp_path, NEVER_READY))
    (tmp_path / "slow.gguf").symlink_to(model_file)
    adapter = await serve(tmp_path, start_timeout_s=0.5)

    with pytest.raises(EngineUnavailable) as caught:
        await adapter.generate_completion("slow", HELLO)

    assert "not ready within 0.5 s" in caught.value.message
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)


# Templates


async def test_a_template_cannot_reach_out_of_the_engine(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    with_template(model_file, tmp_path / "escaping.gguf", ESCAPING)
    adapter = await serve(tmp_path)

    with pytest.raises(GatewayError) as caught:
        await adapter.generate_completion("escaping", HELLO)

    assert "subclasses" not in caught.value.message


async def test_a_template_without_an_end_times_out_and_the_engine_is_replaced(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any], run_dir: Path
) -> None:
    with_template(model_file, tmp_path / "endless.gguf", ENDLESS)
    adapter = await serve(tmp_path, timeouts=Timeouts(first_event_s=1.0))
    await warm(adapter, "endless")
    (before,) = loaded_engines(run_dir)

    for _ in range(2):
        with pytest.raises(UpstreamTimeout):
            await adapter.generate_completion("endless", [{"role": "user", "content": "spin"}])
    await warm(adapter, "endless")

    (after,) = loaded_engines(run_dir)
    assert after.pid != before.pid


async def warm(adapter: LocalModelAdapter, model: str) -> None:
    """Have an answer; the machine may be so busy that the first take too long."""
    deadline = time.monotonic() + 60
    while True:
        try:
            await adapter.generate_completion(model, HELLO, max_tokens=1)
        except UpstreamTimeout:
            assert time.monotonic() < deadline
        else:
            return


STRICT = (
    "{% for m in messages %}{% if 'boom' in m.content %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


async def test_what_a_template_refuses_is_the_callers_fault(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    with_template(model_file, tmp_path / "strict.gguf", STRICT)
    adapter = await serve(tmp_path)

    with pytest.raises(UpstreamRejected) as caught:
        await adapter.generate_completion("strict", [{"role": "user", "content": "boom"}])

    assert (caught.value.status, caught.value.param) == (400, "messages")
    assert caught.value.message == "The model's chat template refuses these messages: Roles must alternate"


async def test_what_the_engine_says_can_be_hidden_from_clients(model_file: Path, tmp_path: Path) -> None:
    with_template(model_file, tmp_path / "strict.gguf", STRICT)
    local = LocalConfig(models_dir=str(tmp_path), slots=1, slot_context=512)
    registry = build_registry(Config(adapters={"local": local}, errors=ErrorsConfig(upstream_text="hide")))
    await registry.start()

    try:
        with pytest.raises(UpstreamRejected) as caught:
            await registry.generate_completion(model="strict", messages=[{"role": "user", "content": "boom"}])
    finally:
        await registry.aclose()

    assert (caught.value.status, caught.value.param) == (400, "messages")
    assert caught.value.message == "The model's chat template refuses these messages."


async def test_a_template_with_tools_has_native_calls(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    with_template(model_file, tmp_path / "tools.gguf", WITH_TOOLS)
    adapter = await serve(tmp_path, slot_context=1024)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    messages: list[dict[str, Any]] = []
    for city in ("Rome", "Oslo", "Lima", "Cairo"):
        call = f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
        messages += [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": call},
        ]
    messages.append({"role": "user", "content": "Weather in Paris?"})

    answer = await adapter.generate_completion("tools", messages, tools=tools, temperature=0, max_tokens=60)

    assert isinstance(answer, dict)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}


# Slots and room


async def test_a_full_queue_is_answered_with_503_and_the_next_in_line_is_served(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    (tmp_path / "tiny.gguf").symlink_to(model_file)
    adapter = await serve(tmp_path, queue=1)
    holding = await adapter.generate_completion("tiny", HELLO, max_tokens=100, stream=True)
    waiting = asyncio.create_task(adapter.generate_completion("tiny", HELLO, max_tokens=1))
    await asyncio.sleep(0)

    with pytest.raises(QueueFull) as caught:
        await adapter.generate_completion("tiny", HELLO, max_tokens=1)

    assert (caught.value.status, caught.value.retry_after_s) == (503, 5.0)
    await holding.aclose()
    assert (await asyncio.wait_for(waiting, 60))["choices"]


async def test_the_least_recently_used_idle_model_makes_room(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any], run_dir: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.gguf").symlink_to(model_file)
    adapter = await serve(tmp_path, max_loaded=2)

    for name in ("a", "b", "a", "c"):
        await adapter.generate_completion(name, HELLO, max_tokens=1)

    assert [Path(each.model).stem for each in loaded_engines(run_dir)] == ["a", "c"]
    assert all((each.memory_bytes or 0) > 50_000_000 for each in loaded_engines(run_dir))
    await adapter.generate_completion("b", HELLO, max_tokens=1)
    assert [Path(each.model).stem for each in loaded_engines(run_dir)] == ["c", "b"]
    assert not list(run_dir.glob("*.failures")), "it ended in order"


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"waited too long until {what}"
        await asyncio.sleep(0.05)


async def test_a_file_that_is_replaced_is_served_anew_and_one_that_is_removed_is_not(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any], run_dir: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    shutil.copyfile(model_file, path)
    adapter = await serve(tmp_path)
    await adapter.generate_completion("tiny", HELLO, max_tokens=1)
    (before,) = loaded_engines(run_dir)
    os.utime(path, (1, 1))

    await until(lambda: before.name not in {each.name for each in loaded_engines(run_dir)}, "the old engine has ended")
    await adapter.generate_completion("tiny", HELLO, max_tokens=1)
    (after,) = loaded_engines(run_dir)
    path.unlink()

    assert after.pid != before.pid
    await until(lambda: adapter.list_models() == [], "it is not listed any more")


async def test_a_busy_model_finishes_its_answer_before_it_makes_room(
    model_file: Path, tmp_path: Path, serve: Callable[..., Any], run_dir: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").symlink_to(model_file)
    adapter = await serve(tmp_path, max_loaded=1)
    busy = await adapter.generate_completion("a", HELLO, max_tokens=60, logit_bias={"2": -100}, stream=True)
    other = asyncio.create_task(adapter.generate_completion("b", HELLO, max_tokens=1))

    async with busy:
        chunks = [chunk async for chunk in busy]

    assert len(chunks) > 20
    assert (await asyncio.wait_for(other, 60))["choices"]
    assert [Path(each.model).stem for each in loaded_engines(run_dir)] == ["b"]
