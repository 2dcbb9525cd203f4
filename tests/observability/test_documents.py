"""The pages on metrics and on the log name the values and fields that there are, all of them and no others."""

import json
import re
from pathlib import Path
from typing import get_args

from one_api.contract import Unit, Units
from one_api.observability.metrics import STATES, Metrics
from one_api.outcomes import Outcome
from one_api.records import AttemptKind, AttemptRecord, CallRecord, Trace

DOCS = Path(__file__).parents[2] / "docs"
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
SERVING = (DOCS / "serving.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "log.schema.json").read_text(encoding="utf-8"))["$defs"]


def told_of(metric: str) -> set[str]:
    """What stands in backticks in the last column of a metric's row."""
    (row,) = re.findall(rf"^\| `one_api_{metric}` \|.*$", METRICS, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row.rstrip("|").rpartition("|")[2]))


def test_the_page_has_every_outcome_and_no_other() -> None:
    table = METRICS.partition("## Outcomes")[2]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Outcome))
    assert SCHEMA["call"]["properties"]["outcome"]["enum"] == list(get_args(Outcome))


def test_the_page_has_the_values_of_closed_lists() -> None:
    assert told_of("circuit_state") == set(STATES)
    assert told_of("failovers_total") == set(get_args(AttemptKind)) - {"first"}
    assert told_of("limit_refusals_total") == {"requests", "tokens", "concurrent", "budget"}
    assert told_of("cache_requests_total") == {"hit", "miss", "joined", "bypass", "partial"}
    assert told_of("units_total") == set(get_args(Unit))
    assert told_of("tokens_total") == {"input", "output", "cache_read", "cache_write", "reasoning"}


def test_the_page_has_the_bounds_of_histograms() -> None:
    """In the order of the page: seconds, seconds for each token, and those of the gateway itself."""
    text = METRICS.partition("Histograms have the buckets")[2].partition("\n\n")[0].replace("\n", " ")
    bounds = {
        family.name: family.at(*family.labels).bounds for family in Metrics().families if family.kind == "histogram"
    }

    tokens = re.search(r"per token ([\d., and]+?) s;", text)
    assert tokens
    assert [float(each) for each in re.findall(r"[\d.]*\d", tokens[1])] == [
        *bounds["one_api_time_per_output_token_seconds"]
    ]
    own = re.search(r"lag ([\d.]+ ms.*) ms and 1 s", text)
    assert own
    milliseconds = [float(each) for each in re.findall(r"[\d.]*\d", own[1])]
    assert [each / 1000 for each in milliseconds] + [1.0] == [*bounds["one_api_overhead_seconds"]]
    assert "0.01 s, 0.02, 0.04 and so on to 655.36 s" in text
    seconds = bounds["one_api_request_duration_seconds"]
    assert (seconds[:3], seconds[-1], len(seconds)) == ((0.01, 0.02, 0.04), 655.36, 17)


def test_every_field_of_a_requests_line_is_in_the_schema_and_on_the_page() -> None:
    ids = dict.fromkeys(("client_request_id", "session_id", "thread_id"), "mine")
    record = CallRecord("req_1", "POST", "/v1/chat/completions", client_ids=ids, units=Units(2, "images"))
    record.attempts.append(AttemptRecord("d", native=True))
    record.trace = Trace("0" * 32, "0" * 16, sampled=True)
    known = {"v", "time", "level", "event", "worker", "sample", *record.fields()}
    table = SERVING.partition("## The log")[2].partition("\n\n`log.sample")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]

    assert set(SCHEMA["call"]["properties"]) == known
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == known - {"v"}
