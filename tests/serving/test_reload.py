"""A changed configuration is taken over by the running processes: nothing is cut, refused or lost."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import Gateway, Response, ScriptedUpstream, WaitFor, error, run_program, sse, text_chunks

from .clients import ask, chat, connect, request, wait_until

ADMIN = {"Authorization": "Bearer admin-key"}
WORKERS, RELOADS, STREAMS = 2, 10, 20
DONE = "data: [DONE]"
WHOLE = text_chunks("Hel", "lo")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["m", "gated"]) as started:
        yield started


@pytest.fixture
def gate(upstream: ScriptedUpstream) -> Iterator[threading.Event]:
    """Set, it lets the model "gated" go on after its first events."""
    opened = threading.Event()
    upstream.on("gated", sse(*WHOLE[:2], WaitFor(opened), *WHOLE[2:]))
    yield opened
    opened.set()


class Reloadable:
    """A gateway and its file."""

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        self.gateway = gateway
        self._upstream = upstream

    def sections(self, **changed: Any) -> dict[str, Any]:
        """The configuration that it was started with, and what is different."""
        server = {"workers": WORKERS, "host": self.gateway.host, "port": self.gateway.port}
        sections = {
            "server": server,
            "api_keys": [{"key": "test-key", "name": "first"}],
            "adapters": {"a": self.adapter(["m", "gated"])},
            "rate_limit": {"requests_per_minute": 100_000},
        }
        return sections | changed

    def adapter(self, models: list[str], **settings: Any) -> dict[str, Any]:
        """An adapter over the upstream."""
        return {"type": "openai", "base_url": self._upstream.base_url, "models": models, **settings}

    def write(self, **changed: Any) -> None:
        """Edit the file."""
        self.gateway.config_path.write_text(json.dumps(self.sections(**changed)))

    def processes(self) -> list[dict[str, Any]]:
        """What every process says of its configuration."""
        answer = ask(self.gateway, request(self.gateway, "GET", "/admin/config", ADMIN))
        assert answer.status == 200, answer.body
        return list(json.loads(answer.body)["processes"])

    def all_processes(self, loaded_since: dict[int, Any] | None = None) -> list[dict[str, Any]]:
        """The same, once every worker is there, and none has last loaded at one of these times."""
        found: list[dict[str, Any]] = []

        def all_have() -> bool:
            found[:] = self.processes()
            times = [(each["process"], each["last_reload"].get("time")) for each in found]
            return len(found) == WORKERS and (
                loaded_since is None or all(time not in (None, loaded_since.get(process)) for process, time in times)
            )

        wait_until(all_have, "every process to answer and to have loaded")
        return found

    def digests(self) -> set[str]:
        """The digests in use, once every worker is there."""
        return {each["digest"] for each in self.all_processes()}

    def hang_up(self) -> list[dict[str, Any]]:
        """Ring, and return what every process says once each has heard of it."""
        before = {each["process"]: each["last_reload"].get("time") for each in self.all_processes()}
        self.gateway.hang_up()
        return self.all_processes(loaded_since=before)

    def apply(self, **changed: Any) -> list[dict[str, Any]]:
        """Edit the file and ask for a reload; every process takes it over."""
        self.write(**changed)
        found = self.hang_up()
        assert {each["last_reload"]["result"] for each in found} <= {"applied", "unchanged"}, found
        return found

    def ask(self, model: str = "m", key: str = "test-key") -> Response:
        """Ask for a completion."""
        return ask(self.gateway, chat(self.gateway, model, key=key))


@pytest.fixture(scope="module")
def running(upstream: ScriptedUpstream) -> Iterator[Reloadable]:
    gateway = Gateway(env={"SECRET": "sk-from-the-environment"}, stop_timeout_s=10.0)
    bed = Reloadable(gateway, upstream)
    gateway.config_yaml = json.dumps(bed.sections())
    with gateway:
        gateway.worker_pids(at_least=WORKERS)
        bed.digests()
        yield bed


@pytest.fixture
def bed(running: Reloadable) -> Iterator[Reloadable]:
    """The gateway, with what it was started with; its processes and its master stay the same in every test."""
    running.apply()
    yield running
    running.all_processes()


def open_stream(stack: ExitStack, bed: Reloadable, key: str = "test-key") -> Iterator[str]:
    """A stream of the model "gated" that has begun."""
    client = stack.enter_context(connect(bed.gateway))
    client.send(chat(bed.gateway, "gated", stream=True, key=key))
    events = client.iter_events(client.read_head())
    next(events)
    return events


def test_reloads_cut_and_refuse_nothing(bed: Reloadable, gate: threading.Event) -> None:
    pids = bed.gateway.worker_pids(at_least=WORKERS)
    with ExitStack() as stack:
        streams = [open_stream(stack, bed) for _ in range(STREAMS)]
        for number in range(RELOADS):
            bed.write(adapters={"a": bed.adapter(["m", "gated", f"m-{number}"])})
            bed.gateway.hang_up()
            assert bed.ask().status == 200
        wait_until(lambda: bed.ask(f"m-{RELOADS - 1}").status == 200, "the last file to win")
        gate.set()
        assert [list(events)[-1] for events in streams] == [DONE] * STREAMS
    assert bed.gateway.worker_pids() == pids


BAD = {
    "no YAML": "adapters: [",
    "unknown setting": json.dumps({"adapterz": {}}),
    "wrong kind": json.dumps({"rate_limit": {"requests_per_minute": "many"}}),
    "unset variable": json.dumps({"api_keys": [{"key": "${NOT_SET_ANYWHERE}"}]}),
    "missing secret": json.dumps({"api_keys": [{"key": "${file:/nowhere/secret}"}]}),
    "being written": "",
    "emptied": "---\nnull\n",
    "blank": " \n",
    "no file": None,
    "nested without end": "a: " + "[" * 100_000 + "]" * 100_000,
    "nested in lines": "".join(" " * level + "a:\n" for level in range(3000)),
    "aliases of aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)),
    "an alias of itself": "a: &a [*a]\n",
    "thousands of slips": "".join(f"adapterz{n}: 1\n" for n in range(20_000)),
    "too large": "# x\n" * 5_000_000,
    "a device in place of a secret": json.dumps({"api_keys": [{"key": "${file:/dev/zero}"}]}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_file_changes_nothing(bed: Reloadable, text: str | None) -> None:
    pids, before = bed.gateway.worker_pids(at_least=WORKERS), bed.digests()
    bed.gateway.config_path.unlink() if text is None else bed.gateway.config_path.write_text(text)
    found = bed.hang_up()
    assert {each["last_reload"]["result"] for each in found} == {"refused"}
    assert all(each["last_reload"]["problems"] for each in found)
    assert {each["digest"] for each in found} == before
    assert bed.ask().status == 200
    assert bed.gateway.worker_pids() == pids


def test_a_signal_to_all_of_its_processes_cuts_nothing(bed: Reloadable, gate: threading.Event) -> None:
    """As `pkill -HUP gunicorn` and `systemctl kill --signal=HUP` send it."""
    pids = bed.gateway.worker_pids(at_least=WORKERS)
    with ExitStack() as stack:
        streams = [open_stream(stack, bed) for _ in range(4)]
        bed.write(adapters={"a": bed.adapter(["m", "gated", "by-all"])})
        os.killpg(bed.gateway.pid, signal.SIGHUP)
        wait_until(lambda: all(bed.ask("by-all").status == 200 for _ in range(5)), "the edit to be applied")
        gate.set()
        assert [list(events)[-1] for events in streams] == [DONE] * 4
    assert bed.gateway.worker_pids() == pids


@pytest.mark.parametrize(
    ("text", "is_requested"),
    [("adapters: [", True), ("adapters: [", False), (json.dumps({"adapters": {}}), False)],
    ids=["bad and requested", "bad", "edited"],
)
def test_a_worker_that_starts_later_has_what_was_applied_last(bed: Reloadable, text: str, is_requested: bool) -> None:
    bed.apply(adapters={"a": bed.adapter(["m", "gated", "applied"])})
    before = bed.digests()
    bed.gateway.config_path.write_text(text)
    if is_requested:
        bed.hang_up()
    killed = bed.gateway.worker_pids(at_least=WORKERS)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(killed) & set(bed.gateway.worker_pids(0)), "the workers to be replaced")
    bed.gateway.worker_pids(at_least=WORKERS)
    wait_until(lambda: _answers(bed), "the new workers to serve")
    assert bed.digests() == before
    assert bed.ask("applied").status == 200


def _answers(bed: Reloadable) -> bool:
    try:
        return bed.ask().status == 200 and len(bed.processes()) == WORKERS
    except (OSError, EOFError):
        return False


def test_a_new_key_and_model_work_and_a_removed_key_is_refused_while_its_stream_goes_on(
    bed: Reloadable, gate: threading.Event
) -> None:
    with ExitStack() as stack:
        events = open_stream(stack, bed)
        bed.apply(api_keys=[{"key": "second-key"}], adapters={"b": bed.adapter(["m", "new"])})
        assert bed.ask("new", "second-key").status == 200
        assert bed.ask("m", "test-key").status == 401
        assert bed.ask("gated", "second-key").status == 404
        gate.set()
        assert list(events)[-1] == DONE
    bed.apply()
    assert (bed.ask().status, bed.ask(key="second-key").status) == (200, 401)


def test_an_adapter_that_is_gone_is_closed_after_its_last_stream(
    bed: Reloadable, upstream: ScriptedUpstream, gate: threading.Event
) -> None:
    with ScriptedUpstream(["other"]) as other, ExitStack() as stack:
        events = open_stream(stack, bed)
        elsewhere = {"type": "openai", "base_url": other.base_url, "models": ["other"]}
        bed.apply(adapters={"b": elsewhere})
        assert bed.ask("other").status == 200
        gate.set()
        assert list(events)[-1] == DONE
        wait_until(lambda: upstream.open_connections == 0, "every connection to be closed")


def failures(bed: Reloadable, model: str) -> int:
    """The failures that all processes count for a model."""
    found: dict[str, Any] = {}

    def all_answer() -> bool:
        found.update(json.loads(ask(bed.gateway, request(bed.gateway, "GET", f"/admin/routes/{model}", ADMIN)).body))
        return len(found["others"]) == WORKERS - 1

    wait_until(all_answer, "every process to answer")
    tables = [table for view in (found, *found["others"]) for table in view["tables"] if not table["stream"]]
    return sum(row["failures"] for table in tables for row in table["candidates"])


@pytest.mark.parametrize(
    ("changed", "kept"),
    [({"weight": 5}, 1), ({"timeouts": {"total_s": 5}}, 1), ({"api_key": "sk-corrected"}, 0)],
    ids=["weight", "timeouts", "credential"],
)
def test_a_deployment_is_known_on_unless_its_upstream_changes(
    bed: Reloadable, upstream: ScriptedUpstream, changed: dict[str, Any], kept: int
) -> None:
    model = f"fails-{next(iter(changed))}"
    upstream.on(model, error(500))
    bed.apply(adapters={"a": bed.adapter([model])}, retry={"max_attempts": 1})
    bed.ask(model)
    assert failures(bed, model) == 1
    bed.apply(adapters={"a": bed.adapter([model], **changed)}, retry={"max_attempts": 1})
    assert failures(bed, model) == kept


@pytest.mark.parametrize("text", [None, "adapters: [", "changed"], ids=["unchanged", "refused", "applied"])
def test_one_line_of_the_log_says_what_came_of_a_reload(bed: Reloadable, text: str | None) -> None:
    marked = {"a": bed.adapter(["m", f"said-once-{text}"])}
    digests = {each["digest"] for each in bed.apply(adapters=marked)}
    if text is not None:
        changed = json.dumps(bed.sections(adapters={"a": bed.adapter(["m", "said-once"])}))
        bed.gateway.config_path.write_text(changed if text == "changed" else text)
    bed.hang_up()
    digests |= {each["digest"] for each in bed.hang_up()}

    def lines() -> list[str]:
        """Those that begin with one of the digests: what came before them is not counted."""
        said = [line for line in bed.gateway.log.splitlines() if "configuration reload" in line]
        return [line for line in said if any(f"digest {digest[:12]}" in line for digest in digests)]

    wait_until(lambda: len(lines()) >= 2, "the lines")
    assert len(lines()) == 2, lines()


def test_what_needs_a_restart_is_named_and_the_rest_is_applied(bed: Reloadable) -> None:
    server = {**bed.sections()["server"], "port": 1, "heartbeat_s": 3}
    found = bed.apply(server=server, adapters={"a": bed.adapter(["m", "beside"])})
    assert [each["restart_needed"] for each in found] == [["server.port"]] * WORKERS
    assert bed.ask("beside").status == 200
    bed.gateway.wait_for_log("need a restart: server.port")


def test_a_rotated_secret_in_a_file_is_used(bed: Reloadable, upstream: ScriptedUpstream) -> None:
    secret = bed.gateway.config_path.with_name("secret")
    adapters = {"a": bed.adapter(["m"], api_key=f"${{file:{secret}}}")}
    for value in ("sk-first-000000", "sk-second-00000"):
        secret.write_text(f"{value}\n")
        bed.apply(adapters=adapters)
        assert bed.ask().status == 200
        assert upstream.requests[-1].headers.first("authorization") == f"Bearer {value}"
    assert "sk-second-00000" not in bed.gateway.log


def test_a_pipe_that_nobody_writes_to_holds_up_no_later_reload(bed: Reloadable) -> None:
    pipe = bed.gateway.config_path.with_name("pipe")
    os.mkfifo(pipe)
    bed.write(adapters={"a": bed.adapter(["m"], api_key=f"${{file:{pipe}}}")})
    found = bed.hang_up()
    assert {each["last_reload"]["result"] for each in found} == {"refused"}
    assert "a pipe that nobody has written to its end" in str(found[0]["last_reload"]["problems"])
    bed.apply(adapters={"a": bed.adapter(["m", "after-the-pipe"])})
    assert bed.ask("after-the-pipe").status == 200


def test_what_a_key_has_used_counts_on(bed: Reloadable) -> None:
    limit = {"requests_per_minute": 5}
    keys = [{"key": "test-key", "name": "first"}, {"key": "sk-spent", "name": "spent"}]
    bed.apply(rate_limit=limit, api_keys=keys)
    assert [bed.ask(key="sk-spent").status for _ in range(6)] == [200] * 5 + [429]
    bed.apply(rate_limit=limit, api_keys=[*keys, {"key": "sk-another", "name": "another"}])
    assert [bed.ask(key="sk-spent").status for _ in range(4)] == [429] * 4
    assert bed.ask(key="sk-another").status == 200
    bed.apply(rate_limit={"requests_per_minute": 100_000, "concurrent": 1000}, api_keys=keys)
    assert bed.ask(key="sk-spent").status == 200


def test_files_are_watched_if_wanted(bed: Reloadable) -> None:
    bed.apply(reload={"watch_s": 0.05})
    bed.write(reload={"watch_s": 0.05}, adapters={"a": bed.adapter(["m", "watched"])})
    wait_until(lambda: all(bed.ask("watched").status == 200 for _ in range(5)), "the edit to be seen")
    bed.gateway.wait_for_log("reloaded by watch")


def command(bed: Reloadable, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run ``flask config reload`` with the gateway's own environment, and what is different."""
    arguments = ["--app", "wsgi", "config", "reload", *options]
    return run_program("flask", *arguments, env=bed.gateway.environment | env)


