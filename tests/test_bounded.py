"""The map that stays small, against a plain model of it."""

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.bounded import BoundedMap, once_a_minute

ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.sampled_from("abcdef"), st.integers(0, 60), st.sampled_from([5.0, 20.0, math.inf])
        ),
        st.tuples(st.just("get"), st.sampled_from("abcdef")),
        st.tuples(st.just("renew"), st.sampled_from("abcdef"), st.sampled_from([5.0, 20.0])),
        st.tuples(st.just("drop"), st.sampled_from("abcdef")),
        st.tuples(st.just("wait"), st.floats(0, 8)),
        st.tuples(st.just("sweep"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(ACTS)
def test_it_holds_what_was_used_last_and_has_not_expired(acts: list[tuple[object, ...]]) -> None:
    now = [0.0]
    found: BoundedMap[str, int] = BoundedMap(max_entries=4, max_bytes=100, clock=lambda: now[0])
    #: Key -> the size, which is the value too, and the end; the most recently used last.
    model: dict[str, tuple[int, float]] = {}

    for act in acts:
        match act:
            case "put", str(key), int(size), float(ttl_s):
                assert found.put(key, size, size, ttl_s)
                model.pop(key, None)
                while len(model) >= 4 or sum(each for each, _ in model.values()) + size > 100:
                    del model[next(iter(model))]
                model[key] = size, now[0] + ttl_s
            case "get", str(key):
                if key in model and model[key][1] <= now[0]:
                    del model[key]
                assert found.get(key) == model.get(key, (None,))[0]
                if key in model:
                    model[key] = model.pop(key)
            case "renew", str(key), float(ttl_s) if key in model:
                found.renew(key, ttl_s)
                model[key] = model[key][0], now[0] + ttl_s
            case "drop", str(key):
                assert found.drop(key) == (model.pop(key, None) is not None)
            case "wait", float(seconds):
                now[0] += seconds
            case "sweep", int():
                found.drop_expired(1000)
                model = {key: value for key, value in model.items() if value[1] > now[0]}

        assert found.items() == [(key, size) for key, (size, _) in model.items()]
        assert found.size_bytes == sum(size for size, _ in model.values())
        assert len(found.expiring) <= 2 * len(found) + 7


def test_what_is_larger_than_the_whole_map_is_not_kept() -> None:
    found: BoundedMap[str, int] = BoundedMap(max_bytes=100)
    assert found.put("small", 1, 40)
    assert not found.put("large", 2, 101)
    assert found.items() == [("small", 1)]


def test_it_says_when_the_next_entry_expires() -> None:
    now = [10.0]
    found: BoundedMap[bytes, int] = BoundedMap(clock=lambda: now[0])
    assert found.drop_expired(5) is None

    found.put(b"later", 1, ttl_s=8.0)
    found.put(b"sooner", 2, ttl_s=3.0)
    assert found.drop_expired(5) == 3.0
    now[0] = 13.0
    assert found.drop_expired(5) == 5.0
    assert found.items() == [(b"later", 1)]


def test_a_line_of_the_log_comes_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("often").error
    for _ in range(100):
        once_a_minute(log, "the %s is full", "disk")
        once_a_minute(log, "the %s is full", "pipe")

    assert set(caplog.messages) == {"the disk is full", "the pipe is full"}
    assert len(caplog.messages) <= 4  # a minute may end meanwhile
