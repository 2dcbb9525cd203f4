"""What Anthropic says at the end of an answer, and that the page on it is true."""

import re
from pathlib import Path

import pytest

from one_api.dialects.anthropic.response import answer_id, finish_reason, known_stop, service_tier, sum_usage, usage_of

PAGE = (Path(__file__).parents[3] / "docs/claude.md").read_text(encoding="utf-8")
DOCUMENTED = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \| ", PAGE.partition("## Answers\n\n| ")[2], re.MULTILINE))


def test_every_stop_reason_is_documented() -> None:
    assert len(DOCUMENTED) == 7
    for stop, reason in DOCUMENTED.items():
        assert known_stop(stop)
        assert finish_reason(stop, None) == reason


@pytest.mark.parametrize("called", ["tool_calls", "function_call"])
def test_calls_change_only_a_natural_end(called: str) -> None:
    told = {stop: finish_reason(stop, called) for stop in DOCUMENTED}

    assert told == DOCUMENTED | {"end_turn": called, "tool_use": called}


@pytest.mark.parametrize("stop", [None, "", "something_new"])
def test_a_stop_reason_that_is_new_to_us(stop: str | None) -> None:
    assert not known_stop(stop or "")
    assert (finish_reason(stop, None), finish_reason(stop, "tool_calls")) == ("stop", "stop")


@pytest.mark.parametrize(
    ("tier", "expected"), [("standard", "default"), ("priority", "priority"), ("batch", None), (None, None), ([], None)]
)
def test_the_tier(tier: object, expected: str | None) -> None:
    assert service_tier(tier) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("msg_01X", "chatcmpl-01X"), ("chatcmpl-9", "chatcmpl-9"), ("", "ours"), (None, "ours"), (7, "ours")],
)
def test_the_id(given: object, expected: str) -> None:
    assert answer_id(given, "ours") == expected


@pytest.mark.parametrize("absurd", [None, -5, "-7", "", True, 1.5, {}])
def test_counts_that_are_none_count_nothing(absurd: object) -> None:
    usage = usage_of({"input_tokens": absurd, "output_tokens": 3, "output_tokens_details": absurd})

    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (0, 3, 3)


@pytest.mark.parametrize("count", ["7", 7.0])
def test_counts_may_be_written_in_another_way(count: object) -> None:
    assert usage_of({"input_tokens": count, "output_tokens": count}) == usage_of(
        {"input_tokens": 7, "output_tokens": 7}
    )


def test_a_sum_of_usages() -> None:
    one, other = usage_of({"input_tokens": 1, "output_tokens": 2}), usage_of({"cache_read_input_tokens": 4})

    assert sum_usage(one, other | {"estimated": True}) == usage_of(
        {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 4}
    ) | {"estimated": True}
