"""Which requests are the same, and which are not."""

import copy
import json as stdlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.cache.keys import LEFT_OUT, CacheRoute, key_of, key_of_large
from one_api.dialects import json
from tests.support.examples import examples

ROUTE = CacheRoute("m", [("a/m", "https://a.example/v1")], 1)
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdé"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
BODIES = st.dictionaries(st.sampled_from(["messages", "seed", "stop", "tools", "x"]), VALUES, max_size=5)


def key(body: dict[str, Any], caller: str | None = "alice", route: CacheRoute = ROUTE) -> bytes:
    """The key of a body, of alice's unless told otherwise."""
    return key_of(caller, route, body)


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value, with the keys of every object in another order."""
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: shuffled(value[name], rng) for name in names}
    return [shuffled(child, rng) for child in value] if isinstance(value, list) else value


def exact(value: Any) -> str:
    """A text that is equal exactly for equal values of equal types."""
    return stdlib.dumps(value, sort_keys=True)


@given(BODIES, st.randoms(use_true_random=False))
def test_the_order_of_keys_makes_no_difference(body: dict[str, Any], rng: random.Random) -> None:
    assert key(shuffled(body, rng)) == key(body)


@given(BODIES, BODIES)
@settings(max_examples=examples(300))
def test_two_bodies_have_one_key_only_if_they_are_equal_to_the_letter(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (key(a) == key(b)) == (exact(a) == exact(b))


@given(BODIES, st.text(max_size=8), st.text(max_size=8))
def test_two_callers_never_share(body: dict[str, Any], one: str, other: str) -> None:
    assert (key(body, one.encode().hex()) == key(body, other.encode().hex())) == (one == other)
    assert key(body, one.encode().hex()) != key(body, None)


@pytest.mark.parametrize(
    "a, b",
    [
        (1, 1.0), (0, False), (1, True), (None, False), ("1", 1), (0.0, -0.0), (2**53, 2**53 + 1), ([], {}), ([1], 1),
        ("\u00e9", "e\u0301"), ("\u212b", "\u00c5"), ("a", "A"), ("a", "a "), ("\ufb01", "fi"), ("1", "\uff11"),
    ],
)  # fmt: skip
def test_values_that_only_look_alike_differ(a: Any, b: Any) -> None:
    assert key(BODY | {"x": a}) != key(BODY | {"x": b})
    assert key(BODY | {"x": [{"y": a}]}) != key(BODY | {"x": [{"y": b}]})
    assert json.canonical([a]) != json.canonical([b])


def test_a_field_that_is_null_is_not_one_that_is_absent() -> None:
    assert key(BODY | {"seed": None}) != key(BODY)


def test_the_order_of_messages_makes_a_difference() -> None:
    two = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert key(BODY | {"messages": two}) != key(BODY | {"messages": two[::-1]})


@pytest.mark.parametrize("field", sorted(LEFT_OUT - {"model"}))
def test_what_cannot_change_the_answer_is_left_out(field: str) -> None:
    assert key(BODY | {field: "anything"}) == key(BODY)
    # Only at the top: in a message it is what the model sees.
    message = BODY["messages"][0] | {field: "anything"}
    assert key(BODY | {"messages": [message]}) != key(BODY)


@pytest.mark.parametrize(
    "field", ["temperature", "seed", "n", "tools", "store", "service_tier", "response_format", "top_k", "unheard_of"]
)
def test_all_else_is_in(field: str) -> None:
    assert key(BODY | {field: 0.5}) != key(BODY)


@pytest.mark.parametrize(
    "other",
    [
        CacheRoute("n", ROUTE.deployments, 1),
        CacheRoute("m", [("b/m", "https://a.example/v1")], 1),
        CacheRoute("m", [("a/m", "https://b.example/v1")], 1),
        CacheRoute("m", [*ROUTE.deployments, ("b/m", "https://b.example/v1")], 1),
        CacheRoute("m", ROUTE.deployments, 0),
    ],
)
def test_another_route_is_another_answer(other: CacheRoute) -> None:
    assert key(BODY, route=other) != key(BODY)


def test_the_body_is_not_touched() -> None:
    body = copy.deepcopy(BODY) | {"stream": True}
    before = copy.deepcopy(body)
    key(body)
    assert body == before


@pytest.mark.parametrize("written", [b"0.1", b"0.10", b"1e-1", b"1E-01"])
def test_how_a_number_is_written_makes_no_difference(written: bytes) -> None:
    read = json.decode_object(b'{"temperature": %b, "x": [{"y": %b}]}' % (written, written), as_written=True)

    assert key(read) == key({"x": [{"y": 0.1}], "temperature": 0.1})
    assert key(read) != key({"x": [{"y": 0.1}], "temperature": 1})


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        {"z": "\n" * 300_000, "a": {"\u00e9" * 100_000: 1, "b": ["x"] * 50_000, "a": {}}},
        {"b" * 70_000: 1, "a" * 70_000: {"d": 1.5, "c": None}},
    ],
    ids=["short", "long", "long keys"],
)
def test_in_steps_the_key_is_the_same(body: dict[str, Any]) -> None:
    steps = key_of_large("alice", ROUTE, shuffled(body, random.Random(1)))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            assert done.value == key(body)
            break
