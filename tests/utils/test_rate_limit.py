"""Durations in OpenAI's notation; the limit itself is tested through the gateway."""

import pytest

from one_api.utils.rate_limit import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0004, "0ms"), (0.12, "120ms"), (0.999, "999ms"), (1, "1s"), (1.4, "1s"), (59.4, "59s"),
        (60, "1m0s"), (59.6, "1m0s"), (61, "1m1s"), (360, "6m0s"), (3600, "60m0s"),
    ],
)  # fmt: skip
def test_a_duration_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_no_duration_below_a_second_is_a_thousand_milliseconds() -> None:
    assert duration(0.9999) == "1s"
