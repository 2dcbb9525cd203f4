"""Embeddings through the real gateway: the encoding asked for, whole or not at all, and from one model only."""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import Close, Hang, Reset, Script, Seen, WaitFor, error, json_reply, reply

from .bed import KEY, Answer, Body
from .doors import DoorBed, running_doors

USAGE = {"prompt_tokens": 4, "total_tokens": 4}


def packed(*numbers: float) -> str:
    """Numbers as base64 carries them."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def unpacked(text: str) -> list[float]:
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def vectors(*embeddings: Any, usage: Any = USAGE) -> Script:
    """The answer of an upstream, in the encoding that its embeddings are given in."""
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(embeddings)]
    return json_reply({"object": "list", "data": data, "model": "upstream-name", "usage": usage})


def by_length(seen: Seen) -> Script:
    """Vectors that tell which input they are of: its length, twice."""
    inputs = seen.json["input"]
    numbers = [float(len(each)) for each in ([inputs] if isinstance(inputs, str) else inputs)]
    as_base64 = seen.json.get("encoding_format") == "base64"
    usage = {"prompt_tokens": len(numbers), "total_tokens": len(numbers)}
    return vectors(*(packed(each, each) if as_base64 else [each, each] for each in numbers), usage=usage)


def embed(doors: DoorBed, model: str, value: Any = "hello", **fields: Any) -> Answer:
    headers = fields.pop("headers", ())
    return doors.call("/v1/embeddings", {"model": model, "input": value, **fields}, headers=headers)


def embeddings(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    assert [entry["index"] for entry in answer.json["data"]] == list(range(len(answer.json["data"])))
    return [entry["embedding"] for entry in answer.json["data"]]


@pytest.fixture(scope="module")
def client(doors: DoorBed) -> Iterator[openai.OpenAI]:
    with doors.sdk() as opened:
        yield opened


# Encodings


@pytest.mark.parametrize("came", [packed(0.5, -2.0), [0.5, -2.0]], ids=["base64 came", "floats came"])
@pytest.mark.parametrize("wanted", ["base64", "float", None])
def test_the_answer_is_in_the_encoding_asked_for(doors: DoorBed, came: Any, wanted: str | None) -> None:
    model = doors.model()
    doors.a.on(model, vectors(came))
    asked = {} if wanted is None else {"encoding_format": wanted}

    answer = embed(doors, model, **asked)

    (vector,) = embeddings(answer)
    assert vector == (packed(0.5, -2.0) if wanted == "base64" else [0.5, -2.0])
    assert (answer.json["object"], answer.json["usage"]) == ("list", USAGE)
    assert doors.a.requests[-1].json.get("encoding_format") == wanted, "the upstream is asked as the client asked"


@pytest.mark.parametrize("came", [packed(0.5, -2.0), [0.5, -2.0]], ids=["base64 came", "floats came"])
@pytest.mark.parametrize("wanted", [openai.omit, "float", "base64"])
def test_the_official_client_reads_every_combination(
    doors: DoorBed, client: openai.OpenAI, came: Any, wanted: Any
) -> None:
    model = doors.model()
    doors.a.on(model, vectors(came))

    answer = client.embeddings.create(model=model, input="hello", encoding_format=wanted)

    vector: Any = answer.data[0].embedding
    assert (unpacked(vector) if isinstance(vector, str) else vector) == [0.5, -2.0]
    assert answer.usage.prompt_tokens == 4


def test_the_official_client_asks_for_base64_unasked(doors: DoorBed, client: openai.OpenAI) -> None:
    model = doors.model()
    doors.a.on(model, by_length)

    client.embeddings.create(model=model, input=["a", "bc"])

    assert doors.last(model).json["encoding_format"] == "base64"


def test_the_adapter_says_how_an_upstream_is_asked() -> None:
    with running_doors({"embeddings": "float"}) as doors:
        model = doors.model()
        doors.a.on(model, by_length)

        answer = embed(doors, model, "abc", encoding_format="base64")

        assert doors.last(model).json["encoding_format"] == "float"
        assert unpacked(embeddings(answer)[0]) == [3.0, 3.0]


# Requests


def test_the_request_passes_through(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, by_length)

    embed(doors, model, "hi", user="u", input_type="query", truncate=None)

    sent = {"model": model, "input": "hi", "user": "u", "input_type": "query", "truncate": None}
    assert doors.last(model).json == sent


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"encoding_format": "x"}, "encoding_format"),
    ],
)
def test_what_is_wrong_is_refused_here(doors: DoorBed, body: Body, param: str) -> None:
    model = doors.model()

    answer = doors.call("/v1/embeddings", {"model": model, "input": "a", **body})

    assert (answer.status, answer.error["param"]) == (400, param)
    assert doors.asked(model) == {}


def test_token_ids_go_only_where_they_mean_the_same(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, by_length)

    passed = embed(doors, model, [[1, 2, 3], [4]])
    refused = doors.call("/v1/embeddings", {"model": f"b/{model}", "input": [[1, 2], [3]]})

    assert embeddings(passed) == [[3.0, 3.0], [1.0, 1.0]]
    assert (refused.status, refused.error["param"]) == (400, "input")
    assert doors.asked(model) == {"a": 1}


def test_token_ids_go_to_the_target_that_reads_them() -> None:
    groups = {"both": {"targets": ["b/any-0", "a/any-0"], "strategy": "ordered"}}
    with running_doors(model_groups=groups) as doors:
        doors.a.on("any-0", by_length)

        answer = embed(doors, "both", [[1, 2, 3]])

        assert embeddings(answer) == [[3.0, 3.0]]
        assert doors.asked("any-0") == {"a": 1}


def test_a_large_request_is_sent_in_parts() -> None:
    with running_doors({"max_batch": 3}) as doors:
        model = doors.model()
        doors.a.on(model, by_length)
        inputs = ["x" * (index + 1) for index in range(20)]

        answer = embed(doors, model, inputs)

        assert [vector[0] for vector in embeddings(answer)] == [float(index + 1) for index in range(20)]
        assert answer.json["usage"] == {"prompt_tokens": 20, "total_tokens": 20}
        assert sorted(len(seen.json["input"]) for seen in doors.a.requests) == [2, 3, 3, 3, 3, 3, 3]
        assert doors.record_of(answer)["attempts"] == 1


def test_at_most_four_parts_are_under_way() -> None:
    with running_doors({"max_batch": 1}) as doors:
        model, gate = doors.model(), threading.Event()
        doors.a.on(model, lambda seen: [WaitFor(gate), *by_length(seen)])
        body = {"model": model, "input": ["a", "b", "c", "d", "e", "f"]}
        asking = threading.Thread(target=lambda: embeddings(doors.call("/v1/embeddings", body)))
        asking.start()

        doors.a.wait_for(4)
        under_way = [seen for seen in doors.a.requests if not seen.ended.is_set()]
        gate.set()
        asking.join()

        assert len(under_way) == 4
        assert len(doors.a.requests) == 6


def test_when_one_part_fails_all_are_asked_elsewhere() -> None:
    with running_doors({"max_batch": 1}) as doors:
        model = doors.model()
        doors.a.on(model, lambda seen: error(500) if seen.json["input"] == ["bb"] else by_length(seen))
        doors.b.on(model, by_length)

        answer = embed(doors, model, ["a", "bb", "ccc"])

        assert [vector[0] for vector in embeddings(answer)] == [1.0, 2.0, 3.0]
        assert answer.header("x-gateway-deployment") == f"b/{model}"
        assert len(doors.b.requests) == 3


# What upstreams answer


@pytest.mark.parametrize(
    "script",
    [
        vectors([1.0, 2.0], [1.0, 2.0]),
        vectors(),
        vectors([1.0, float("nan")]),
        vectors("AAA"),
        json_reply({"object": "list"}),
        json_reply({"data": [{"index": 5, "embedding": [1.0]}]}),
        json_reply({"error": {"message": "no room", "type": "server_error"}}),
        reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        reply(b'{"data":[{"index":0,"embedding":[1.0'),
    ],
    ids=[
        "two for one",
        "none",
        "no number",
        "half base64",
        "no data",
        "wrong index",
        "an error",
        "a page",
        "half JSON",
    ],
)
def test_an_answer_that_is_none_is_had_elsewhere(doors: DoorBed, script: Script) -> None:
    model = doors.model()
    doors.a.on(model, script)
    doors.b.on(model, vectors([0.5]))

    answer = embed(doors, model)

    assert embeddings(answer) == [[0.5]]
    assert answer.header("x-gateway-deployment") == f"b/{model}"


def test_117_vectors_of_another_length_are_never_passed_on(doors: DoorBed) -> None:
    model = doors.model()
    for upstream in (doors.a, doors.b):
        upstream.on(model, vectors([0.5] * 768))

    answer = embed(doors, model, dimensions=256)

    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
    assert "768" in answer.error["message"]


def test_vectors_of_different_lengths_are_never_passed_on(doors: DoorBed) -> None:
    model = doors.model()
    for upstream in (doors.a, doors.b):
        upstream.on(model, vectors([0.5, 1.0], [0.5]))

    assert embed(doors, model, ["a", "b"]).status == 502


def test_usage_that_is_missing_is_estimated(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, vectors([0.5], usage=None))

    assert embed(doors, model, "abcdefgh").json["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


FAULTS: dict[str, Script] = {
    "500": error(500),
    "429": error(429, headers={"Retry-After": "60"}),
    "reset": [Reset()],
    "closed": [Close()],
    "cut": [*reply(b'{"data":[', headers={"Content-Length": "1000"}), Close()],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_not_seen(doors: DoorBed, fault: str) -> None:
    model = doors.model()
    doors.a.on(model, FAULTS[fault])
    doors.b.on(model, vectors([0.5]))

    assert embeddings(embed(doors, model)) == [[0.5]]


def test_an_upstream_that_is_silent_is_left_alone() -> None:
    with running_doors({"timeouts": {"total_s": 0.3}}) as doors:
        model = doors.model()
        doors.a.on(model, [Hang()])
        doors.b.on(model, vectors([0.5]))

        assert embeddings(embed(doors, model)) == [[0.5]]


def test_when_nobody_answers_there_is_one_error(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, error(500))
    doors.b.on(model, error(503))

    answer = embed(doors, model)

    assert answer.status in (502, 503)
    assert answer.error.keys() == {"message", "type", "param", "code"}


# One space


def test_vectors_of_another_model_never_stand_in() -> None:
    groups = {"mixed": {"targets": ["a/any-0", "b/any-1"], "strategy": "ordered", "fallbacks": ["b/any-2"]}}
    with running_doors(model_groups=groups) as doors:
        doors.a.on("any-0", error(500))

        answer = embed(doors, "mixed")

        assert answer.status == 502
        assert doors.b.requests == []
        doors.gateway.wait_for_log("embedding_space")


def test_targets_of_one_space_stand_in_for_each_other() -> None:
    groups = {
        "mixed": {
            "targets": ["a/any-0", "b/any-1"], "strategy": "ordered", "fallbacks": ["b/any-2"], "embedding_space": "e5",
        }
    }  # fmt: skip
    with running_doors(model_groups=groups) as doors:
        doors.a.on("any-0", error(500))
        doors.b.on("any-1", vectors([0.5]))

        answer = embed(doors, "mixed")

        assert embeddings(answer) == [[0.5]]
        assert answer.json["model"] == "mixed"
        assert [seen.model for seen in doors.b.requests] == ["any-1"]


# Kept vectors


def test_each_input_is_kept_for_itself() -> None:
    with running_doors(cache={"enabled": True}) as doors:
        model = doors.model()
        doors.a.on(model, by_length)

        first = embed(doors, model, ["a", "bb"])
        second = embed(doors, model, ["bb", "ccc", "a"], encoding_format="base64")
        third = embed(doors, model, "ccc")

        assert [first.header("x-gateway-cache"), second.header("x-gateway-cache")] == ["miss", "hit 2/3"]
        assert [unpacked(each) for each in embeddings(second)] == [[2.0, 2.0], [3.0, 3.0], [1.0, 1.0]]
        assert [seen.json["input"] for seen in doors.a.requests] == [["a", "bb"], ["ccc"]]
        assert (second.json["usage"]["prompt_tokens"], third.json["usage"]["prompt_tokens"]) == (1, 0)
        assert (third.header("x-gateway-cache"), third.header("x-gateway-attempts")) == ("hit", "0")
        assert embeddings(third) == [[3.0, 3.0]]


def test_what_makes_another_vector_is_another_key() -> None:
    with running_doors(
        cache={"enabled": True}, api_keys=[{"name": "one", "key": KEY}, {"name": "two", "key": "second-key"}]
    ) as doors:
        model, other = doors.model(), doors.model()
        for each in (model, other):
            doors.a.on(each, by_length)
        bodies: list[Body] = [
            {"model": model, "input": "a"},
            {"model": model, "input": "a", "dimensions": 2},
            {"model": model, "input": "a", "input_type": "query"},
            {"model": other, "input": "a"},
        ]

        statuses = [doors.call("/v1/embeddings", body).header("x-gateway-cache") for body in bodies]
        foreign = doors.call("/v1/embeddings", bodies[0], key="second-key")
        labelled = doors.call("/v1/embeddings", bodies[0] | {"user": "u"})

        assert statuses == ["miss"] * 4
        assert foreign.header("x-gateway-cache") == "miss", "kept apart for each key"
        assert labelled.header("x-gateway-cache") == "hit"


def test_the_client_may_ask_for_new_vectors() -> None:
    with running_doors(cache={"enabled": True}) as doors:
        model = doors.model()
        doors.a.on(model, by_length)
        embed(doors, model)

        fresh = embed(doors, model, headers=[("Cache-Control", "no-cache")])
        old = embed(doors, model, headers=[("Cache-Control", "max-age=0")])
        apart = embed(doors, model, headers=[("Cache-Control", "no-store")])

        assert [each.header("x-gateway-cache") for each in (fresh, old, apart)] == ["bypass"] * 3
        assert len(doors.a.requests) == 4


# Doors


def test_a_model_for_chats_is_not_asked_for_vectors(doors: DoorBed) -> None:
    model = doors.model("talk")

    answer = embed(doors, model)

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "model", "model_not_supported")
    assert "/v1/chat/completions" in answer.error["message"]
    assert doors.asked(model) == {}


def test_a_model_for_vectors_is_not_asked_to_chat(doors: DoorBed) -> None:
    model = doors.model("embed")

    answer = doors.ask(model)

    assert (answer.status, answer.error["code"]) == (400, "model_not_supported")
    assert "/v1/embeddings" in answer.error["message"]
    assert doors.asked(model) == {}


def test_the_list_says_what_models_are_for(doors: DoorBed) -> None:
    listed = {entry["id"]: entry for entry in doors.get("/v1/models").json["data"]}

    assert listed["embed-0"]["kinds"] == ["embedding"]
    assert listed["talk-0"]["kinds"] == ["chat"]
    assert "kinds" not in listed["any-0"]


def test_the_log_has_the_tokens(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, vectors([0.5]))

    record = doors.record_of(embed(doors, model))

    assert (record["path"], record["model"], record["prompt_tokens"]) == ("/v1/embeddings", model, 4)


def test_many_large_vectors(doors: DoorBed) -> None:
    model = doors.model()
    row = [index / 1000 for index in range(1536)]
    doors.a.on(model, lambda seen: vectors(*[row] * len(seen.json["input"])))

    answer = embed(doors, model, ["x"] * 600)

    found = embeddings(answer)
    assert len(found) == 600
    assert found[599] == json.loads(json.dumps(row))
