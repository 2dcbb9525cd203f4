"""``/metrics`` of a real gateway with two processes: what every request adds, who may scrape, and silent processes."""

import concurrent.futures
import gzip
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from one_api.app import create_app
from one_api.config import Config
from tests.serving.clients import wait_until
from tests.support import (
    Gateway,
    Hang,
    ScriptedUpstream,
    WaitFor,
    build_request,
    error,
    freeze,
    post_chat,
    sse,
    text_chunks,
    tokens,
)
from tests.support.running_time import PATIENCE_S, RunningTime

from .bed import KEY, Bed, adapter, running_bed, yaml

TOKEN = "scrape-0123456789"
#: The values of all labels, by name, and without the worker's.
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def pair() -> Iterator[Bed]:
    """A gateway with two processes that caches what is asked for twice."""
    cache = {"enabled": True}
    with running_bed({"workers": 2, "commit_s": 0.2}, cache=cache, metrics={"per_key": True}) as running:
        wait_for_total(running, 2, "one_api_worker_up")
        yield running


def scrape(bed: Bed) -> list[tuple[str, dict[str, str], float]]:
    """Every sample, by name, labels and value, as Prometheus's own client reads them."""
    answer = bed.get("/metrics", key=None)
    assert answer.status == 200, answer.body
    families = text_string_to_metric_families(answer.body.decode())
    return [(each.name, each.labels, each.value) for family in families for each in family.samples]


def scrape_all(bed: Bed) -> list[tuple[str, dict[str, str], float]]:
    """Every sample of a scrape to which every process has answered: on a busy machine one may be late for it."""
    deadline = time.monotonic() + 10
    while True:
        samples = scrape(bed)
        if all(value for name, _, value in samples if name == "one_api_worker_up"):
            return samples
        assert time.monotonic() < deadline, "a process does not answer"


def total(bed: Bed, name: str, **wanted: str) -> float:
    """The sum of the samples of a metric that have these labels, over all processes."""
    return sum(value for found, labels, value in scrape_all(bed) if found == name and wanted.items() <= labels.items())


