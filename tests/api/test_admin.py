"""Why a request went where it went: the operator's view of a route, and the command that prints it."""

from collections.abc import Iterator

import pytest

from one_api.app import create_app
from one_api.config import Config
from tests.commands.test_cli import run
from tests.support import error

from .bed import ADMIN_KEY, Bed


@pytest.fixture
def failed_over(bed: Bed) -> Iterator[str]:
    """A model whose first deployment has just failed."""
    model = bed.model("pair")
    bed.a.on(model, error(500))
    assert bed.record_of(bed.ask(model))["attempts"] == 2
    yield model


def test_a_request_is_told_with_every_attempt_and_its_candidates(bed: Bed, failed_over: str) -> None:
    answer = bed.get(f"/admin/routes/{failed_over}", key=ADMIN_KEY)

    assert answer.status == 200
    (record,) = answer.json["recent"]
    assert (record["status"], record["deployment"]) == (200, f"b/{failed_over}")
    assert [(each["deployment"], each["outcome"]) for each in record["attempts"]] == [
        (f"a/{failed_over}", "UpstreamFailed"),
        (f"b/{failed_over}", "ok"),
    ]
    first, second = record["attempts"]
    assert [each["why"] for each in first["candidates"]] == [None, None]
    assert [each["state"] for each in second["candidates"]] == ["tried", "closed"]
    assert all(each["score"] > 0 for each in second["candidates"])
    assert (second["completion_tokens"], second["first_ms"] > 0) == (2, True)


def test_the_live_table_has_every_candidate(bed: Bed, failed_over: str) -> None:
    streams, whole = bed.get(f"/admin/routes/{failed_over}", key=ADMIN_KEY).json["tables"]

    assert (streams["stream"], whole["stream"]) == (True, False)
    assert [(row["deployment"], row["failures"], row["in_flight"]) for row in whole["candidates"]] == [
        (f"a/{failed_over}", 1, 0),
        (f"b/{failed_over}", 0, 0),
    ]


def test_nobody_else_is_told(bed: Bed, failed_over: str) -> None:
    path = f"/admin/routes/{failed_over}"

    assert bed.get(path, key=None).status == 401
    assert bed.get(path).status == 403
    for header in ({"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-Proto": "https"}, {"Via": "1.1 proxy"}):
        assert bed.get(path, key=ADMIN_KEY, headers=header).status == 403
    assert bed.get("/admin/routes/nobody", key=ADMIN_KEY).error["code"] == "model_not_found"


@pytest.mark.parametrize("address", ["203.0.113.7", "::ffff:203.0.113.7", None])
def test_an_address_of_another_machine_is_refused(address: str | None) -> None:
    app = create_app(Config.load({"API_KEYS": "c", "ADMIN_KEY": "k", "LOCAL_MODELS_ENABLED": "false"}))

    answer = app.test_client().get(
        "/admin/routes/m", headers={"Authorization": "Bearer k"}, environ_base={"REMOTE_ADDR": address}
    )

    assert answer.status_code == 403


def test_the_command_prints_the_table(bed: Bed, failed_over: str) -> None:
    env = {"ADMIN_KEY": ADMIN_KEY, "HOST": bed.gateway.host, "PORT": str(bed.gateway.port)}

    done = run("route", "explain", failed_over, env=env)

    assert done.returncode == 0, done.stderr
    for text in ("strategy adaptive", f"a/{failed_over} UpstreamFailed", f"b/{failed_over} ok", "why"):
        assert text in done.stdout
    assert ADMIN_KEY not in done.stdout


def test_the_command_says_what_is_wrong(bed: Bed) -> None:
    here = {"HOST": bed.gateway.host, "PORT": str(bed.gateway.port)}

    unknown = run("route", "explain", "nobody", env={**here, "ADMIN_KEY": ADMIN_KEY})
    nowhere = run("route", "explain", "m", env={"ADMIN_KEY": "k", "PORT": "1"})

    assert (unknown.returncode, nowhere.returncode) == (1, 1)
    assert "does not exist here" in unknown.stderr
    assert "start it first" in nowhere.stderr