def test_the_command_waits_until_every_process_has_it(bed: Reloadable) -> None:
    bed.write(adapters={"a": bed.adapter(["m", "by-command"])})
    done = command(bed)
    assert done.returncode == 0, done.stderr
    assert [bed.ask("by-command").status for _ in range(5)] == [200] * 5


def test_the_command_says_what_is_wrong_and_what_needs_a_restart(bed: Reloadable) -> None:
    before = bed.digests()
    bed.gateway.config_path.write_text("adapters: [")
    refused = command(bed)
    assert (refused.returncode, "is not valid YAML" in refused.stderr) == (1, True)
    assert bed.digests() == before
    bed.write(server={**bed.sections()["server"], "backlog": 5})
    restart = command(bed)
    assert (restart.returncode, "server.backlog" in restart.stderr) == (3, True)


def test_the_command_says_how_to_reach_a_gateway_whose_address_or_key_was_changed_in_the_files(bed: Reloadable) -> None:
    bed.write(server={**bed.sections()["server"], "port": 1})
    moved = command(bed)
    assert (moved.returncode, "--url" in moved.stderr) == (1, True), moved.stderr
    assert command(bed, "--url", bed.gateway.url).returncode == 3

    bed.write(admin={"key": "sk-another-operator"})
    rotated = command(bed)
    assert (rotated.returncode, "kill -HUP" in rotated.stderr) == (1, True), rotated.stderr


