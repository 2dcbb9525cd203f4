"""The memory of thinking: what it finds, for whom, and how little it keeps."""

from one_api.upstream.thinking_store import ReplayCache, key_of_message, turn_key
from tests.support.clock import Clock

BLOCKS = [{"type": "thinking", "thinking": "Hm", "signature": "s"}]


def test_what_is_kept_is_found() -> None:
    cache = ReplayCache()
    cache.keep(b"a", BLOCKS)

    assert cache.find(b"a") == BLOCKS
    assert cache.find(b"b") is None


def test_the_oldest_go_first_and_use_makes_young() -> None:
    cache = ReplayCache(max_entries=2)
    cache.keep(b"a", BLOCKS)
    cache.keep(b"b", BLOCKS)
    cache.find(b"a")
    cache.keep(b"c", BLOCKS)

    assert [cache.find(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_bytes_are_bounded() -> None:
    cache = ReplayCache(max_bytes=150)
    for key in (b"a", b"b", b"c"):
        cache.keep(key, BLOCKS)

    assert [cache.find(key) is not None for key in (b"a", b"b", b"c")] == [False, True, True]
    cache.keep(b"d", [{"type": "thinking", "thinking": "x" * 200, "signature": ""}])
    assert cache.find(b"d") is None


def test_nothing_is_kept_for_ever() -> None:
    clock = Clock()
    cache = ReplayCache(ttl_s=10, clock=clock)
    cache.keep(b"a", BLOCKS)

    clock.now = 9.9
    assert cache.find(b"a") == BLOCKS
    clock.now = 20.0
    assert cache.find(b"a") is None


def test_a_message_has_the_key_of_the_turn_that_it_was_told_from() -> None:
    told = turn_key("alice", "m", "So.", [("t1", "f", '{"a":1}')])
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{ "a": 1 }'}}
    message = {"role": "assistant", "content": "So.", "tool_calls": [call]}

    assert key_of_message("alice", "m", message) == told
    assert key_of_message("alice", "m", message | {"content": [{"type": "text", "text": "So."}]}) == told
    others = [
        key_of_message("bob", "m", message),
        key_of_message("alice", "n", message),
        key_of_message("alice", "m", message | {"content": "No."}),
        key_of_message("alice", "m", message | {"tool_calls": [call | {"id": "t2"}]}),
    ]
    assert told not in others


def test_a_turn_without_calls_is_known_by_its_text() -> None:
    assert key_of_message("", "m", {"role": "assistant", "content": "So."}) == turn_key("", "m", "So.", [])
    assert key_of_message("", "m", {"role": "assistant", "content": None}) == turn_key("", "m", "", [])


def test_the_deprecated_form_of_a_call() -> None:
    message = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}

    assert key_of_message("", "m", message) == turn_key("", "m", "", [("", "f", "{}")])
