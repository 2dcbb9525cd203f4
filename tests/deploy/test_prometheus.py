"""The alerts and the dashboard: they can be read, they do what they say, and they know no metric that there is not."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from one_api import errors
from one_api.observability.metrics import STATES
from one_api.outcomes import Outcome

from .tools import DEPLOY, INSTALLED, ROOT, run, skip

RULES = sorted((DEPLOY / "prometheus").glob("*.rules.yml"))
TESTS = sorted((DEPLOY / "prometheus").glob("*.test.yml"))
DASHBOARD = DEPLOY / "grafana/one_api.json"
#: What a query of the dashboard may name, with a value that a query may have there.
VARIABLES = {"$__rate_interval": "5m", "$model": ".*", "$deployment": ".*"}
#: Of Prometheus itself, and names of OpenTelemetry that rules record for those who want them.
OTHERS = re.compile(r"up$|gen_ai_")
CONFIDENTIAL = "one_api_key_"


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    """The dashboard's queries, with values for its variables."""
    found = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    for name, value in VARIABLES.items():
        found = [each.replace(name, value) for each in found]
    return found


def test_prometheus_reads_the_rules() -> None:
    done = run("promtool", "check", "rules", "--lint-fatal", *RULES)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_else_not(file: Path) -> None:
    done = run("promtool", "test", "rules", file, timeout_s=300)

    assert done.returncode == 0, done.stdout


def test_every_alert_is_tried_both_ways() -> None:
    seen: dict[str, set[bool]] = {rule["alert"]: set() for rule in rules() if "alert" in rule}
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                seen[case["alertname"]].add(bool(case["exp_alerts"]))

    assert [name for name, ways in seen.items() if ways != {True, False}] == []


def test_an_alert_says_how_urgent_it_is_and_what_it_is_about() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]

    assert len(alerts) > 15
    assert {rule["labels"]["severity"] for rule in alerts} == {"page", "ticket"}
    assert [rule["alert"] for rule in alerts if len(rule["annotations"]["summary"]) < 20] == []


def documented() -> set[str]:
    """The names of the metrics in the document, with those that histograms bring."""
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", page, re.MULTILINE)
    parts = [name + part for name, kind in rows if kind == "histogram" for part in ("_bucket", "_count", "_sum")]
    return {name for name, _ in rows}.union(parts)


def named(expressions: list[str]) -> set[str]:
    """The metrics that expressions ask for."""
    without = [
        re.sub(r'"(?:[^"\\]|\\.)*"|\{[^{}]*\}|\b(?:by|on|without|group_left) *\([^)]*\)', " ", each)
        for each in expressions
    ]
    return set(re.findall(r"\b(?:one_api|process|gen_ai)_[a-z_]+\b(?![:(])|\bup\b", " ".join(without)))


def test_rules_and_dashboard_know_no_other_metrics() -> None:
    asked = named([*queries(), *(rule["expr"] for rule in rules())])

    assert len(asked) > 30
    assert sorted(name for name in asked - documented() if not OTHERS.match(name)) == []


def labels() -> dict[str, set[str]]:
    """By metric, the labels that its samples have; Prometheus itself adds the job and the instance."""
    page = (ROOT / "docs/metrics.md").read_text()
    found: dict[str, set[str]] = {}
    for name, kind, cell in re.findall(r"^\| `([a-z_]+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE):
        own = {"job", "instance", "worker", *re.findall(r"`(\w+)`", cell)}
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_count": own, f"{name}_sum": own}
        else:
            found[name] = own
    return found


def test_rules_and_dashboard_select_by_labels_that_there_are() -> None:
    known = labels()
    selected = [
        (name, label)
        for expression in [*queries(), *(rule["expr"] for rule in rules())]
        for name, chosen in re.findall(r"\b((?:one_api|process)_[a-z_]+)\{([^{}]*)\}", expression)
        for label in re.findall(r"(\w+) *(?:=~|!~|!=|=)", re.sub(r'"(?:[^"\\]|\\.)*"', '""', chosen))
    ]

    assert len(selected) > 40
    assert [(name, label) for name, label in selected if label not in known[name]] == []


def test_the_closed_lists_that_are_selected_by_are_those_that_are_counted() -> None:
    """A state or an outcome that is misspelt would select nothing, and say so nowhere."""
    texts = [*queries(), *(rule["expr"] for rule in rules())]
    lists = {
        "state": set(STATES),
        "outcome": {*get_args(Outcome), *(name for name in vars(errors) if name[:1].isupper())},
    }
    lists["outcome"] |= {"ok", "cancelled", "hedge_lost", "diverged"}
    for label, values in lists.items():
        given = [text for each in texts for text in re.findall(rf'\b{label} *(?:=~|!~|!=|=) *"([^"]*)"', each)]
        assert given
        assert [
            text for text in given for part in text.split("|") if not any(re.fullmatch(part, value) for value in values)
        ] == []


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    known = {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in named([*queries(), *(rule["expr"] for rule in rules())])
    }
    wanted = {re.sub(r"_(bucket|count|sum)$", "", name) for name in documented() if not name.startswith(CONFIDENTIAL)}
    quiet = {"one_api_build_info", "one_api_config_last_reload_success_timestamp_seconds"}

    assert wanted - known - quiet == set()


def test_the_dashboards_queries_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for packages in INSTALLED.parent.glob("lib/python3*/site-packages"):
        monkeypatch.syspath_prepend(packages)
    try:
        parser = import_module("promql_parser")
    except ImportError:
        skip("promql-parser is not installed: `make check-deploy` installs it")

    assert len(queries()) > 40
    for query in queries():
        parser.parse(query)  # raises where it is no PromQL
    with pytest.raises(ValueError, match="unclosed"):
        parser.parse("sum(rate(x[5m])")


def test_no_panel_lies_on_another() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cells.setdefault(cell, panel["title"]) == panel["title"]


def test_panels_have_numbers_of_their_own_and_the_chosen_source() -> None:
    numbers = sorted(panel["id"] for panel in panels())
    sources = {
        each["datasource"]["uid"] for panel in panels() if panel["type"] != "row" for each in [panel, *panel["targets"]]
    }

    assert all(one < two for one, two in pairwise(numbers))
    assert sources == {"${datasource}"}
