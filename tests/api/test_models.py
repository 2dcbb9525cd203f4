"""The model list: shapes, addresses, groups, and how it follows what upstreams say of themselves."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving.clients import wait_until
from tests.support import Close, Gateway, Hang, Receive, Reset, ScriptedUpstream, build_request, json_reply, reply

from .bed import KEY, Bed, Body, adapter, yaml

#: How long a change at an upstream may take to show, in seconds: it is asked again after ten of them at the latest.
SHOWS_S = 15.0


def until(condition: Callable[[], bool], what: str, limit_s: float = SHOWS_S) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.02)


def ids(bed: Bed) -> list[str]:
    """The ids that the list holds."""
    return [entry["id"] for entry in bed.get("/v1/models").json["data"]]


GROUPS: dict[str, Body] = {
    "fast": {"targets": ["a/small"]},
    "both": {"targets": ["a/small", {"model": "b/large", "weight": 2}], "strategy": "round_robin"},
    "common": {"targets": ["b/common"]},
    "safe": {"targets": ["a/broken"], "fallbacks": ["b/large"]},
    "org/alias:1": {"targets": ["a/org/deep/model:free"]},
    "fresh": {"targets": ["a/not-listed"]},
}


@pytest.fixture(scope="module")
def grouped() -> Iterator[Bed]:
    """Two adapters with a model in common, ids with slashes and colons, and groups of several kinds."""
    with ScriptedUpstream() as a, ScriptedUpstream() as b:
        adapters = {
            "a": adapter(a, ["small", "common", "shared", "org/deep/model:free", "broken"]),
            "b": adapter(b, ["large", "common", "shared", "a/small"]),
        }
        a.on("broken", json_reply({}, 500))
        config = yaml(adapters=adapters, model_groups=GROUPS, retry={"budget": 1.0})
        with Gateway(config_yaml=config, env={"RATE_LIMIT_REQUESTS": "100000"}) as gateway:
            yield Bed(gateway, {"a": a, "b": b})


def test_every_entry_has_the_shape(grouped: Bed) -> None:
    answer = grouped.get("/v1/models")

    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.json.keys() == {"object", "data"}
    for entry in answer.json["data"]:
        assert entry.keys() == {"id", "object", "created", "owned_by"}
        assert (entry["object"], entry["created"]) == ("model", 0)
        assert entry["owned_by"] in ("a", "b")


#: What "adapter/model" leads to, whether it is listed or not.
ADDRESSES = [
    "a/small", "a/common", "a/shared", "a/org/deep/model:free", "a/broken", "b/large", "b/common", "b/shared",
    "b/a/small",
]  # fmt: skip


def test_the_list_holds_every_model_once(grouped: Bed) -> None:
    groups, plain = GROUPS.keys(), ["small", "shared", "org/deep/model:free", "broken", "large"]

    # `common` leads to b alone, and `a/small` to a.
    assert sorted(ids(grouped)) == sorted([*groups, *plain, "a/common", "b/a/small"])


@pytest.mark.parametrize("model", ADDRESSES)
def test_an_address_can_be_asked_whether_it_is_listed_or_not(grouped: Bed, model: str) -> None:
    assert grouped.get(f"/v1/models/{quote(model)}").json["id"] == model
    if "broken" not in model:
        assert grouped.ask(model).header("x-gateway-deployment") == model


def test_all_ids_are_listed_on_demand(upstream: ScriptedUpstream) -> None:
    adapters = {"a": adapter(upstream, ["m", "shared"]), "b": adapter(upstream, ["shared"])}
    with Gateway(config_yaml=yaml(adapters=adapters, models={"list": "all"})) as gateway:
        assert ids(Bed(gateway, {})) == ["m", "shared", "a/m", "a/shared", "b/shared"]


def test_every_id_of_the_list_can_be_retrieved_and_asked(grouped: Bed) -> None:
    for model in ids(grouped):
        assert grouped.get(f"/v1/models/{model}").json["id"] == model
        if "broken" not in model:
            assert grouped.ask(model).status == 200, model


@pytest.mark.parametrize(
    "path",
    [
        "org/deep/model:free", "org%2Fdeep%2Fmodel%3Afree", "org%2Fdeep/model:free", "a/org/deep/model:free",
        "org/alias:1",
    ],
)  # fmt: skip
def test_slashes_and_colons_in_a_path(grouped: Bed, path: str) -> None:
    answer = grouped.get(f"/v1/models/{path}")

    assert answer.status == 200
    assert answer.json["id"] == path.replace("%2F", "/").replace("%3A", ":")


@pytest.mark.parametrize(
    "path", ["nobody", "a/nobody", "c/small", "a/", "a", "org%252Fdeep/model:free", "small/", "%20", "b/small"]
)
def test_an_unknown_id(grouped: Bed, path: str) -> None:
    answer = grouped.get(f"/v1/models/{path}")

    assert answer.status == 404
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
        "invalid_request_error", "model_not_found", "model"
    )  # fmt: skip


@pytest.mark.parametrize("model", ["nobody", "a/nobody", "c/small", "a/", "/", "small/", "SMALL", " small", "b/small"])
def test_an_unknown_model_in_a_chat(grouped: Bed, model: str) -> None:
    answer = grouped.ask(model)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", None)


@pytest.mark.parametrize(
    ("model", "deployment", "shown"),
    [
        ("small", "a/small", "small"),
        ("a/small", "a/small", "a/small"),
        ("b/large", "b/large", "b/large"),
        ("org/deep/model:free", "a/org/deep/model:free", "org/deep/model:free"),
        ("fast", "a/small", "fast"),
        ("common", "b/common", "common"),
        ("a/common", "a/common", "a/common"),
        ("org/alias:1", "a/org/deep/model:free", "org/alias:1"),
        ("safe", "b/large", "large"),
        ("fresh", "a/not-listed", "fresh"),
        ("b/a/small", "b/a/small", "b/a/small"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_where_an_id_leads_and_which_name_the_answer_has(
    grouped: Bed, model: str, deployment: str, shown: str, stream: bool
) -> None:
    answer = grouped.ask(model, stream=stream)

    assert answer.header("x-gateway-deployment") == deployment
    upstream = grouped.upstreams[deployment[0]]
    assert upstream.requests[-1].model == deployment[2:]
    names = {chunk["model"] for chunk in answer.chunks} if stream else {answer.json["model"]}
    assert names == {shown}


def test_an_id_of_two_adapters_is_served_by_both(grouped: Bed) -> None:
    deployments: set[str | None] = set()

    def asked_both() -> bool:
        deployments.add(grouped.ask("shared").header("x-gateway-deployment"))
        return len(deployments) > 1

    # On a busy machine one may look slower for a while, and is asked less.
    wait_until(asked_both, "both adapters to be asked")
    assert deployments == {"a/shared", "b/shared"}


def test_a_group_takes_turns(grouped: Bed) -> None:
    deployments = [grouped.ask("both").header("x-gateway-deployment") or "" for _ in range(6)]

    assert sorted(deployments[:2]) == ["a/small", "b/large"]
    assert deployments == deployments[:2] * 3


# Discovery


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(["first", "org/second:free"]) as running:
        yield running


def discovering(upstream: ScriptedUpstream, **settings: Any) -> Gateway:
    """A gateway that asks an upstream for its models."""
    return Gateway(config_yaml=yaml(adapters={"a": adapter(upstream, None, api_key="sk-up", **settings)}))


def test_models_are_asked_for_at_the_upstream(upstream: ScriptedUpstream) -> None:
    with discovering(upstream) as gateway:
        bed = Bed(gateway, {"a": upstream})

        assert ids(bed) == ["first", "org/second:free"]
        assert bed.ask("org/second:free").status == 200
        entry = bed.get("/v1/models/first").json
        assert entry == {"id": "first", "object": "model", "created": 1_700_000_000, "owned_by": "scripted"}
        (question,) = upstream.model_requests
        assert question.headers.all("authorization") == ["Bearer sk-up"]


def test_what_an_upstream_says_of_a_model_is_shown(upstream: ScriptedUpstream) -> None:
    said: Body = {
        "id": "m", "object": "odd", "created": 7, "owned_by": "org", "context_length": 8192, "max_output_tokens": 512,
        "root": "/secret/path", "permission": [1], "pricing": {"prompt": "0.1"}, "shutdown_date": None,
    }  # fmt: skip
    listing = {"object": "list", "data": [said, {"id": ""}, {"id": 7}, 7, None, {"created": 1}]}
    upstream.on_connect([Receive(1), *json_reply(listing), Close()])
    with discovering(upstream) as gateway:
        (entry,) = Bed(gateway, {}).get("/v1/models").json["data"]

    assert entry == {
        "id": "m", "object": "model", "created": 7, "owned_by": "org", "context_window": 8192, "context_length": 8192,
        "max_model_len": 8192, "max_output_tokens": 512, "pricing": {"prompt": "0.1"}, "shutdown_date": None,
    }  # fmt: skip


def test_an_upstream_that_is_down_neither_blocks_nor_breaks_the_start(upstream: ScriptedUpstream) -> None:
    upstream.on_connect(*[[Reset()]] * 1000)
    began = time.monotonic()
    with discovering(upstream) as gateway:
        started_s = time.monotonic() - began
        bed = Bed(gateway, {"a": upstream})
        assert bed.get("/health", key=None).status == 200
        assert ids(bed) == []
        assert bed.ask("first").status == 503

        upstream.on_connect()
        until(lambda: bed.get("/ready", key=None).status == 200, "the upstream's models are known")

        assert bed.ask("first").status == 200
        assert ids(bed)[:2] == ["first", "org/second:free"]
    assert started_s < 15


@pytest.mark.parametrize("status", [401, 503])
def test_an_upstream_that_fails_at_first_is_asked_again(upstream: ScriptedUpstream, status: int) -> None:
    upstream.models_status = status
    with discovering(upstream) as gateway:
        bed = Bed(gateway, {"a": upstream})
        assert bed.get("/v1/models").json["data"] == []

        upstream.models_status = 200
        until(lambda: "first" in ids(bed), "the upstream's models are listed")


def test_what_is_known_stays_while_an_upstream_fails(upstream: ScriptedUpstream) -> None:
    with discovering(upstream, discovery_interval_s=0.1) as gateway:
        bed = Bed(gateway, {"a": upstream})
        assert "first" in ids(bed)

        upstream.models_status = 500
        asked = len(upstream.model_requests)
        until(lambda: len(upstream.model_requests) >= asked + 2, "it was asked again, in vain")

        assert "first" in ids(bed)
        assert bed.ask("first").status == 200
        assert bed.get("/ready", key=None).json == {"status": "ready", "reason": None, "pending": {}}


def test_what_is_new_appears_and_what_is_gone_disappears(upstream: ScriptedUpstream) -> None:
    with discovering(upstream, discovery_interval_s=0.1) as gateway:
        bed = Bed(gateway, {"a": upstream})
        assert "first" in ids(bed)

        upstream.models[:] = ["third"]
        until(lambda: ids(bed) == ["third"], "the list has changed")

        assert bed.ask("third").status == 200
        assert bed.ask("first").status == 404


OLLAMA = {
    "name": "b:latest",
    "model": "b:latest",
    "modified_at": "2025-01-01T00:00:00Z",
    "details": {"family": "llama"},
}
#: Lists that hold "a/x" and "b:latest", as servers write them.
LISTINGS: list[Any] = [
    ["a/x", "b:latest"],
    [{"id": "a/x"}, {"name": "b:latest"}],
    {"data": ["a/x", "b:latest"]},
    {"models": [{"name": "a/x"}, OLLAMA]},
    {"object": "list", "data": None, "models": [{"model": "a/x"}, {"id": "b:latest", "name": "Model B"}]},
    {"data": {"models": ["a/x", {"id": None, "name": "b:latest"}]}},
    {"models": {"a/x": {}, "b:latest": {"context_length": 8}}},
    [{"id": ""}, 7, None, {"model_name": "a/x"}, "b:latest", "b:latest"],
    {"modelSummaries": [{"modelId": "a/x"}, {"modelId": "b:latest"}]},
    {"errors": ["none"], "result": {"list": [{"slug": "a/x"}, {"slug": "b:latest"}]}},
    b'\xef\xbb\xbf{"data":[{"id":"a/x"},{"id":"b:latest","score":NaN}]}',
    b'{"id":"a/x"}\n{"id":"b:latest"}\n',
]


@pytest.mark.parametrize("kind", ["openai", "claude"])
def test_a_list_is_read_in_every_shape(kind: str) -> None:
    with contextlib.ExitStack() as held:
        upstreams = [held.enter_context(ScriptedUpstream()) for _ in LISTINGS]
        for upstream, listing in zip(upstreams, LISTINGS, strict=True):
            script = reply(listing) if isinstance(listing, bytes) else json_reply(listing)
            upstream.on_connect([Receive(1), *script, Close()])
        adapters = {f"a{i}": adapter(upstream, None) | {"type": kind} for i, upstream in enumerate(upstreams)}
        bed = Bed(held.enter_context(Gateway(config_yaml=yaml(adapters=adapters, models={"list": "all"}))), {})

        found = ids(bed)

        assert sorted(found) == sorted(
            ["a/x", "b:latest", *(f"a{i}/{model}" for i in range(len(LISTINGS)) for model in ("a/x", "b:latest"))]
        )


def test_an_empty_list_is_a_list(upstream: ScriptedUpstream) -> None:
    upstream.on_connect([Receive(1), *json_reply({"object": "list", "data": None}), Close()])
    with discovering(upstream) as gateway:
        bed = Bed(gateway, {})
        assert ids(bed) == []

        assert bed.get("/ready", key=None).json["pending"] == {}


@pytest.mark.parametrize(
    "listing", [{"data": "none"}, {"object": "list"}, [1], {"error": "x"}, {"data": [{}]}], ids=str
)
def test_a_list_of_no_known_shape_is_of_no_use(upstream: ScriptedUpstream, listing: Any) -> None:
    upstream.on_connect([Receive(1), *json_reply(listing), Close()])
    with discovering(upstream) as gateway:
        bed = Bed(gateway, {})
        assert ids(bed) == []

        until(lambda: "first" in ids(bed), "the second answer was of use")


def test_an_upstream_that_hangs_does_not_hold_the_others_up(upstream: ScriptedUpstream) -> None:
    with ScriptedUpstream() as slow:
        slow.on_connect([Hang()])
        adapters = {"slow": adapter(slow, None), "a": adapter(upstream, None)}
        with Gateway(config_yaml=yaml(adapters=adapters)) as gateway:
            bed = Bed(gateway, {"a": upstream})

            assert bed.ask("first").status == 200
            assert bed.get("/ready", key=None).json["pending"].keys() == {"slow"}


def test_a_request_right_after_the_start_waits_for_the_models(upstream: ScriptedUpstream) -> None:
    with discovering(upstream) as gateway, Bed(gateway, {}).connect() as client:
        client.send(
            build_request("GET", "/v1/models", gateway.host, gateway.port, headers={"Authorization": f"Bearer {KEY}"})
        )

        assert client.read_response().json["data"] != []


def test_anthropics_clients_read_errors_in_their_words(bed: Bed) -> None:
    answer = bed.get("/v1/models/none", headers=[("anthropic-version", "2023-06-01")])

    assert answer.status == 404
    assert (answer.json["type"], answer.json["error"]["type"]) == ("error", "not_found_error")
    assert answer.header("request-id") == answer.json["request_id"]
