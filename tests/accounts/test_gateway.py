"""The ledger behind the real gateway: each request is booked once, by whichever process served it."""

import csv
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from one_api.accounts import ledger
from one_api.accounts.database import open_engine, transact
from one_api.accounts.tables import LEDGER, USAGE
from tests.accounts.patient import PatientBed
from tests.accounts.rows import row as made_row
from tests.api.bed import ADMIN_KEY, KEY, Answer, Bed, running_bed
from tests.api.messages_bed import post as post_to
from tests.support import (
    Hang,
    RawClient,
    WaitFor,
    build_request,
    completion,
    error,
    json_reply,
    post_chat,
    sse,
    text_chunks,
    tokens,
)
from tests.support.description import described_operations

PRICES: Any = {"models": {"a/*": {"input": 1, "output": 10}, "b/*": {"input": 2, "output": 20}}}


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[Bed]:
    """Two processes with a ledger, and a cache."""
    sections: Any = {"prices": PRICES, "cache": {"enabled": True}, "reload": {"cut_revoked": True}}
    with running_bed({"workers": 2}, env={"DATABASE_URL": database}, **sections) as running:
        yield PatientBed(running.gateway, running.upstreams)


@pytest.fixture(scope="module")
def engine(database: str, bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


def test_model_lists_tell_prices(bed: Bed) -> None:
    model = bed.model()
    (entry,) = [entry for entry in bed.get("/v1/models").json["data"] if entry["id"] == model]

    assert entry["pricing"]["completion"] == "0.00001"
    assert bed.get(f"/v1/models/{model}").json == entry


def row_of(engine: Engine, answer: Answer) -> dict[str, Any]:
    """The row of a request, once it is there."""
    query = select(LEDGER).where(LEDGER.c.id == answer.header("x-request-id"))
    found = until(lambda: transact(engine, lambda c: [dict(row) for row in c.execute(query).mappings()]))
    (row,) = found
    return row  # type: ignore[no-any-return]


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Wait for what another process does, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_what_is_not_counted_in_tokens_is_booked(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, json_reply({"data": [{"b64_json": "AAAA"}, {"b64_json": "AAAA"}]}))

    row = row_of(engine, bed.send(post_to(bed.gateway, "/v1/images/generations", {"model": model, "prompt": "x"})))

    assert (row["units"], row["unit"], row["prompt"]) == (2, "images", None)


def test_an_answer_is_booked_with_its_cost(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion("Hi", usage=tokens(100, 10))))

    answer = bed.ask(model)
    row = row_of(engine, answer)

    assert answer.header("x-gateway-cost") == "0.0002"
    assert (row["model"], row["deployment"]) == (model, f"a/{model}")
    assert row["key"].startswith("key-")
    assert (row["status"], row["http_status"], row["stream"], row["attempts"]) == ("ok", 200, False, 1)
    assert (row["prompt"], row["completion"], row["cost"], row["upstream_cost"]) == (100, 10, 200_000, 200_000)


def test_a_stream_is_booked_at_its_end(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, sse(*text_chunks("a", "b", usage=tokens(7, 2))))

    row = row_of(engine, bed.ask(model, stream=True))

    assert (row["status"], row["stream"], row["prompt"], row["cost"]) == ("ok", True, 7, 27_000)
    assert 0 <= row["first_ms"] <= row["ms"]


@pytest.fixture
def dearer(bed: Bed) -> Iterator[Callable[[], None]]:
    """Makes what upstream a takes seven times as dear, in every process, until the end of the test."""
    path = bed.gateway.config_path
    text = path.read_text()

    def write(text: str) -> None:
        path.write_text(text)
        wanted = bed.get("/admin/config/reload", method="POST", key=ADMIN_KEY).json["digest"]
        until(lambda: digests() == [wanted] * 2)

    def digests() -> list[str]:
        return [each["digest"] for each in bed.get("/admin/config", key=ADMIN_KEY).json["processes"]]

    models = PRICES["models"] | {"a/*": {"input": 7, "output": 70}}
    yield lambda: write(json.dumps(json.loads(text) | {"prices": {"models": models}}))
    write(text)