def test_a_reload_that_has_begun_is_not_called_refused_when_its_end_cannot_be_seen(bed: Reloadable) -> None:
    before = bed.gateway.config_path.with_name("before.yaml")
    before.write_text(json.dumps(bed.sections()))
    bed.write(admin={"key": "sk-another-operator"})

    # It has the key that the gateway knows until it has taken over the other one.
    done = command(bed, "--timeout", "1", ONE_API_CONFIG=str(before))
    bed.write()
    bed.gateway.hang_up()
    known = request(bed.gateway, "GET", "/admin/config", ADMIN)
    wait_until(lambda: all(ask(bed.gateway, known).status == 200 for _ in range(5)), "the key to be known again")

    assert (done.returncode, "not every process" in done.stderr) == (4, True), done.stderr


@pytest.mark.parametrize("path", ["/admin/config", "/admin/routes/m"])
def test_the_operators_pages_take_no_other_key_host_or_way(bed: Reloadable, path: str) -> None:
    def status(**headers: str) -> int:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(bed.gateway, request(bed.gateway, "GET", path, given)).status

    assert status(Authorization="Bearer admin-key") == 200
    assert status(Authorization="Bearer test-key") == 403
    assert status() == 401
    assert status(Authorization="Bearer admin-key", X_Forwarded_For="203.0.113.7") == 403
    elsewhere = f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer admin-key\r\n\r\n"
    assert ask(bed.gateway, elsewhere.encode()).status == 403
    assert ask(bed.gateway, chat(bed.gateway, "m", key="admin-key")).status == 403


@pytest.mark.parametrize("cut", [True, False])
def test_streams_of_a_removed_key_are_cut_with_an_error_if_wanted_and_others_never(
    bed: Reloadable, upstream: ScriptedUpstream, gate: threading.Event, cut: bool
) -> None:
    keys = [{"key": "test-key", "name": "first"}, {"key": "sk-stays", "name": "stays"}]
    bed.apply(api_keys=keys, reload={"cut_revoked": cut})
    with ExitStack() as stack:
        cut_off, goes_on = open_stream(stack, bed), open_stream(stack, bed, "sk-stays")
        bed.apply(api_keys=keys[1:], reload={"cut_revoked": cut})
        if cut:
            assert '"key_disabled"' in list(cut_off)[-1]  # before its upstream has gone on
            assert upstream.requests[-2].ended.wait(5)
        gate.set()
        assert list(goes_on)[-1] == DONE
        assert cut or list(cut_off)[-1] == DONE
