"""What has to be there before the first test."""

import gc
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TESTS = Path(__file__).parent
#: The files that take longest, which is not what they hold most tests of: those that wait between those that compute.
LONGEST = [
    "edge/test_attacks.py",
    "accounts/test_disasters.py",
    "test_serve.py",
    "accounts/test_gateway.py",
    "faults/test_groups.py",
    "accounts/test_under_way.py",
    "accounts/test_keys.py",
    "api/test_traces.py",
    "accounts/test_budgets.py",
    "edge/test_fuzz.py",
    "engine/test_workers.py",
    "accounts/test_outages.py",
    "accounts/test_doors.py",
    "faults/test_doors.py",
    "api/test_messages.py",
    "engine/test_supervisor.py",
    "engine/test_faults.py",
    "accounts/test_zones.py",
    "api/test_cache_across.py",
    "accounts/test_endings.py",
    "faults/test_before_content.py",
    "accounts/test_leases.py",
    "deploy/test_scale_out.py",
    "api/test_metrics.py",
    "accounts/test_away_at_start.py",
    "faults/test_health.py",
    "edge/test_garbage.py",
    "accounts/test_shared_answers.py",
    "api/test_responses_upstream.py",
    "api/test_passthrough.py",
    "edge/test_limits_race.py",
    "accounts/test_books.py",
    "faults/test_hostile.py",
    "accounts/test_commands.py",
    "dialects/test_json_steps.py",
    "api/test_cache.py",
    "engine/test_inventory.py",
    "commands/test_startup.py",
    "accounts/test_overrun.py",
    "accounts/test_slips.py",
    "api/test_messages_loose.py",
    "faults/test_failoverbench.py",
    "api/test_messages_native.py",
    "limits/test_stores.py",
    "faults/test_client.py",
    "api/test_models.py",
    "api/test_processes.py",
    "faults/test_after_content.py",
    "api/test_loose_upstreams.py",
    "serving/test_wsgi_servers.py",
    "limits/test_bad_redis.py",
    "deploy/test_proxies.py",
    "serving/test_drain.py",
    "serving/test_start.py",
    "accounts/test_modalities.py",
]

DAY_S = 86400.0
#: No test lasts so long, in seconds.
MIDNIGHT_S = 60.0

#: pytest rewrites the asserts of every file, in each of its processes: what one has written the others read.
sys.dont_write_bytecode = False
#: Until all tests are collected; until then hardly anything is let go.
gc.disable()

#: No example has a deadline: a machine that stands still for a moment would be taken for code that is slow.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
#: ``make check-long`` chooses it: as many examples as each property test asks for.
settings.register_profile("long", settings.get_profile("tests"), max_examples=10_000)


@pytest.fixture(scope="session", autouse=True)
def table_of_characters() -> None:
    """Let Hypothesis make its table of characters, which takes seconds on a fresh checkout.

    Else the first test that draws a text makes it, and Hypothesis takes that for data that are slow to generate.
    """
    st.text().validate()


@pytest.fixture(scope="session", autouse=True)
def no_database() -> None:
    """Let applications that the tests build keep no accounts, unless a test wants them: the default is a real file."""
    os.environ["DATABASE_URL"] = "none"


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Let servers that the tests start end on SIGINT.

    A shell that runs the tests in the background ignores it, and every process below inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The default model, fetched once for all runs."""
    # Only here, so that tests without it import nothing of it.
    from one_api.engine.download import fetch_default_model

    return fetch_default_model(Path(os.environ.get("ONE_API_TEST_MODELS") or TESTS.parent / "models"), print)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each process begin with other files of a folder, so that no two of them rewrite the same ones."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.result:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        first = len(report.result) * number // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = [*report.result[first:], *report.result[:first]]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first, so that no process is left with one of them when the others have ended."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.relative_to(TESTS).as_posix(), len(places)), str(item.path)))


def pytest_runtest_setup() -> None:
    """Let no test begin where a day (UTC) is about to end, and with it what is counted by days and months."""
    if (left_s := DAY_S - time.time() % DAY_S) < MIDNIGHT_S:
        time.sleep(left_s + 0.01)


def pytest_collection_finish() -> None:
    """Let the collector pass over what thousands of collected tests hold: it stays to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()
