"""How much a model thinks: every level of ``reasoning_effort`` on every kind of family."""

from typing import Any

import pytest

from tests.dialects.anthropic.samples import FORCELESS, HAIKU, OPUS, refusal, translated

SHOWN = {"type": "adaptive", "display": "summarized"}


def budget(tokens: int) -> Any:
    return {"type": "enabled", "budget_tokens": tokens, "display": "summarized"}


#: Models of one kind -> level -> thinking, effort, whether it is warned about.
KINDS: list[tuple[list[str], dict[str | None, tuple[Any, str | None, bool]]]] = [
    (
        ["claude-fable-5", "claude-mythos-5", "claude-fable-5-1", "claude-fable-5-2", "claude-opus-5-5"],
        {
            None: (SHOWN, None, False), "none": (SHOWN, "low", True), "minimal": (SHOWN, "low", False),
            "low": (SHOWN, "low", False), "medium": (SHOWN, "medium", False), "high": (SHOWN, "high", False),
            "xhigh": (SHOWN, "xhigh", False), "max": (SHOWN, "max", False),
        },
    ),
    (
        ["claude-opus-5", "claude-sonnet-5"],
        {
            None: (SHOWN, None, False), "none": ({"type": "disabled"}, None, False),
            "minimal": (SHOWN, "low", False), "low": (SHOWN, "low", False), "medium": (SHOWN, "medium", False),
            "high": (SHOWN, "high", False), "xhigh": (SHOWN, "xhigh", False), "max": (SHOWN, "max", False),
        },
    ),
    (
        # Nothing is written of whether these think by default: nothing is sent to find out.
        ["claude-haiku-5-5", "claude-sonnet-5-5"],
        {None: (None, None, False), "none": ({"type": "disabled"}, None, False), "high": (SHOWN, "high", False)},
    ),
    (
        ["claude-opus-4-7", "claude-opus-4-8", "claude-unknown"],
        {
            None: (None, None, False), "none": (None, None, False), "minimal": (SHOWN, "low", False),
            "low": (SHOWN, "low", False), "medium": (SHOWN, "medium", False), "high": (SHOWN, "high", False),
            "xhigh": (SHOWN, "xhigh", False), "max": (SHOWN, "max", False),
        },
    ),
    (
        ["claude-opus-4-6", "claude-sonnet-4-6"],
        {
            None: (None, None, False), "none": (None, None, False), "minimal": (SHOWN, "low", False),
            "low": (SHOWN, "low", False), "medium": (SHOWN, "medium", False), "high": (SHOWN, "high", False),
            "xhigh": (SHOWN, "high", True), "max": (SHOWN, "max", False),
        },
    ),
    (
        ["claude-sonnet-4-5", HAIKU, "claude-opus-4-5", "claude-sonnet-4", "claude-3-7-sonnet-latest"],
        {
            None: (None, None, False), "none": (None, None, False), "minimal": (budget(1024), None, False),
            "low": (budget(2048), None, False), "medium": (budget(8192), None, False),
            "high": (budget(16384), None, False), "xhigh": (budget(24576), None, False),
            "max": (budget(32000), None, False),
        },
    ),
    (
        ["claude-3-5-haiku-20241022"],
        {None: (None, None, False), "none": (None, None, False), "low": (None, None, True)},
    ),
]  # fmt: skip
ROWS = [(model, level, *found) for models, levels in KINDS for model in models for level, found in levels.items()]


@pytest.mark.parametrize(("model", "level", "thinking", "effort", "warned"), ROWS)
def test_a_level_becomes_what_the_family_knows(
    model: str, level: str | None, thinking: Any, effort: str | None, warned: bool
) -> None:
    made = translated(model=model, reasoning_effort=level)

    assert made.body.get("thinking") == thinking
    assert made.body.get("output_config", {}).get("effort") == effort
    assert made.warnings == (("reasoning_effort",) if warned else ())
    if warned:
        strict = refusal(model=model, reasoning_effort=level, options={"strict": True})
        assert strict == ("reasoning_effort", "unsupported_value")


@pytest.mark.parametrize(
    ("model", "level", "thinking"),
    [
        (OPUS, None, None),
        (FORCELESS, None, None),
        (FORCELESS, "high", None),
        (FORCELESS, "none", None),
        (OPUS, "high", {"type": "adaptive"}),
        ("claude-opus-4-6", "high", {"type": "adaptive"}),
        (HAIKU, "low", {"type": "enabled", "budget_tokens": 2048}),
    ],
)
def test_who_shows_no_reasoning_asks_for_none_in_words(model: str, level: str | None, thinking: Any) -> None:
    made = translated(model=model, reasoning_effort=level, options={"show_reasoning": False})

    assert made.body.get("thinking") == thinking


@pytest.mark.parametrize(
    ("limit", "level", "tokens"),
    [(1025, "minimal", 1024), (1025, "max", 1024), (2000, "low", 1999), (2049, "low", 2048), (9000, "max", 8999)],
)
def test_a_budget_stays_below_the_limit_of_the_client(limit: int, level: str, tokens: int) -> None:
    made = translated(max_tokens=limit, reasoning_effort=level)

    assert made.body["thinking"]["budget_tokens"] == tokens
    assert (made.body["max_tokens"], made.warnings) == (limit, ())


@pytest.mark.parametrize("limit", [1, 1024])
def test_a_limit_without_room_for_thinking_turns_it_off(limit: int) -> None:
    made = translated(max_tokens=limit, reasoning_effort="high")

    assert "thinking" not in made.body
    assert made.warnings == ("reasoning_effort",)


