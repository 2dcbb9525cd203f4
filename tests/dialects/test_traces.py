"""Which headers name a trace: version 00 strictly, later ones by their first fields."""

import pytest

from one_api.dialects.traces import Parent, parse, parse_state

T, S = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [(f"00-{T}-{S}-01", True), (f"00-{T}-{S}-00", False), (f"00-{T}-{S}-ff", True), (f"00-{T}-{S}-02", False),
     (f"cc-{T}-{S}-01-what-comes-later", True), (f"01-{T}-{S}-01", True)],
)  # fmt: skip
def test_a_header_that_is_right_is_read(header: str, sampled: bool) -> None:
    assert parse(header) == Parent(T, S, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "", f"00-{T.upper()}-{S}-01", f"00-{'0' * 32}-{S}-01", f"00-{T}-{'0' * 16}-01", f"00-{T}-{S}-0",
        f"00-{T}-{S}-01-", f"00-{T}-{S}-011", f"ff-{T}-{S}-01", f"cc-{T}-{S}-01later", f"00-{T}-{S}-01,00-{T}-{S}-01",
        f" 00-{T}-{S}-01", f"00-{T}-{S}-01\n", f"00-{T}-{S}", f"00_{T}_{S}_01", f"cc-{T}-{S}-01-" + "x" * 8192,
        f"0x-{T}-{S}-01", f"00-{T}-{S}-0x",
    ],
)  # fmt: skip
def test_a_header_that_is_wrong_names_no_trace(header: str) -> None:
    assert parse(header) is None


def test_a_state_is_sent_on_if_it_can_be() -> None:
    assert parse_state("a=1,b=2") == "a=1,b=2"
    assert [parse_state(text) for text in ("", "a\n", "\u00e9", "x" * 513)] == [None] * 4