def test_a_request_is_booked_at_the_prices_it_began_with(bed: Bed, engine: Engine, dearer: Callable[[], None]) -> None:
    model, gate = bed.model(), threading.Event()
    first, *others = text_chunks("a", "b", usage=tokens(100, 10))
    bed.a.on(model, sse(first, *others[:1], WaitFor(gate), *others[1:]))

    with bed.begin(model) as begun:
        begun.next()
        dearer()
        gate.set()
        old = begun.answer(begun.rest())
    later = bed.model()
    bed.a.on(later, json_reply(completion("Hi", usage=tokens(100, 10))))
    new = bed.ask(later)

    assert row_of(engine, old)["cost"] == 200_000
    assert row_of(engine, new)["cost"] == 7 * 200_000
    assert new.header("x-gateway-cost") == "0.0014"


def test_a_kept_answer_costs_nothing(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion("Hi", usage=tokens(100, 10))))
    bed.ask(model, temperature=0)
    kept = until(
        lambda: next((a for a in [bed.ask(model, temperature=0)] if a.header("x-gateway-cache") == "hit"), None)
    )

    row = row_of(engine, kept)

    assert (row["cache"], row["cost"], row["upstream_cost"]) == ("hit", 0, 0)


def test_an_answer_from_elsewhere_has_both_attempts_in_its_row(bed: Bed, engine: Engine) -> None:
    model = bed.model("pair")
    bed.a.on(model, error(500))
    bed.b.on(model, json_reply(completion("Hi", usage=tokens(100, 10))))

    row = row_of(engine, bed.ask(model))

    assert (row["deployment"], row["attempts"], row["cost"]) == (f"b/{model}", 2, 400_000)
    assert '"outcome":"UpstreamFailed"' in row["tries"]


def test_a_failure_costs_nothing(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, error(400))

    row = row_of(engine, bed.ask(model))

    assert (row["status"], row["http_status"], row["cost"]) == ("failed", 400, 0)


def test_a_client_that_leaves_before_the_answer_pays_nothing(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, [Hang()])
    with bed.connect() as client:
        client.send(post(bed, model))
        until(lambda: bed.asked(model))

    query = select(LEDGER.c.status, LEDGER.c.cost).where(LEDGER.c.model == model)
    (row,) = until(lambda: transact(engine, lambda c: list(c.execute(query))))
    assert tuple(row) == ("cancelled", 0)


def post(bed: Bed, model: str) -> bytes:
    """A request for a model."""
    return post_chat(
        bed.gateway.host, bed.gateway.port, {"model": model, "messages": [{"role": "user", "content": "x"}]}
    )


def test_a_request_for_no_model_makes_no_row(bed: Bed, engine: Engine) -> None:
    refused = select(func.sum(USAGE.c.refused)).where(USAGE.c.span == 60)
    before = transact(engine, lambda c: c.scalar(refused)) or 0

    answer = bed.ask("no-such-model")
    assert answer.status == 404
    until(lambda: transact(engine, lambda c: c.scalar(refused)) == before + 1)

    query = select(func.count()).where(LEDGER.c.id == answer.header("x-request-id"))
    assert transact(engine, lambda c: c.scalar(query)) == 0


def test_a_killed_process_loses_no_row(bed: Bed, engine: Engine) -> None:
    model = bed.model()
    bed.a.on(model, json_reply(completion("Hi", usage=tokens(100, 10))))
    answers = [bed.ask(model, seed=number) for number in range(40)]
    for pid in bed.gateway.worker_pids(2):
        os.kill(pid, signal.SIGKILL)

    query = select(func.count()).where(LEDGER.c.model == model)
    until(lambda: transact(engine, lambda c: c.scalar(query)) == len(answers), 20.0)
    sums = select(func.sum(USAGE.c.requests), func.sum(USAGE.c.cost)).where(USAGE.c.model == model, USAGE.c.span == 60)
    assert tuple(transact(engine, lambda c: c.execute(sums).one())) == (40, 40 * 200_000)
    until(lambda: serves(bed), 60.0)  # the next test may ask again


