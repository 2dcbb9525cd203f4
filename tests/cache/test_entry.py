"""What is kept of an answer, and what is not taken for it."""

import json
from typing import Any

import pytest

from one_api.cache.entry import Entry, InvalidEntry

KEY = bytes(32)
ANSWER: dict[str, Any] = {
    "id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "é 1.0"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2**60},
}  # fmt: skip


def kept(**changes: Any) -> bytes:
    """The bytes of an entry, with some fields changed."""
    return json.dumps(json.loads(Entry.of(ANSWER, 1000.0, "a/m").encode(KEY)) | changes).encode()


def test_an_entry_comes_back_as_it_was() -> None:
    entry = Entry.of(ANSWER, 1000.5, "a/m", ["seed"])
    assert Entry.decode(KEY, entry.encode(KEY)) == entry


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00\xff garbage", b"null", b"[]", b"{}", b"{" * 100_000, kept()[:-5], kept(version=2), kept(key="00"),
        kept(stored_at="now"), kept(stored_at=None), kept(deployment=5), kept(warnings=None), kept(warnings=[1]),
        kept(answer=None), kept(answer={}), kept(answer={"choices": []}), kept(answer={"choices": [1]}),
        kept(answer={"choices": [{"index": 0}]}), kept(answer={"choices": [{"message": {}, "index": "0"}]}),
        kept(answer={"choices": [{"message": {"content": 5}, "index": 0}]}),
        kept(answer={"choices": [{"message": {"tool_calls": 5}, "index": 0}]}),
        kept(answer={"choices": [{"message": {"tool_calls": [5]}, "index": 0}]}),
    ],
)  # fmt: skip
def test_garbage_is_no_entry(data: bytes) -> None:
    with pytest.raises(InvalidEntry):
        Entry.decode(KEY, data)


def test_an_entry_of_another_key_is_not_taken() -> None:
    with pytest.raises(InvalidEntry):
        Entry.decode(bytes(31) + b"1", Entry.of(ANSWER, 1000.0).encode(KEY))


def test_age_is_in_whole_seconds_and_never_negative() -> None:
    assert [Entry.of(ANSWER, 1000.0).age_s(now) for now in (999.0, 1000.9, 1062.0)] == [0, 0, 62]
