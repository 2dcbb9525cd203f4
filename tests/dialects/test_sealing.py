"""Reasoning, sealed for the client to keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects.sealing import PREFIX, Sealer

CONTENT = {"model": "m", "text": "a secret thought"}


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_what_was_sealed_can_be_opened(content: dict[str, object]) -> None:
    sealer = Sealer(b"mine")

    assert sealer.open(sealer.seal(content)) == content


def test_the_same_content_gives_the_same_text() -> None:
    assert Sealer(b"mine").seal(CONTENT) == Sealer(b"mine").seal(CONTENT)


def test_nobody_else_can_open_it() -> None:
    assert Sealer(b"theirs").open(Sealer(b"mine").seal(CONTENT)) is None


def test_it_shows_nothing_of_its_content() -> None:
    a, b = (Sealer(b"mine").seal({"text": text}) for text in ("a thought", "b thought"))

    assert "thought" not in a
    assert sum(x == y for x, y in zip(a, b, strict=True)) < len(a) / 2


@pytest.mark.parametrize("at", [0, 4, 20, 60, -1])
def test_a_changed_text_is_refused(at: int) -> None:
    sealed = Sealer(b"mine").seal(CONTENT)
    changed = list(sealed)
    changed[at] = "A" if changed[at] != "A" else "B"

    assert Sealer(b"mine").open("".join(changed)) is None


@pytest.mark.parametrize("text", ["", PREFIX, PREFIX + "?", PREFIX + "AAAA", "gAAAAB-of-another-kind", "gw1.ü"])
def test_foreign_texts_are_none_of_ours(text: str) -> None:
    assert Sealer(b"mine").open(text) is None
