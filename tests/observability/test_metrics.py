"""What the end of a request adds to the metrics, and the page that lists them."""

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from one_api.contract import Units, Usage
from one_api.errors import BudgetExceeded
from one_api.observability.metrics import Metrics, exposition
from one_api.records import AttemptRecord, CallRecord
from tests.support.loop_time import passes_beside

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")


async def scraped(metrics: Metrics) -> str:
    """The text of one process."""
    return "".join(exposition(metrics, [part async for part in metrics.samples("0")]))


async def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by the values of their labels, without the worker's."""
    families = text_string_to_metric_families(await scraped(metrics))
    found = [each for family in families for each in family.samples if each.name == name]
    return {tuple(value for label, value in each.labels.items() if label != "worker"): each.value for each in found}


def call(**fields: object) -> CallRecord:
    """A whole answer that took 1.5 s, of which the gateway 0.004."""
    record = CallRecord("req_1", "POST", "/v1/chat/completions", started=100.0, route="/v1/chat/completions")
    record.model = record.known_model = "m"
    record.caller, record.deployment, record.status, record.outcome = "alice", "a/m", 200, "ok"
    record.usage, record.cost, record.ended = Usage(7, 5, 3, 2, 1), 2_500_000_000, 101.5
    record.waited_s = 0.25
    record.attempts = [AttemptRecord("a/m", "ok", first_s=1.246, seconds=1.246, usage=record.usage, began=100.253)]
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def test_the_page_lists_every_metric_and_nothing_else() -> None:
    listed = dict(re.findall(r"^\| `((?:one_api|process)_\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    labels = {name: re.findall(r"`(\w+)`", text) for name, text in
              re.findall(r"^\| `((?:one_api|process)_\w+)` \| \w+ \|([^|]*)\|", PAGE, re.MULTILINE)}  # fmt: skip
    families = Metrics().families

    assert listed == {family.name: family.kind for family in families}
    assert labels == {family.name: list(family.labels) for family in families}


async def test_a_request_is_counted_once_in_each_metric() -> None:
    metrics = Metrics()

    metrics.on_call(call())

    route = "/v1/chat/completions"
    assert await samples(metrics, "one_api_requests_total") == {(route, "m", "false", "ok"): 1}
    assert await samples(metrics, "one_api_attempts_total") == {("a/m", "ok"): 1}
    assert await samples(metrics, "one_api_request_duration_seconds_sum") == {(route, "m", "false"): 1.5}
    assert await samples(metrics, "one_api_cost_usd_total") == {("m", "a/m"): 2.5}
    assert await samples(metrics, "one_api_tokens_total") == {
        ("m", "a/m", "input"): 7, ("m", "a/m", "output"): 5, ("m", "a/m", "cache_read"): 3,
        ("m", "a/m", "cache_write"): 2, ("m", "a/m", "reasoning"): 1,
    }  # fmt: skip
    (overhead_s,) = (await samples(metrics, "one_api_overhead_seconds_sum")).values()
    assert overhead_s == pytest.approx(0.004)
    assert not await samples(metrics, "one_api_key_requests_total")


async def test_a_stream_has_the_times_of_its_tokens() -> None:
    metrics = Metrics()

    metrics.on_call(call(stream=True, first_event=101.1, usage=Usage(7, 5)))

    assert await samples(metrics, "one_api_time_to_first_token_seconds_sum") == {("m",): pytest.approx(1.1)}
    assert await samples(metrics, "one_api_time_per_output_token_seconds_sum") == {("m",): pytest.approx(0.1)}


@pytest.mark.parametrize(("first_event", "after"), [(101.0, "content"), (None, "first")])
async def test_a_stream_that_breaks_is_no_success(first_event: float | None, after: str) -> None:
    metrics = Metrics()

    metrics.on_call(call(stream=True, first_event=first_event, error="upstream_timeout", outcome="upstream_broken"))

    assert await samples(metrics, "one_api_streams_broken_total") == {("m", after): 1}
    assert not await samples(metrics, "one_api_time_per_output_token_seconds_sum")


async def test_names_that_a_client_makes_up_are_no_labels() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.on_call(call(model=f"x-{number}", known_model=None, outcome="client_invalid", attempts=[]))
    metrics.on_call(call(model=None, known_model=None, route="/v1/models", attempts=[]))

    found = await samples(metrics, "one_api_requests_total")

    assert {values[1] for values in found} == {"unknown", "none"}


async def test_an_answer_that_others_pay_for_takes_no_tokens() -> None:
    metrics = Metrics()

    metrics.on_call(call(free=True, cache="joined", attempts=[], usage=Usage(0, 0)))

    assert not await samples(metrics, "one_api_tokens_total")
    assert await samples(metrics, "one_api_cache_requests_total") == {("joined",): 1}


async def test_an_attempt_that_goes_on_for_others_is_counted_when_it_has_ended() -> None:
    metrics = Metrics()
    attempt = AttemptRecord("a/m", began=100.0)
    metrics.on_call(call(outcome="client_gone", attempts=[attempt]))
    assert not await samples(metrics, "one_api_attempts_total")

    attempt.outcome, attempt.seconds = "ok", 3.0

    assert await samples(metrics, "one_api_attempts_total") == {("a/m", "ok"): 1}
    assert await samples(metrics, "one_api_attempts_total") == {("a/m", "ok"): 1}


async def test_keys_are_counted_where_that_is_wanted() -> None:
    metrics = Metrics(per_key=True)

    metrics.on_call(call())

    assert await samples(metrics, "one_api_key_requests_total") == {("alice",): 1}
    assert await samples(metrics, "one_api_key_tokens_total") == {("alice",): 12}
    assert await samples(metrics, "one_api_key_cost_usd_total") == {("alice",): 2.5}


async def test_more_labels_than_there_is_room_for_are_told() -> None:
    metrics = Metrics(max_cells=10)

    for number in range(15):
        metrics.on_call(call(known_model=f"m{number}", attempts=[]))

    assert (await samples(metrics, "one_api_label_overflow_total"))["one_api_requests_total",] == 5
    assert (await samples(metrics, "one_api_requests_total"))["/v1/chat/completions", "other", "false", "ok"] == 5


async def test_a_deployment_that_is_gone_is_forgotten_after_an_hour() -> None:
    metrics = Metrics()
    metrics.on_call(call())

    metrics.forget({"a/m"}, 1000.0)
    metrics.forget({"a/m"}, 4500.0)
    assert metrics.deployments == {"a/m"}
    metrics.forget(set(), 4550.0)  # it came back
    metrics.forget({"a/m"}, 4700.0)
    metrics.forget({"a/m"}, 8299.0)
    assert metrics.deployments == {"a/m"}
    metrics.forget({"a/m"}, 8300.0)

    assert metrics.deployments == set()


async def test_a_long_text_is_written_in_turns_with_others() -> None:
    metrics = Metrics()
    for number in range(500):
        metrics.on_call(call(known_model=f"m{number}"))

    text, passes = await passes_beside(lambda: scraped(metrics))

    assert passes >= text.count("\n") / 300


async def test_a_scrape_of_thousands_of_series_never_has_the_loop_for_long() -> None:
    metrics = Metrics()
    for number in range(40):
        for stream in (False, True):
            first_event = 101.3 if stream else None
            deployment = f"a/m{number}"
            attempts = [AttemptRecord(deployment, "ok", first_s=1.2, seconds=1.2, began=100.1)]
            metrics.on_call(call(known_model=f"m{number}", stream=stream, first_event=first_event, attempts=attempts))
    turns: list[float] = []

    async def others() -> None:
        # CPU time: what else runs on the machine does not count.
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            turns.append((now := time.thread_time()) - last)
            last = now

    task = asyncio.create_task(others())
    longest = []
    for _ in range(5):
        turns.clear()
        assert (await scraped(metrics)).count("\n") > 3300
        longest.append(max(turns))
    task.cancel()

    assert min(longest) < 0.001
    # However slow the machine: no step writes more than this, or one histogram more.
    assert max([text.count("\n") async for part in metrics.samples("0") for text in part.values()]) <= 50 + 20


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
async def test_promtool_finds_nothing_wrong() -> None:
    metrics = Metrics(per_key=True)
    metrics.on_call(call(stream=True, first_event=101.0, cache="miss", error="x", limit="tokens"))

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=await scraped(metrics), capture_output=True, text=True, timeout=20
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_a_budget_that_is_used_up_is_a_limit_among_others() -> None:
    metrics = Metrics()
    refused = call(outcome=None, attempts=[], usage=None, status=429)
    refused.fail(BudgetExceeded("m"))

    metrics.on_call(refused)

    assert await samples(metrics, "one_api_limit_refusals_total") == {("budget",): 1}
    assert [values[-1] for values in await samples(metrics, "one_api_requests_total")] == ["client_limited"]


async def test_the_first_content_of_an_attempt_that_goes_on_for_others_is_counted_too() -> None:
    metrics = Metrics()
    attempt = AttemptRecord("a/m", began=100.0)
    metrics.on_call(call(stream=True, outcome="client_gone", attempts=[attempt]))

    attempt.outcome, attempt.first_s, attempt.seconds = "ok", 0.5, 3.0

    assert await samples(metrics, "one_api_attempt_first_token_seconds_sum") == {("a/m",): 0.5}


async def test_attempts_that_have_ended_make_room_for_others_that_go_on_where_nobody_scrapes() -> None:
    metrics = Metrics()
    for _ in range(3000):
        attempt = AttemptRecord("a/m", began=100.0)
        metrics.on_call(call(outcome="client_gone", attempts=[attempt]))
        attempt.outcome, attempt.seconds = "ok", 3.0

    assert await samples(metrics, "one_api_attempts_total") == {("a/m", "ok"): 3000}


RACES: dict[str, tuple[float, list[tuple[str, str, float | None, float]]]] = {
    "the first one answers, a hedge loses": (100.95, [("a/m", "ok", 0.9, 100.0), ("b/m", "hedge_lost", None, 100.5)]),
    "the hedge answers": (100.95, [("a/m", "hedge_lost", None, 100.0), ("b/m", "ok", 0.4, 100.5)]),
    "another one goes on with the stream": (100.95, [("a/m", "UpstreamBroken", 0.9, 100.0), ("b/m", "ok", 0.3, 101.0)]),
}


@pytest.mark.parametrize("race", RACES)
async def test_the_gateways_own_time_is_that_around_the_attempt_that_was_answered(race: str) -> None:
    metrics = Metrics()
    first_event, told = RACES[race]
    attempts = [AttemptRecord(name, outcome, first_s=first_s, seconds=1.0, began=began)
                for name, outcome, first_s, began in told]  # fmt: skip

    metrics.on_call(call(stream=True, first_event=first_event, attempts=attempts, waited_s=0.0))

    (overhead_s,) = (await samples(metrics, "one_api_overhead_seconds_sum")).values()
    assert overhead_s == pytest.approx(0.05)


@dataclass
class Circuit:
    """What the metrics see of one."""

    openings: int = 0


async def test_openings_never_fall_when_a_reload_gives_a_deployment_another_circuit() -> None:
    metrics, old = Metrics(), Circuit(openings=3)
    metrics.set_circuits({"a/m": ("open", old)})
    old.openings = 5

    new = Circuit()
    metrics.set_circuits({"a/m": ("closed", new)})
    assert await samples(metrics, "one_api_circuit_openings_total") == {("a/m",): 5}
    new.openings = 2
    metrics.set_circuits({"a/m": ("open", new)})

    assert await samples(metrics, "one_api_circuit_openings_total") == {("a/m",): 7}


async def test_deployments_without_room_are_counted_by_the_state_that_they_are_in() -> None:
    metrics = Metrics(max_cells=14)
    states = {f"a/{number}": ("open" if number > 3 else "closed", Circuit()) for number in range(6)}

    for _ in range(2):  # it is a level, not a sum
        metrics.set_circuits(states)
        found = await samples(metrics, "one_api_circuit_state")
        assert {name: sum(value for (each, _), value in found.items() if each == name) for name, _ in found} == {
            "a/0": 1,
            "a/1": 1,
            "other": 4,
        }
        assert (found["other", "closed"], found["other", "open"]) == (2, 2)

    metrics.set_circuits({"a/5": ("open", Circuit())})
    assert {name for name, _ in await samples(metrics, "one_api_circuit_state")} == {"a/5"}


async def test_what_is_not_counted_in_tokens_is_counted_by_its_unit() -> None:
    metrics = Metrics()
    for units in (Units(2, "images"), Units(1, "images"), Units(7.5, "seconds"), None):
        metrics.on_call(call(usage=None, units=units, cost=1_000_000))
    metrics.on_call(call(free=True, units=Units(9, "images")))

    assert await samples(metrics, "one_api_units_total") == {
        ("m", "a/m", "images"): 3,
        ("m", "a/m", "seconds"): 7.5,
    }
    assert await samples(metrics, "one_api_cost_usd_total") == {("m", "a/m"): 0.004}
