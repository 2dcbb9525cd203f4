"""One gateway with an upstream behind it, for all that strangers send."""

from collections.abc import Iterator

import pytest

from tests.support import Gateway, Script, ScriptedUpstream, Seen, json_reply, reply, sse
from tests.support.upstream import say_hello

CONFIG = """
adapters: {{a: {{type: openai, base_url: '{url}', api_key: upstream-key, models: [m, flood]}}}}
rate_limit: {{requests_per_minute: 10000000}}
server: {{head_timeout_s: 1, write_timeout_s: 1, body_timeout_s: 2, keep_alive_s: 30, max_connections: 6000}}
"""


def answer_any(seen: Seen) -> Script:
    """The answer of a server that has every door."""
    if seen.path == "/v1/chat/completions":
        return say_hello(seen)
    if seen.path == "/v1/audio/speech":
        return reply(b"ID3", headers={"Content-Type": "audio/mpeg"})
    if seen.path == "/v1/embeddings":
        value, dimensions = seen.json["input"], seen.json.get("dimensions") or 2
        count = len(value) if isinstance(value, list) and not isinstance(value[0], int) else 1
        vectors = [{"object": "embedding", "index": index, "embedding": [0.5] * dimensions} for index in range(count)]
        return json_reply({"object": "list", "data": vectors, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
    if seen.path == "/v1/completions":
        choice = {"index": 0, "text": "hello", "finish_reason": "stop"}
        return sse({"choices": [choice]}) if seen.json.get("stream") else json_reply({"choices": [choice]})
    if seen.path == "/v1/moderations":
        return json_reply({"results": [{"flagged": False, "categories": {}, "category_scores": {}}]})
    return json_reply({"results": [], "data": [], "text": ""})


@pytest.fixture(scope="package")
def upstream() -> Iterator[ScriptedUpstream]:
    """Return the upstream that no refused request may reach."""
    with ScriptedUpstream(models=["m"], default=answer_any) as running:
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