def serves(bed: Bed) -> bool:
    """Whether a process answers: those that were killed are replaced."""
    try:
        return bed.get("/health").status == 200
    except (OSError, EOFError):
        return False


# Keys of the database


def admin(bed: Bed, method: str, path: str, body: Any = None, *, key: str = ADMIN_KEY) -> Answer:
    """Ask the address for administrators."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = [("Authorization", f"Bearer {key}"), ("Content-Type", "application/json")]
    host, port = bed.gateway.host, bed.gateway.port
    return bed.send(build_request(method, f"/admin/api{path}", host, port, headers=headers, body=data))


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"key-{secrets.token_hex(4)}"


@pytest.fixture
def make(bed: Bed, name: str) -> Callable[..., str]:
    """Make a key of that name and return its text."""

    def make(**fields: Any) -> str:
        answer = admin(bed, "POST", "/keys", {"name": name, **fields})
        assert answer.status == 201, answer.body
        key: str = answer.json["key"]
        return key

    return make


def test_a_new_key_counts_at_once_in_every_process(
    bed: Bed, engine: Engine, make: Callable[..., str], name: str
) -> None:
    model = bed.model()
    key = make()

    answers = [bed.ask(model, key=key, seed=number) for number in range(8)]

    assert [answer.status for answer in answers] == [200] * 8
    assert row_of(engine, answers[0])["key"] == name


def test_a_key_is_shown_once(bed: Bed, make: Callable[..., str], name: str) -> None:
    key = make(owner="bob")

    answers = [admin(bed, "GET", path) for path in ("/keys", f"/keys/{name}", "/audit")]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert all(name in answer.body.decode() and key not in answer.body.decode() for answer in answers)


def test_a_revoked_key_opens_nothing_once_that_is_answered(bed: Bed, make: Callable[..., str], name: str) -> None:
    model, key = bed.model(), make()
    stop, later = threading.Event(), list[int]()

    def ask() -> None:
        while not stop.is_set():
            was_revoked = revoked.is_set()
            status = bed.ask(model, key=key).status
            if was_revoked:
                later.append(status)

    revoked = threading.Event()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert admin(bed, "DELETE", f"/keys/{name}").status == 200
        revoked.set()
        until(lambda: len(later) > 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert set(later) == {401}
    assert bed.ask(model, key=key).error["code"] == "key_disabled"


def test_a_stream_of_a_revoked_key_is_cut_with_an_error_and_no_other(
    bed: Bed, make: Callable[..., str], name: str
) -> None:
    gate = threading.Event()
    model, key = bed.model(), make()
    words = text_chunks("Hel", "lo")
    bed.a.on(model, sse(*words[:2], WaitFor(gate), *words[2:]))
    with bed.begin(model, key=key) as revoked, bed.begin(model) as other:
        assert admin(bed, "DELETE", f"/keys/{name}").status == 200
        assert '"key_disabled"' in revoked.rest()[-1]
        gate.set()
        assert other.rest()[-1] == "data: [DONE]"


CHANGES: dict[str, tuple[str, str, Any, str]] = {
    "models": ("PATCH", "", {"models": ["other"]}, "model_not_allowed"),
    "networks": ("PATCH", "", {"networks": ["192.0.2.0/24"]}, "network_not_allowed"),
    "end": ("PATCH", "", {"expires_at": 1}, "key_expired"),
    "rotation": ("POST", "/rotate", {"grace_s": 0}, "invalid_api_key"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_key_is_in_force_everywhere_once_that_is_answered(
    bed: Bed, make: Callable[..., str], name: str, change: str
) -> None:
    model, key = bed.model(), make()
    method, path, body, code = CHANGES[change]
    assert {bed.ask(model, key=key).status for _ in range(8)} == {200}

    assert admin(bed, method, f"/keys/{name}{path}", body).status == 200

    assert {bed.ask(model, key=key).error["code"] for _ in range(20)} == {code}


def test_an_expired_key_is_told_so(bed: Bed, make: Callable[..., str]) -> None:
    assert bed.ask(bed.model(), key=make(expires_at=1)).error["code"] == "key_expired"


def test_a_key_has_its_models_and_no_others(bed: Bed, make: Callable[..., str]) -> None:
    allowed, other = bed.model(), bed.model()
    key = make(models=[allowed, "trio-1*"])

    assert bed.ask(allowed, key=key).status == 200
    refused = bed.ask(other, key=key)
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
    listed = [entry["id"] for entry in bed.get("/v1/models", key=key).json["data"]]
    assert allowed in listed
    assert all(each == allowed or each.startswith("trio-1") for each in listed)
    assert bed.get(f"/v1/models/{other}", key=key).status == 403
    message = {"model": other, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    told = bed.send(post_to(bed.gateway, "/v1/messages", message, key))
    assert (told.status, told.json["error"]["type"]) == (404, "not_found_error"), "Claude Code explains no other status"
    told = bed.send(post_to(bed.gateway, "/v1/responses", {"model": other, "input": "Hi"}, key))
    assert (told.status, told.error["code"]) == (403, "model_not_found"), "Codex repeats any other code"


def test_a_key_has_its_networks(bed: Bed, make: Callable[..., str], name: str) -> None:
    key = make(networks=["10.0.0.0/8"])
    assert bed.ask(bed.model(), key=key).error["code"] == "network_not_allowed"

    assert admin(bed, "PATCH", f"/keys/{name}", {"networks": ["127.0.0.0/8"]}).status == 200

    until(lambda: bed.ask(bed.model(), key=key).status == 200)


def test_both_keys_count_after_a_rotation(bed: Bed, make: Callable[..., str], name: str) -> None:
    old = make()
    new = admin(bed, "POST", f"/keys/{name}/rotate", {"grace_s": 60}).json["key"]

    assert [bed.ask(bed.model(), key=key).status for key in (new, old)] == [200, 200]


def test_roles_are_apart(bed: Bed, make: Callable[..., str], name: str) -> None:
    keys = {"viewer": make(role="viewer"), "operator": ADMIN_KEY, "configured": KEY}
    for role in ("client", "admin"):
        keys[role] = admin(bed, "POST", "/keys", {"name": f"{name}-{role}", "role": role}).json["key"]

    def opened(method: str, path: str) -> dict[str, Any]:
        """How each key fares: the status, and the role that it lacks."""
        answers = {who: bed.get(path, key=key, method=method) for who, key in keys.items()}
        refused = {
            who: (each.error["code"], each.error["message"]) for who, each in answers.items() if each.status == 403
        }
        assert {code for code, _ in refused.values()} <= {"role_not_allowed"}
        needed = {who: message.partition("with the role ")[2].rstrip(".") for who, (_, message) in refused.items()}
        return {who: needed.get(who, each.status) for who, each in answers.items()}

    clients = {"client": 200, "configured": 200, "viewer": "client", "admin": "client", "operator": "client"}
    for path in ("/v1/models", "/v1/usage", "/dashboard/billing/subscription", "/v1/dashboard/billing/usage"):
        assert opened("GET", path) == clients, path
    own = {"client": "client", "configured": "client"}
    for path in ("/admin/api/keys", "/admin/api/usage", "/admin/config"):
        lacking = dict.fromkeys(own, "viewer or admin, or ADMIN_KEY")
        assert opened("GET", path) == {"viewer": 200, "admin": 200, "operator": 200} | lacking, path
    for method, path in (("DELETE", "/admin/api/keys/nobody"), ("DELETE", "/admin/api/budgets/all:total")):
        lacking = dict.fromkeys((*own, "viewer"), "admin, or ADMIN_KEY")
        assert opened(method, path) == {"admin": 404, "operator": 404} | lacking, path


def test_a_key_that_counts_nowhere_is_401_whatever_its_role(bed: Bed, name: str) -> None:
    paths = ("/v1/models", "/admin/api/keys")
    for role in ("client", "viewer", "admin"):
        own = f"{name}-{role}"
        key = admin(bed, "POST", "/keys", {"name": own, "role": role}).json["key"]
        admin(bed, "PATCH", f"/keys/{own}", {"expires_at": 1})
        assert [bed.get(path, key=key).error["code"] for path in paths] == ["key_expired"] * 2
        admin(bed, "DELETE", f"/keys/{own}")
        found = [bed.get(path, key=key) for path in paths]
        assert [(each.status, each.error["code"]) for each in found] == [(401, "key_disabled")] * 2
    assert [bed.get(path, key="sk-nobody").status for path in paths] == [401] * 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/keys", {"name": "a b"}, 400),
        ("POST", "/keys", {"name": "fine", "color": 1}, 400),
        ("POST", "/keys", {}, 400),
        ("POST", "/keys", {"name": "fine", "key": "short"}, 400),
        ("GET", "/keys/nobody", None, 404),
        ("DELETE", "/keys/nobody", None, 404),
        ("POST", "/keys/nobody/rotate", {"grace_s": -1}, 400),
        ("PATCH", "/teams/nobody", {}, 404),
        ("GET", "/usage?by=moon", None, 400),
        ("GET", "/usage?zone=Mars", None, 400),
        ("GET", "/usage?from=x", None, 400),
        ("GET", "/requests?limit=-1", None, 400),
    ],
)
def test_a_slip_is_told_in_the_usual_form(bed: Bed, method: str, path: str, body: Any, status: int) -> None:
    answer = admin(bed, method, path, body)

    assert answer.status == status
    assert answer.error["message"]


def test_a_team_binds_its_keys(bed: Bed, make: Callable[..., str], name: str) -> None:
    model = bed.model()
    assert admin(bed, "POST", "/teams", {"name": name, "models": [model]}).status == 201
    key = make(team=name)

    assert bed.ask(model, key=key).status == 200
    assert bed.ask(bed.model(), key=key).status == 403
    assert admin(bed, "PATCH", f"/teams/{name}", {"disabled": True}).status == 200
    assert bed.ask(model, key=key).status == 401


# Limits of a key's own


def ask_at_once(bed: Bed, key: str, times: int) -> list[int]:
    """The statuses of requests that race for both processes."""
    model = bed.model()
    with ThreadPoolExecutor(times) as clients:
        return list(clients.map(lambda number: bed.ask(model, key=key, seed=number).status, range(times)))


def test_a_limit_of_a_keys_own_is_exact_in_all_processes_and_changes_at_once(
    bed: Bed, make: Callable[..., str], name: str
) -> None:
    key = make(rpm=5)

    assert sorted(ask_at_once(bed, key, 12)) == [200] * 5 + [429] * 7
    refused = bed.ask(bed.model(), key=key)
    assert refused.header("x-ratelimit-limit-requests") == "5"
    assert "5 requests per minute" in refused.error["message"]
    listed = bed.get("/v1/models", key=key)
    assert (listed.status, listed.header("x-ratelimit-limit-requests")) == (429, "5")

    assert admin(bed, "PATCH", f"/keys/{name}", {"rpm": 9}).json["rpm"] == 9
    until(lambda: bed.ask(bed.model(), key=key).status == 200)
    statuses = until(lambda: [s for s in ask_at_once(bed, key, 12) if s == 200])
    # One process may have learnt it later than the other: then the rest is let in now.
    while len(statuses) < 3:
        statuses += until(lambda: [s for s in ask_at_once(bed, key, 12) if s == 200])
    assert len(statuses) == 3
    assert ask_at_once(bed, key, 12) == [429] * 12


def test_a_key_without_a_limit_is_told_of_none(bed: Bed, make: Callable[..., str]) -> None:
    key = make(rpm=0, tpm=0, concurrent=0)

    answer, listed = bed.ask(bed.model(), key=key), bed.get("/v1/models", key=key)

    assert (answer.status, listed.status) == (200, 200)
    assert answer.header("x-ratelimit-limit-requests") is None
    assert listed.header("x-ratelimit-limit-requests") is None
    assert bed.get("/v1/usage", key=key).json["limits"] == {
        "requests_per_minute": None, "tokens_per_minute": None, "concurrent": None
    }  # fmt: skip


def test_a_keys_tokens_are_limited_by_its_own_limit(bed: Bed, make: Callable[..., str]) -> None:
    key = make(tpm=250)

    answer = bed.ask(bed.model(), key=key)
    larger = bed.ask(bed.model(), key=key, metadata={"x": "y" * 2000})

    assert (answer.status, answer.header("x-ratelimit-limit-tokens")) == (200, "250")
    assert (larger.status, larger.error["type"]) == (429, "tokens")
    assert bed.get("/v1/usage", key=key).json["limits"]["tokens_per_minute"] == 250
    assert bed.ask(bed.model()).header("x-ratelimit-limit-tokens") is None


def test_a_key_has_so_many_requests_at_a_time(bed: Bed, make: Callable[..., str], name: str) -> None:
    key, model = make(concurrent=2), bed.model()
    bed.a.on(model, sse(*text_chunks("Hel", finish=None), Hang()))
    with bed.connect() as first, bed.connect() as second:
        for number, client in enumerate((first, second)):
            body = {"model": model, "messages": [{"role": "user", "content": f"{number}"}], "stream": True}
            client.send(post_chat(bed.gateway.host, bed.gateway.port, body, key))
        until(lambda: bed.asked(model) == {"a": 2})

        refused = bed.ask(bed.model(), key=key)
        assert refused.status == 429
        assert "2 requests at a time" in refused.error["message"]
        assert bed.ask(bed.model()).status == 200

        admin(bed, "PATCH", f"/keys/{name}", {"concurrent": 3})
        until(lambda: bed.ask(bed.model(), key=key).status == 200)
        admin(bed, "PATCH", f"/keys/{name}", {"concurrent": 2})
        until(lambda: bed.ask(bed.model(), key=key).status == 429)
    until(lambda: bed.ask(bed.model(), key=key).status == 200)


# What was used


def test_a_key_sees_its_own_usage(bed: Bed, engine: Engine, make: Callable[..., str], name: str) -> None:
    model, key = bed.model(), make()
    bed.a.on(model, json_reply(completion("Hi", usage=tokens(1000, 100))))
    row_of(engine, bed.ask(model, key=key))

    usage = bed.get("/v1/usage", key=key).json

    assert (usage["key"], usage["prefix"]) == (name, f"{key[:10]}...{key[-4:]}")
    for period in ("today", "month"):
        assert (usage[period]["requests"], usage[period]["cost_usd"]) == (1, "0.002")
        assert [each["model"] for each in usage[period]["models"]] == [model]
    assert bed.get("/v1/dashboard/billing/usage", key=key).json["total_usage"] == pytest.approx(0.2)
    assert bed.get("/dashboard/billing/subscription", key=key).json["hard_limit_usd"] == 100_000_000
    assert (
        bed.get("/dashboard/billing/usage?start_date=2000-01-01&end_date=2000-01-31", key=key).json["total_usage"] == 0
    )


def test_a_key_sees_when_it_ends(bed: Bed, make: Callable[..., str], name: str) -> None:
    end_ms = 4_102_444_800_000
    key = make(expires_at=end_ms)

    assert bed.get("/v1/usage", key=key).json["expires_at"] == end_ms
    assert bed.get("/v1/dashboard/billing/subscription", key=key).json["access_until"] == end_ms // 1000
    rotated = admin(bed, "POST", f"/keys/{name}/rotate", {}).json["key"]
    old, new = (bed.get("/v1/usage", key=each).json for each in (key, rotated))
    assert new["expires_at"] == end_ms
    assert 86_000 < old["expires_at"] / 1000 - time.time() <= 86_400, "the end of its grace"
    assert bed.get("/v1/dashboard/billing/subscription", key=key).json["access_until"] == old["expires_at"] // 1000
    assert old["prefix"] == new["prefix"] == f"{rotated[:10]}...{rotated[-4:]}"
    own = bed.get("/v1/usage").json
    assert (own["expires_at"], own["prefix"]) == (None, None)


def test_what_was_credited_beyond_what_is_spent_is_no_debt_of_the_gateway(
    bed: Bed, make: Callable[..., str], name: str
) -> None:
    key = make()
    assert admin(bed, "PUT", f"/budgets/key:{name}:day", {"limit_usd": "1"}).status == 200
    assert admin(bed, "POST", f"/budgets/key:{name}:day/credit", {"usd": "2"}).status == 200

    usage = bed.get("/v1/usage", key=key).json

    assert (usage["today"]["cost_usd"], usage["budgets"][0]["remaining_usd"]) == ("-2", "3")
    assert bed.get("/v1/dashboard/billing/usage", key=key).json["total_usage"] == 0


#: Paths that there are with a database only.
ACCOUNT_PATHS = {
    "/v1/usage", "/v1/dashboard/billing/subscription", "/v1/dashboard/billing/usage",
    "/dashboard/billing/subscription", "/dashboard/billing/usage",
}  # fmt: skip


def test_what_a_key_sees_is_as_described(bed: Bed, engine: Engine, make: Callable[..., str]) -> None:
    model, key = bed.model(), make(rpm=0)
    bed.a.on(model, json_reply(completion("Hi", usage=tokens(1000, 100))))
    row_of(engine, bed.ask(model, key=key))
    found = {operation.ok().path: operation.ok() for operation in described_operations(bed.gateway.url)}

    assert found.keys() >= ACCOUNT_PATHS
    for path in ACCOUNT_PATHS:
        # With a slip, too: no such day, and no such zone.
        for query, statuses in (({}, {200}), ({"start_date": "x", "zone": "x"}, {200, 400})):
            answer = found[path].Case(query=query).call(headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code in statuses
            found[path].validate_response(answer)


def test_administrators_see_the_usage_of_all(bed: Bed, engine: Engine, make: Callable[..., str], name: str) -> None:
    model, key = bed.model(), make()
    answer = bed.ask(model, key=key)
    row_of(engine, answer)

    (usage,) = admin(bed, "GET", f"/usage?by=key,model&key={name}").json["data"]
    (row,) = admin(bed, "GET", f"/requests?key={name}&status=ok").json["data"]

    assert (usage["key"], usage["model"], usage["requests"]) == (name, model, 1)
    assert row["id"] == answer.header("x-request-id")
    assert admin(bed, "GET", f"/requests?key={name}&after={row['id']}").json["data"] == []


def sheet(bed: Bed, path: str, headers: Any = ()) -> list[dict[str, str]]:
    """The rows of a list as a spreadsheet."""
    answer = bed.get(f"/admin/api{path}", key=ADMIN_KEY, headers=headers)
    assert (answer.status, answer.header("content-type")) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(io.StringIO(answer.body.decode())))


def test_usage_tells_percentiles_teams_and_owners(
    bed: Bed, engine: Engine, make: Callable[..., str], name: str
) -> None:
    assert admin(bed, "POST", "/teams", {"name": name}).status == 201
    model, key = bed.model(), make(team=name, owner="=bob")
    bed.a.on(model, sse(*text_chunks("a", "b", usage=tokens(7, 2))))
    rows = [row_of(engine, bed.ask(model, key=key, stream=True, seed=number)) for number in range(3)]

    report = admin(bed, "GET", f"/usage?by=team,owner,key&key={name}").json
    sheet_rows = sheet(bed, f"/usage?by=team,owner&key={name}", {"Accept": "text/csv"})

    (usage,) = report["data"]
    assert (usage["team"], usage["owner"], usage["key"], usage["requests"]) == (name, "=bob", name, 3)
    for field, column in (("first", "first_ms"), ("ms", "ms")):
        p50, p95, p99 = [usage[f"{field}_p{percent}"] for percent in (50, 95, 99)]
        assert 0 <= p50 <= p95 <= p99
        assert p99 <= 500 or max(row[column] for row in rows) > 250
    assert report["total"] == {each: usage[each] for each in report["total"]}
    assert [(each["team"], each["owner"], each["requests"]) for each in sheet_rows] == [
        (name, "'=bob", "3"),
        ("", "", "3"),
    ]
    assert sheet_rows[1]["cost_usd"] == "0.000081"


def test_the_ledger_is_a_spreadsheet_however_long(
    bed: Bed, engine: Engine, make: Callable[..., str], name: str
) -> None:
    make()
    now = int(time.time())  # what is older than the ledger keeps may be gone at any moment
    rows = [made_row(number, now, key=name, cost=10**9 + number, model="=x") for number in range(450)]
    transact(engine, lambda c: ledger.book(c, rows, Counter(), again=False))

    *found, total = sheet(bed, f"/requests?format=csv&key={name}")
    (newest,) = admin(bed, "GET", f"/requests?key={name}&limit=1").json["data"]
    (older,) = admin(bed, "GET", f"/requests?key={name}&to={now}&limit=1").json["data"] or [None]

    assert [row["id"] for row in found] == [row.id for row in reversed(rows)]
    assert found[0]["id"] == newest["id"]
    assert older is None
    assert {row["model"] for row in found} == {"'=x"}
    assert (total["id"], total["cost_usd"]) == ("total", "450.000101025")
    assert [each["id"] for each in sheet(bed, "/requests?format=csv&key=nobody")] == ["total"]


def test_a_new_key_cuts_no_spreadsheet(bed: Bed, engine: Engine, make: Callable[..., str], name: str) -> None:
    """Keys that are gone have their streams cut here; the operator's is not among those of clients."""
    now = int(time.time())
    rows = [made_row(number, now, key=name) for number in range(1000, 16_000)]
    transact(engine, lambda c: ledger.book(c, rows, Counter(), again=False))
    headers = [("Authorization", f"Bearer {ADMIN_KEY}")]
    path = f"/admin/api/requests?format=csv&key={name}"
    host, port = bed.gateway.host, bed.gateway.port
    with RawClient(host, port, timeout_s=20.0, receive_buffer_bytes=4096) as client:
        client.send(build_request("GET", path, host, port, headers=headers))
        head = client.read_head()
        make()
        body = b"".join(client.iter_body(head)).decode()

    *found, total = csv.DictReader(io.StringIO(body))
    assert (len(found), total["id"]) == (len(rows), "total")


def test_readiness_tells_nothing_where_all_is_well(bed: Bed) -> None:
    assert "accounts" not in bed.get("/ready").json


def test_without_a_database_its_paths_are_not_described() -> None:
    with running_bed(env={"DATABASE_URL": "none"}) as bed:
        paths = bed.get("/openapi.json", key=None).json["paths"]

        assert not ACCOUNT_PATHS & paths.keys()
        assert "/v1/models" in paths


def test_without_a_database_nothing_of_its_library_is_imported() -> None:
    code = (
        "import sys; from one_api.app import create_app; from one_api.config import Config; create_app(Config());"
        "print([name for name in sys.modules if name.split('.')[0] in ('sqlalchemy', 'alembic', 'psycopg')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
