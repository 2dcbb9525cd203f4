"""The two probes: is the process alive, and can it serve?"""

import pytest

from tests.support import Gateway, ScriptedUpstream, free_port

from .bed import Bed, adapter, yaml


def test_health_says_one_thing(bed: Bed) -> None:
    answer = bed.get("/health", key=None)

    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.json == {"status": "healthy"}


def test_health_answers_a_head_request_too(bed: Bed) -> None:
    with bed.connect() as client:
        client.send(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")

        assert client.read_head().status == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_probes_are_only_read(bed: Bed, path: str, method: str) -> None:
    assert bed.get(path, method=method, key=None).status == 405


def test_ready_when_a_model_can_be_served(bed: Bed) -> None:
    answer = bed.get("/ready", key=None)

    assert answer.status == 200
    assert answer.json == {"status": "ready", "reason": None, "pending": {}}


def test_not_ready_without_an_adapter() -> None:
    with Gateway() as gateway:
        bed = Bed(gateway, {})
        answer = bed.get("/ready", key=None)

        assert (answer.status, answer.json["status"]) == (503, "unready")
        assert answer.json["reason"] == "no adapter is configured"
        assert bed.get("/health", key=None).json == {"status": "healthy"}
        assert (bed.ask("m").status, bed.get("/v1/models").json["data"]) == (404, [])


def test_not_ready_while_no_upstream_has_said_what_it_has() -> None:
    config = yaml(adapters={"down": adapter(f"http://127.0.0.1:{free_port()}/v1", None)})
    with Gateway(config_yaml=config) as gateway:
        bed = Bed(gateway, {})
        unknown = bed.ask("m")
        answer = bed.get("/ready", key=None)

    assert (answer.status, answer.json["status"]) == (503, "unready")
    assert "down" in answer.json["reason"]
    assert answer.json["pending"].keys() == {"down"}
    assert "reached" in answer.json["pending"]["down"]
    assert (unknown.status, unknown.error["code"]) == (503, "no_backend_available")
    assert unknown.header("retry-after")


def test_ready_tells_of_an_upstream_that_is_missing() -> None:
    with ScriptedUpstream() as upstream:
        down = adapter(f"http://127.0.0.1:{free_port()}/v1", None)
        with Gateway(config_yaml=yaml(adapters={"up": adapter(upstream, ["m"]), "down": down})) as gateway:
            answer = Bed(gateway, {}).get("/ready", key=None)

    assert (answer.status, answer.json["status"]) == (200, "ready")
    assert answer.json["pending"].keys() == {"down"}


def test_not_ready_when_an_upstream_has_nothing() -> None:
    with (
        ScriptedUpstream() as upstream,
        Gateway(config_yaml=yaml(adapters={"empty": adapter(upstream, None)})) as gateway,
    ):
        bed = Bed(gateway, {})
        bed.get("/v1/models")
        answer = bed.get("/ready", key=None)

    assert (answer.status, answer.json["pending"]) == (503, {})
    assert "empty: it lists no models" in answer.json["reason"]


def test_probes_leave_no_line_in_the_log(bed: Bed) -> None:
    for path in ("/health", "/ready"):
        bed.get(path, key=None)

    bed.record_of(bed.ask(bed.model()))

    assert not [record for record in bed.gateway.call_records() if record["path"] in ("/health", "/ready")]
