"""Reranking through the real gateway: scores of one model only, kept answers, and the addresses of other clients."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import Script, Seen, WaitFor, error, json_reply

from .bed import Answer
from .doors import DoorBed, running_doors


def ranking(seen: Seen) -> Script:
    """Scores by the length of each document, told in each server's own way."""
    documents = seen.json["documents"]
    results = [{"index": index, "relevance_score": len(each) / 100} for index, each in enumerate(documents)]
    return json_reply({"id": "r", "results": results, "usage": {"total_tokens": 7}})


def rank(doors: DoorBed, model: str, /, path: str = "/v1/rerank", headers: Any = (), **fields: Any) -> Answer:
    body = {"model": model, "query": "q", "documents": ["a", "bb"], **fields}
    return doors.call(path, body, headers=headers)


# One space


def test_scores_of_another_model_never_stand_in() -> None:
    groups = {"mixed": {"targets": ["a/any-0", "b/any-1"], "strategy": "ordered", "fallbacks": ["b/any-2"]}}
    with running_doors(model_groups=groups) as doors:
        doors.a.on("any-0", error(500))
        doors.b.on("any-1", ranking)
        doors.b.on("any-2", ranking)

        assert rank(doors, "mixed").status == 502
        assert not doors.b.requests
        doors.gateway.wait_for_log("rerank_space")


def test_targets_of_one_space_stand_in_for_each_other() -> None:
    groups = {"one": {"targets": ["a/any-0", "b/any-1"], "strategy": "ordered", "rerank_space": "bge"}}
    with running_doors(model_groups=groups) as doors:
        doors.a.on("any-0", error(500))
        doors.b.on("any-1", ranking)

        assert rank(doors, "one").header("x-gateway-deployment") == "b/any-1"


# Kept answers


def test_an_answer_is_kept_with_its_bytes() -> None:
    with running_doors(cache={"enabled": True}) as doors:
        doors.a.on("any-0", ranking)

        first, again, other = rank(doors, "any-0"), rank(doors, "any-0"), rank(doors, "any-0", query="another")

        assert [each.header("x-gateway-cache") for each in (first, again, other)] == ["miss", "hit", "miss"]
        assert again.body == first.body
        assert again.header("content-type") == first.header("content-type")
        assert (again.header("x-gateway-attempts"), again.header("age") is not None) == ("0", True)
        assert again.header("x-gateway-deployment") == "a/any-0"
        assert len(doors.a.requests) == 2
        assert doors.record_of(again)["prompt_tokens"] == 0


def test_identical_requests_under_way_are_asked_for_once() -> None:
    with running_doors(cache={"enabled": True}) as doors, ThreadPoolExecutor(5) as clients:
        gate = threading.Event()
        doors.a.on("any-0", lambda seen: [WaitFor(gate), *ranking(seen)])
        ranked = [clients.submit(rank, doors, "any-0") for _ in range(5)]
        while b'one_api_requests_in_flight{worker="0"} 5' not in doors.get("/metrics").body:
            time.sleep(0.01)
        gate.set()

        answers = [each.result() for each in ranked]

        assert len({answer.body for answer in answers}) == len(doors.a.requests) == 1


@pytest.mark.parametrize(
    ("header", "said", "asked"), [("no-cache", "bypass", 2), ("no-store", "bypass", 2), ("max-age=100", "hit", 1)]
)
def test_the_client_says_what_may_be_kept(header: str, said: str, asked: int) -> None:
    with running_doors(cache={"enabled": True}) as doors:
        doors.a.on("any-0", ranking)
        rank(doors, "any-0")

        answer = rank(doors, "any-0", headers=[("Cache-Control", header)])

        assert answer.header("x-gateway-cache") == said
        assert len(doors.a.requests) == asked


def test_errors_and_answers_of_fallbacks_are_not_kept() -> None:
    groups = {"g": {"targets": ["a/any-0"], "fallbacks": ["b/any-0"]}}
    with running_doors(cache={"enabled": True}, model_groups=groups, retry={"max_attempts": 4}) as doors:
        doors.a.on("any-0", error(500))
        doors.b.on("any-0", error(500), error(500), ranking)

        assert rank(doors, "g").status == 502
        answers = [rank(doors, "g") for _ in range(3)]

        assert {answer.header("x-gateway-cache") for answer in answers} == {"miss"}


def test_a_request_for_vectors_never_meets_a_ranking() -> None:
    with running_doors(cache={"enabled": True}) as doors:
        doors.a.on("any-0", ranking)
        both: dict[str, Any] = {"input": "x", "query": "q", "documents": ["a"]}
        rank(doors, "any-0", **both)
        doors.a.on("any-0", json_reply({"data": [{"index": 0, "embedding": [0.5]}]}))

        vectors = doors.call("/v1/embeddings", {"model": "any-0", **both})

        assert vectors.header("x-gateway-cache") == "miss"
        assert vectors.json["data"][0]["embedding"] == [0.5]
        assert rank(doors, "any-0", **both).header("x-gateway-cache") == "hit"


# Addresses


def test_addresses_of_other_clients_are_served_where_they_are_wanted(doors: DoorBed) -> None:
    with running_doors(server={"rerank_paths": ["/v2/rerank"]}) as other:
        other.a.on("any-0", ranking)

        assert rank(other, "any-0", "/v2/rerank").json["id"] == "r"
        assert other.last("any-0").path == "/v1/rerank"
        assert rank(other, "any-0", "/rerank").error["code"] == "unknown_url"
    for path in ("/rerank", "/v2/rerank"):
        assert rank(doors, "any-0", path).status == 404


def test_the_answer_of_another_server_passes_as_it_is(doors: DoorBed) -> None:
    model = doors.model()
    cohere = {
        "id": "r",
        "results": [{"index": 0, "relevance_score": 0.5}],
        "meta": {"billed_units": {"search_units": 1}},
    }
    doors.a.on(model, json_reply(cohere))

    assert json.loads(rank(doors, model).body) == cohere
