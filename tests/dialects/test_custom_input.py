"""The input of custom tools, while their arguments come."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.dialects.custom_input import CustomInput


def read(arguments: str, cuts: tuple[int, ...] = ()) -> tuple[list[str], str]:
    """The pieces of the input that became known one by one, and the whole."""
    reader, inner = CustomInput(), sorted(cut for cut in cuts if cut < len(arguments))
    pieces = [reader.feed(arguments[a:b]) for a, b in zip([0, *inner], [*inner, len(arguments)], strict=True)]
    pieces.append(reader.end())
    assert "".join(pieces) == reader.text
    return pieces, reader.text


@given(st.text(), st.booleans(), st.lists(st.integers(0, 200), max_size=12))
def test_any_text_cut_anywhere_is_read_whole(text: str, escaped: bool, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=escaped)

    assert read(arguments, tuple(set(cuts) - {0}))[1] == text


def test_a_text_is_passed_on_while_it_comes() -> None:
    arguments = r'{"input": "one\ntwo \ud83d\ude00!"}'

    for cut in range(1, len(arguments)):
        pieces, text = read(arguments, (cut,))
        assert text == "one\ntwo 😀!"
        for piece in pieces:
            piece.encode()  # no half of a character
    assert read(arguments, (16,))[0][0] == "one\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("*** Begin Patch\n*** End Patch", "*** Begin Patch\n*** End Patch"),
        ('{"patch": "a\\nb"}', "a\nb"),
        ('{"content": "a", "n": 1}', "a"),
        ('{"a": "1", "b": "2"}', '{"a": "1", "b": "2"}'),
        ('{"x": 1, "input": "late"}', "late"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"input": "never clo', "never clo"),
        ('{"input": "cut \\u26', "cut "),
        ('{"input": "a raw\nline"}', "a raw\nline"),
        ('{"input": "say "hello" now"}', 'say "hello" now'),
        ('{"input": "odd \\q"}', "odd \\q"),
        ('{"input": "lone \\ud83d"}', "lone \ufffd"),
        ('{"input": "a", "input2": "b"}', "a"),
        ("", ""),
        ("{}", ""),
        (" { } ", ""),
        ('{"input": null}', ""),
        ('{"input": {}}', '{"input": {}}'),
    ],
)
def test_arguments_as_models_write_them(arguments: str, text: str) -> None:
    for cut in range(len(arguments)):
        assert read(arguments, (cut,) if cut else ())[1] == text
