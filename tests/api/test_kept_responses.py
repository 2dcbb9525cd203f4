"""Responses that are kept: for how long, how many, and for whom."""

from typing import Any

import pytest

from one_api.api.kept_responses import KeptResponses, find_items, history
from one_api.dialects.responses.kept import ChainTooLong
from tests.support.clock import Clock

LIMITS: Any = {"ttl_s": 100.0, "max_bytes": 100_000}


def response(number: int, previous: int | None = None, text: str = "yes", status: str = "completed") -> dict[str, Any]:
    """A response object, as far as it matters here."""
    output = [{"type": "message", "id": f"msg_{number:032x}00", "role": "assistant", "content": text}]
    parent = None if previous is None else f"resp_{previous:032x}"
    return {"id": f"resp_{number:032x}", "previous_response_id": parent, "status": status, "output": output}


def asked(number: int) -> list[dict[str, Any]]:
    """The items of a request."""
    return [{"role": "user", "content": str(number)}]


async def chain(kept: KeptResponses, length: int) -> str:
    """Keep a conversation; the id of its last response."""
    for number in range(length):
        assert await kept.keep("me", response(number, number - 1 if number else None), asked(number), **LIMITS)
    return f"resp_{length - 1:032x}"


async def test_a_conversation_is_told_from_its_beginning() -> None:
    kept = KeptResponses()

    found = await history(kept, "me", await chain(kept, 3), 100.0)

    assert found is not None
    assert [item["content"] for item in found] == ["0", "yes", "1", "yes", "2", "yes"]


async def test_what_is_gone_on_from_stays_and_the_rest_goes() -> None:
    clock = Clock()
    kept = KeptResponses(clock)
    last = await chain(kept, 2)
    await kept.keep("me", response(9), asked(9), **LIMITS)

    clock.now = 99.0
    assert await history(kept, "me", last, 100.0) is not None
    clock.now = 150.0

    assert await history(kept, "me", last, 100.0) is not None
    assert await kept.find("me", f"resp_{9:032x}") is None


async def test_a_conversation_with_a_part_missing_is_not_found() -> None:
    kept = KeptResponses()
    last = await chain(kept, 3)

    assert await kept.delete("me", f"resp_{0:032x}")

    assert await history(kept, "me", last, 100.0) is None


async def test_the_longest_out_of_use_makes_room() -> None:
    kept, text = KeptResponses(), "x" * 30_000
    for number in range(4):
        assert await kept.keep("me", response(number, text=text), asked(number), **LIMITS)

    assert await kept.find("me", f"resp_{0:032x}") is None
    assert await kept.find("me", f"resp_{3:032x}") is not None


async def test_what_is_larger_than_all_that_may_be_kept_is_not() -> None:
    kept = KeptResponses()

    assert not await kept.keep("me", response(1, text="x" * 100_001), asked(1), **LIMITS)
    assert await kept.find("me", f"resp_{1:032x}") is None


async def test_a_conversation_has_a_greatest_length() -> None:
    kept = KeptResponses()
    limits: Any = {"ttl_s": 100.0, "max_bytes": 10_000_000}
    for number in range(1001):
        await kept.keep("me", response(number, number - 1 if number else None), asked(number), **limits)

    with pytest.raises(ChainTooLong):
        await history(kept, "me", f"resp_{1000:032x}", 100.0)


async def test_nobody_else_finds_anything() -> None:
    kept = KeptResponses()
    last = await chain(kept, 2)

    assert await kept.find("you", last) is None
    assert await history(kept, "you", last, 100.0) is None
    assert await find_items(kept, "you", [f"msg_{1:032x}00"]) == {}
    assert not await kept.delete("you", last)
    assert list(await find_items(kept, "me", [f"msg_{1:032x}00"])) == [f"msg_{1:032x}00"]