MODELS = [HAIKU, OPUS, FORCELESS, "claude-opus-4-7", "claude-3-opus"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("level", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_an_effort_in_openrouters_words_is_the_same(model: str, level: str) -> None:
    ours = translated(model=model, max_tokens=8000, reasoning_effort=level)
    openrouters = translated(model=model, max_tokens=8000, reasoning={"effort": level, "summary": "auto"})

    assert openrouters.body == ours.body
    assert openrouters.warnings == tuple(name.replace("reasoning_effort", "reasoning") for name in ours.warnings)


@pytest.mark.parametrize(
    ("asked", "level"),
    [({"enabled": True}, "medium"), ({"enabled": False}, "none"), ({"max_tokens": 0}, "none"), ({}, None),
     ({"max_tokens": 3000}, "medium"), ({"max_tokens": 10**6}, "max"), ({"effort": None, "enabled": None}, None)],
)  # fmt: skip
def test_what_openrouter_has_beside_an_effort_becomes_one(asked: Any, level: str | None) -> None:
    assert translated(model=OPUS, reasoning=asked).body == translated(model=OPUS, reasoning_effort=level).body


@pytest.mark.parametrize(("tokens", "budget_tokens"), [(3000, 3000), (5, 1024), (10**6, 7999)])
def test_a_budget_is_one_where_the_model_has_budgets(tokens: int, budget_tokens: int) -> None:
    made = translated(model=HAIKU, max_tokens=8000, reasoning={"max_tokens": tokens})

    assert made.body["thinking"] == budget(budget_tokens)
    assert made.warnings == ()


def test_reasoning_that_is_excluded_is_not_shown() -> None:
    made = translated(model="claude-opus-4-7", reasoning={"effort": "high", "exclude": True})

    assert made.body["thinking"] == {"type": "adaptive"}


def test_of_two_ways_to_ask_for_thinking_one_is_named() -> None:
    made = translated(model=OPUS, reasoning={"effort": "low"}, reasoning_effort="high")
    native = translated(model=OPUS, reasoning={"effort": "low"}, thinking={"type": "disabled"})

    assert (made.body["output_config"], made.warnings) == ({"effort": "high"}, ("reasoning",))
    assert (native.body["thinking"], native.warnings) == ({"type": "disabled"}, ("reasoning",))


@pytest.mark.parametrize(
    ("asked", "refused"),
    [({"effort": "extreme"}, ("reasoning.effort", "invalid_value")), ("high", ("reasoning", "invalid_type")),
     ({"max_tokens": "9"}, ("reasoning.max_tokens", "invalid_type"))],
)  # fmt: skip
def test_an_unknown_effort_in_openrouters_words_is_refused(asked: Any, refused: tuple[str, str]) -> None:
    assert refusal(reasoning=asked) == refused


@pytest.mark.parametrize("level", ["", "extreme", 5, ["low"]])
def test_an_unknown_level_is_refused(level: Any) -> None:
    assert refusal(reasoning_effort=level) == ("reasoning_effort", "invalid_value")


def test_thinking_in_the_upstreams_own_words_passes_and_wins() -> None:
    own = {"type": "enabled", "budget_tokens": 5000}

    assert translated(thinking=own).body["thinking"] == own
    both = translated(thinking=own, reasoning_effort="high", model="claude-opus-4-6")
    assert (both.body["thinking"], both.warnings) == (own, ("reasoning_effort",))
    assert "output_config" not in both.body
    assert refusal(thinking="on") == ("thinking", "invalid_type")


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}, None])
def test_an_effort_in_the_upstreams_own_words_passes(thinking: Any) -> None:
    sent = translated(model=OPUS, thinking=thinking, output_config={"effort": "max"})

    assert sent.body["output_config"] == {"effort": "max"}
    assert sent.body.get("thinking", SHOWN) == (thinking or SHOWN)
    assert sent.warnings == ()


def test_an_effort_that_the_model_does_not_know_is_the_next_below() -> None:
    sent = translated(model="claude-opus-4-5", output_config={"effort": "max"})
    none = translated(model=HAIKU, output_config={"effort": "low"})

    assert (sent.body["output_config"], sent.warnings) == ({"effort": "high"}, ("output_config",))
    assert ("output_config" in none.body, none.warnings) == (False, ("output_config",))


def test_of_two_efforts_openais_word_wins() -> None:
    sent = translated(model=OPUS, reasoning_effort="low", output_config={"effort": "max"})

    assert (sent.body["output_config"], sent.warnings) == ({"effort": "low"}, ("output_config",))


def test_a_format_in_the_upstreams_own_words_is_not_taken() -> None:
    sent = translated(model=OPUS, output_config={"format": {"type": "json_schema", "schema": {}}})

    assert ("output_config" in sent.body, sent.warnings) == (False, ("output_config",))


@pytest.mark.parametrize("effort", ["ultra", "none", "", 3, ["low"]])
def test_an_unknown_effort_is_refused(effort: Any) -> None:
    assert refusal(model=OPUS, output_config={"effort": effort}) == ("output_config.effort", "invalid_value")


def test_thinking_in_the_upstreams_own_words_counts_for_sampling() -> None:
    assert translated(thinking={"type": "enabled"}, temperature=0.5).warnings == ("temperature",)
    assert translated(thinking={"type": "disabled"}, temperature=0.5).warnings == ()
