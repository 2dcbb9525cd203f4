"""Estimates of the tokens of a request."""

from one_api.dialects.anthropic.inbound.count import estimate_tokens

TURN = {"role": "user", "content": "Hi"}


def test_the_smallest_request_has_some_tokens() -> None:
    assert 1 <= estimate_tokens({"messages": [TURN]}) < 20


def test_tools_and_system_count() -> None:
    bare = estimate_tokens({"messages": [TURN]})

    assert estimate_tokens({"messages": [TURN], "system": "x" * 400}) >= bare + 100
    assert estimate_tokens({"messages": [TURN], "tools": [{"name": "a", "description": "x" * 400}]}) >= bare + 100


def test_an_image_counts_as_one_whatever_its_bytes() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}

    assert estimate_tokens({"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}) < 1000
