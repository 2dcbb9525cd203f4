"""Durations as OpenAI writes them, and as servers write them."""

import pytest

from one_api.dialects import durations


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0004, "0ms"), (0.12, "120ms"), (0.999, "999ms"), (1, "1s"), (1.4, "1s"), (59.4, "59s"),
        (60, "1m0s"), (59.6, "1m0s"), (61, "1m1s"), (360, "6m0s"), (3600, "60m0s"),
    ],
)  # fmt: skip
def test_a_duration_as_openai_writes_it(seconds: float, text: str) -> None:
    assert durations.write(seconds) == text


def test_no_duration_below_a_second_is_a_thousand_milliseconds() -> None:
    assert durations.write(0.9999) == "1s"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7), ("1.5s", 1.5), ("120ms", 0.12), ("6m0s", 360), ("1h2m3.5s", 3723.5), (" 20S ", 20),
        ("0s", None), ("", None), ("soon", None), ("5 s", None), ("-1s", None),
    ],
)  # fmt: skip
def test_a_duration_as_servers_write_it(text: str, seconds: float | None) -> None:
    assert durations.read(text) == seconds