def wait_for_total(bed: Bed, at_least: float, name: str, **wanted: str) -> None:
    """Return once so much is counted: the last byte of an answer may be read before its request has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := total(bed, name, **wanted)) < at_least:
        assert time.monotonic() < deadline, f"{name} {wanted} is {found}, not {at_least}"
        time.sleep(0.02)


def test_every_process_is_in_every_scrape_and_no_series_falls(pair: Bed) -> None:
    model = pair.model()
    asked = 200

    def ask(_: int) -> int:
        return pair.ask(model, stream=True, headers={"Cache-Control": "no-store"}).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = pool.map(ask, range(asked))
        before: Series = {}
        for _ in range(10):
            found = {(name, tuple(sorted(labels.items()))): value for name, labels, value in scrape_all(pair)}
            counted = [key for key in found if key[0].endswith(("_total", "_bucket", "_count", "_sum"))]
            assert {dict(labels)["worker"] for _, labels in counted} == {"0", "1"}
            assert [(key, found[key]) for key in counted if found[key] < before.get(key, 0)] == []
            before = found
        assert set(statuses) == {200}

    wait_for_total(pair, asked, "one_api_requests_total", model=model)
    assert [total(pair, "one_api_requests_total", model=model) for _ in range(10)] == [asked] * 10
    assert total(pair, "one_api_request_duration_seconds_count", model=model) == asked


def test_names_that_clients_make_up_add_no_series(pair: Bed) -> None:
    pair.ask("no-such-model")
    pair.get("/nowhere")
    before = len(pair.get("/metrics", key=None).body)

    with pair.connect() as client:
        for number in range(300):
            asks = post_chat(pair.gateway.host, pair.gateway.port, {"model": f"x-{number}", "messages": []})
            client.send(asks + build_request("GET", f"/p-{number}", pair.gateway.host, pair.gateway.port))
            for _ in range(2):
                client.read_response()

    named = [labels for name, labels, _ in scrape(pair) if name == "one_api_requests_total"]
    assert len({tuple(each.values()) for each in named if each["model"] == "unknown"}) <= 2  # one for each process
    assert len(pair.get("/metrics", key=None).body) - before < 8192  # the other process's first ones, and digits


def test_a_failover_a_broken_stream_and_a_client_that_leaves(pair: Bed) -> None:
    model, broken, left = pair.model("pair"), pair.model(), pair.model()
    pair.a.on(model, error(500))
    pair.a.on(broken, sse(*text_chunks("a", finish=None), done=False))
    pair.a.on(left, sse(*text_chunks("a", finish=None), Hang(), done=False))

    pair.ask(model)
    pair.ask(broken, stream=True)
    wait_for_total(pair, 1, "one_api_requests_total", model=broken, outcome="upstream_broken")
    with pair.begin(left):
        # Streams of earlier tests may be ending.
        wait_until(lambda: total(pair, "one_api_streams_in_flight") == 1, "the only stream")
        wait_until(lambda: total(pair, "one_api_requests_in_flight") == 1, "the only request")

    wait_for_total(pair, 1, "one_api_requests_total", model=left, outcome="client_gone")
    assert total(pair, "one_api_attempts_total", deployment=f"a/{model}", outcome="UpstreamFailed") == 1
    assert total(pair, "one_api_attempts_total", deployment=f"b/{model}", outcome="ok") == 1
    assert total(pair, "one_api_failovers_total", model=model, kind="retry") == 1
    assert total(pair, "one_api_requests_total", model=broken, outcome="upstream_broken") == 1
    assert total(pair, "one_api_streams_broken_total", model=broken, after="content") == 1
    assert total(pair, "one_api_circuit_state", deployment=f"b/{model}") == 1
    assert total(pair, "one_api_circuit_state", deployment=f"b/{model}", state="closed") == 1


def test_a_stream_that_fails_before_content_has_broken_after_its_first_bytes(pair: Bed) -> None:
    gate, model = threading.Event(), pair.model()
    pair.a.on(model, sse(WaitFor(gate), done=False))

    with pair.begin(model) as begun:
        begun.next()  # a heartbeat
        gate.set()
        begun.rest()

    wait_for_total(pair, 1, "one_api_streams_broken_total", model=model, after="first")


def test_kept_and_shared_answers_are_counted_and_cost_once(pair: Bed) -> None:
    model, gate = pair.model(), threading.Event()
    pair.a.on(model, sse(*text_chunks("a", finish=None), WaitFor(gate), *text_chunks("b", usage=tokens(7, 5))[1:]))
    other = pair.gateway.worker_pids(at_least=2)[1]
    freeze(other)  # kept answers are of one process
    try:
        with pair.begin(model) as leader:
            leader.next()
            with pair.begin(model) as joiner:
                joiner.next()
                gate.set()
                leader.rest()
                joiner.rest()
        hit, late = pair.ask(model, stream=True), 0
        while hit.header("x-gateway-cache") == "joined" and late < 100:  # the call has not let go of its upstream yet
            hit, late = pair.ask(model, stream=True), late + 1
    finally:
        os.kill(other, signal.SIGCONT)
    bypass = pair.ask(model, stream=True, headers={"Cache-Control": "no-store"})

    assert (hit.header("x-gateway-cache"), bypass.header("x-gateway-cache")) == ("hit", "bypass")
    wait_for_total(pair, 4 + late, "one_api_requests_total", model=model)
    assert total(pair, "one_api_requests_total", model=model, outcome="cached") == 1
    assert total(pair, "one_api_requests_total", model=model, outcome="ok") == 3 + late
    assert total(pair, "one_api_attempts_total", deployment=f"a/{model}") == 2
    results = {each: total(pair, "one_api_cache_requests_total", result=each) for each in ("hit", "joined")}
    assert results == {"hit": 1, "joined": 1 + late}
    assert total(pair, "one_api_tokens_total", model=model, type="output") == 10  # of the two that were asked for


def test_keys_are_counted_by_name_where_that_is_wanted(pair: Bed) -> None:
    pair.ask(pair.model())

    names = {labels["key"] for name, labels, _ in scrape(pair) if name == "one_api_key_requests_total"}
    (name,) = names
    assert name.startswith("key-")
    assert KEY not in pair.get("/metrics", key=None).body.decode()


def test_a_process_that_does_not_answer_is_left_out_and_told(pair: Bed) -> None:
    pids = pair.gateway.worker_pids()
    for pid in pids:
        freeze(pid)
        try:
            with RunningTime() as took:
                found = scrape(pair)
        finally:
            os.kill(pid, signal.SIGCONT)
        up = {labels["worker"]: value for name, labels, value in found if name == "one_api_worker_up"}
        assert sorted(up.values()) == [0, 1]
        silent = next(worker for worker, value in up.items() if value == 0)
        assert not [name for name, labels, _ in found if labels["worker"] == silent and name != "one_api_worker_up"]
        assert took.seconds < 2  # 0.5 s for the silent one, and this machine's other work

    wait_for_total(pair, 2, "one_api_worker_up")


def test_one_that_takes_the_place_of_a_dead_process_gets_its_number(pair: Bed) -> None:
    old = pair.gateway.worker_pids(at_least=2)
    os.kill(old[0], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while {labels["worker"] for name, labels, value in scrape(pair) if name == "one_api_worker_up"} != {"0", "1"} or (
        set(pair.gateway.worker_pids(at_least=2)) == set(old)
    ):
        assert time.monotonic() < deadline


def test_what_dead_processes_have_left_behind_is_no_process(pair: Bed) -> None:
    """In a container that starts again ids come again: another process has that of the dead one."""
    wait_for_total(pair, 2, "one_api_worker_up")
    (folder,) = Path(pair.gateway.environment["TMPDIR"]).glob("one_api-*/processes")
    pids = pair.gateway.worker_pids(at_least=2)
    for slot, pid in itertools.product(range(9), pids):
        path = folder / f"{pair.gateway.port}-{pair.gateway.pid}-{slot}-{pid}.sock"
        if not path.exists():
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))

    found = scrape_all(pair)

    up = sorted((labels["worker"], value) for name, labels, value in found if name == "one_api_worker_up")
    assert up == [("0", 1), ("1", 1)]
    assert len({(name, *labels.items()) for name, labels, _ in found}) == len(found)


def test_of_a_thousand_names_every_process_tells() -> None:
    names = [f"{number}-{'x' * 400}" for number in range(250)]
    with ScriptedUpstream() as upstream:
        gateway = Gateway(env={"WEB_CONCURRENCY": "2", "RATE_LIMIT_REQUESTS": "100000"})
        gateway.config_yaml = yaml(adapters={"a": adapter(upstream, names)})
        with gateway:
            bed = Bed(gateway, {"a": upstream})
            for held in gateway.worker_pids(at_least=2):
                freeze(held)  # so that the other one serves
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    assert set(pool.map(lambda name: bed.ask(name, stream=True).status, names)) == {200}
                os.kill(held, signal.SIGCONT)

            def told(name: str) -> int:  # others' parsers take seconds for so much
                text = bed.get("/metrics", key=None).body
                return sum(int(value) for value in re.findall(rf"^{name}{{.*}} (\d+)$".encode(), text, re.MULTILINE))

            wait_until(lambda: told("one_api_requests_total") == 2 * len(names), "every request to be counted")
            assert [told("one_api_requests_total") for _ in range(4)] == [2 * len(names)] * 4
            assert told("one_api_worker_up") == 2


def test_after_a_reload_the_states_of_deployments_are_still_told() -> None:
    with running_bed({"workers": 1}) as bed:
        model = bed.model()
        bed.a.on(model, error(500))
        for _ in range(3):
            bed.ask(model)
        assert total(bed, "one_api_circuit_state", deployment=f"a/{model}", state="open") == 1

        settings = json.loads(bed.gateway.config_path.read_text())
        bed.gateway.config_path.write_text(yaml(**settings | {"reload": {"cut_revoked": True}}))
        bed.gateway.hang_up()
        bed.gateway.wait_for_log("configuration reloaded")

        assert total(bed, "one_api_circuit_state", deployment=f"a/{model}", state="open") == 1
        assert total(bed, "one_api_circuit_openings_total", deployment=f"a/{model}") == 1


@pytest.mark.parametrize("accepted", ["gzip;q=0", "identity", "gzip;q=0, identity;q=1", ""])
def test_a_scraper_that_wants_no_gzip_gets_none(pair: Bed, accepted: str) -> None:
    answer = pair.get("/metrics", key=None, headers={"Accept-Encoding": accepted})

    assert answer.header("content-encoding") is None
    assert answer.body.startswith(b"# HELP")


def test_a_scraper_may_have_it_compressed(pair: Bed) -> None:
    answer = pair.get("/metrics", key=None, headers={"Accept-Encoding": "gzip"})

    assert answer.header("content-encoding") == "gzip"
    assert b"# TYPE one_api_requests_total counter" in gzip.decompress(answer.body)


def test_probes_and_scrapes_are_no_requests(pair: Bed) -> None:
    pair.get("/health", key=None)

    routes = {labels["route"] for name, labels, _ in scrape(pair) if name == "one_api_requests_total"}
    assert not routes & {"/health", "/ready", "/metrics"}


def test_the_configuration_and_the_process_are_told(pair: Bed) -> None:
    found = {name: value for name, _, value in scrape(pair)}

    assert found["one_api_config_last_reload_successful"] == 1
    assert abs(found["one_api_config_last_reload_success_timestamp_seconds"] - time.time()) < 600
    assert found["one_api_config_info"] == found["one_api_build_info"] == 1
    assert abs(found["process_start_time_seconds"] - time.time()) < 600
    assert found["process_resident_memory_bytes"] > 10_000_000
    assert 5 < found["process_open_fds"] <= found["process_max_fds"]
    assert found["one_api_event_loop_lag_seconds_count"] > 0
    assert found["one_api_connections"] >= 0


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_without_a_token_nobody_scrapes_through_a_proxy(pair: Bed, header: str) -> None:
    answer = pair.get("/metrics", key=None, headers={header: "127.0.0.1"})

    assert answer.status == 403
    assert "metrics.token" in answer.error["message"]


def test_with_a_token_it_is_asked_for_everywhere() -> None:
    with running_bed({"workers": 1}, metrics={"token": TOKEN}, rate_limit={"requests_per_minute": 1}) as bed:
        answers = [bed.get("/metrics", key=key, headers={"X-Forwarded-For": "1.2.3.4"}) for key in (None, "no", KEY)]
        assert [answer.status for answer in answers] == [401] * 3
        assert TOKEN not in "".join(answer.body.decode() for answer in answers)

        assert [bed.get("/v1/models").status for _ in range(2)] == [200, 429]
        found = bed.get("/metrics", key=TOKEN, headers={"X-Forwarded-For": "1.2.3.4"})

        assert found.status == 200
        # The scheme is written in any case, as everywhere in HTTP (RFC 9110, 11.1).
        ways = {"bearer {}": 200, "BEARER  {}": 200, "Basic {}": 401, "{}": 401, "Bearer {}x": 401, "Bearer": 401}
        for way, status in ways.items():
            assert bed.get("/metrics", key=None, headers={"Authorization": way.format(TOKEN)}).status == status, way
        assert 'one_api_limit_refusals_total{limit="requests",worker="0"} 1' in found.body.decode()
        assert TOKEN not in bed.gateway.log


def test_without_a_token_another_machine_is_refused() -> None:
    app = create_app(Config.load({"API_KEYS": "c", "LOCAL_MODELS_ENABLED": "false"}))

    answer = app.test_client().get("/metrics", environ_base={"REMOTE_ADDR": "203.0.113.7"})

    assert answer.status_code == 403
    assert b"metrics.token" in answer.data
