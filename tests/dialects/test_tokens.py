"""Estimates of the tokens of a request."""

from typing import Any

import pytest

from one_api.dialects.tokens import estimate_tokens

TURN = {"role": "user", "content": "Hi"}


def test_the_smallest_request_has_some_tokens() -> None:
    assert 1 <= estimate_tokens({"messages": [TURN]}) < 20


def test_tools_and_system_count() -> None:
    bare = estimate_tokens({"messages": [TURN]})

    assert estimate_tokens({"messages": [TURN], "system": "x" * 400}) >= bare + 100
    assert estimate_tokens({"messages": [TURN], "tools": [{"name": "a", "description": "x" * 400}]}) >= bare + 100


DATA = "A" * 400_000
IMAGES = {
    "Messages": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
    "chat": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
}
FILES = {
    "Messages": {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}},
    "chat": {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{DATA}"}},
}


def of_part(part: Any) -> int:
    """The tokens of one message with one part."""
    return estimate_tokens({"messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize("dialect", IMAGES)
def test_an_image_counts_as_one_whatever_its_bytes(dialect: str) -> None:
    assert 700 < of_part(IMAGES[dialect]) < 1000


@pytest.mark.parametrize("dialect", FILES)
def test_a_file_counts_by_its_pages(dialect: str) -> None:
    assert 8_000 < of_part(FILES[dialect]) < 12_000


def test_a_document_of_text_counts_as_text() -> None:
    assert of_part({"type": "document", "source": {"type": "text", "data": "x" * 4000}}) in range(1000, 1020)


@pytest.mark.parametrize(
    "called",
    [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "x" * 400}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x" * 400}}]},
    ],
    ids=["Messages", "chat"],
)
def test_calls_of_tools_count(called: Any) -> None:
    assert 100 <= estimate_tokens({"messages": [called]}) < 120
