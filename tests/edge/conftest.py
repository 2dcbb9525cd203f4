"""One gateway with an upstream behind it, for all that strangers send."""

from collections.abc import Iterator

import pytest

from tests.support import Gateway, ScriptedUpstream

CONFIG = """
adapters: {{a: {{type: openai, base_url: '{url}', api_key: upstream-key, models: [m, flood]}}}}
rate_limit: {{requests_per_minute: 10000000}}
server: {{head_timeout_s: 1, write_timeout_s: 1, body_timeout_s: 2, keep_alive_s: 30, max_connections: 6000}}
"""


@pytest.fixture(scope="package")
def upstream() -> Iterator[ScriptedUpstream]:
    """Return the upstream that no refused request may reach."""
    with ScriptedUpstream(models=["m"]) as running:
        yield running


@pytest.fixture(scope="package")
def gateway(upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Return the gateway; at the end, not one answer was a 500, and the worker is the one that began."""
    with Gateway(config_yaml=CONFIG.format(url=upstream.base_url), env={"WEB_CONCURRENCY": "1"}) as running:
        workers = running.worker_pids()
        yield running
        assert running.worker_pids() == workers, "the worker was restarted"
        assert not [record for record in running.call_records() if record.get("status") == 500], running.log[-3000:]
        assert "Traceback" not in running.log, running.log[running.log.index("Traceback") - 500 :][:3000]
