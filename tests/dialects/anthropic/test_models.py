"""The table of model families is found by any form of an id, and gives way to what the upstream lists."""

from typing import Any

import pytest

from one_api.dialects.anthropic.models import EFFORTS, FAMILIES, ModelTraits, corrected, entry_of, traits_of
from one_api.dialects.json import JSONObject

#: Family -> context, most output, sampling, prefill, thinking, thinks, efforts, forced tool, mid system.
TABLE: dict[str, tuple[Any, ...]] = {
    "claude-sonnet-4-5": (200_000, 64_000, "xor", True, "enabled disabled", "off", "", True, False),
    "claude-haiku-4-5": (200_000, 64_000, "xor", True, "enabled disabled", "off", "", True, False),
    "claude-opus-4-5": (200_000, 64_000, "xor", True, "enabled disabled", "off", "low medium high", True, False),
    "claude-opus-4-6": (
        1_000_000, 128_000, "xor", False, "adaptive enabled disabled", "off", "low medium high max", True, False,
    ),
    "claude-sonnet-4-6": (
        1_000_000, 128_000, "xor", False, "adaptive enabled disabled", "off", "low medium high max", True, False,
    ),
    "claude-opus-4-7": (1_000_000, 128_000, "none", False, "adaptive disabled", "off", "all", True, False),
    "claude-opus-4-8": (1_000_000, 128_000, "none", False, "adaptive disabled", "off", "all", True, True),
    "claude-sonnet-5": (1_000_000, 128_000, "none", False, "adaptive disabled", "on", "all", True, False),
    "claude-opus-5": (1_000_000, 128_000, "none", False, "adaptive disabled", "on", "all", True, True),
    "claude-haiku-5-5": (1_000_000, 128_000, "none", False, "adaptive disabled", "unstated", "all", True, True),
    "claude-sonnet-5-5": (1_000_000, 128_000, "none", False, "adaptive disabled", "unstated", "all", False, True),
    "claude-opus-5-5": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", False, True),
    "claude-fable-5": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", True, True),
    "claude-mythos-5": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", True, True),
    "claude-fable-5-1": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", False, True),
    "claude-mythos-5-1": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", False, True),
    "claude-fable-5-2": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", False, True),
    "claude-mythos-5-2": (1_000_000, 128_000, "none", False, "adaptive", "on", "all", False, True),
}  # fmt: skip


@pytest.mark.parametrize("family", TABLE)
def test_a_family_is_as_its_documents_say(family: str) -> None:
    context, most, sampling, prefill, thinking, thinks, efforts, forced, mid = TABLE[family]

    found = traits_of(family)

    assert (found.context_window, found.max_output_tokens, found.sampling) == (context, most, sampling)
    assert (found.prefill, found.thinks, found.forced_tool, found.mid_system) == (prefill, thinks, forced, mid)
    assert found.thinking == tuple(thinking.split())
    assert found.effort == (EFFORTS if efforts == "all" else tuple(efforts.split()))
    assert found.structured_outputs and found.image_input and found.pdf_input


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic/claude-opus-5-5", "claude-opus-5-5"),
        ("claude-opus-5", "claude-opus-5"),
        ("claude-opus-5-5-20261001", "claude-opus-5-5"),
        ("claude-fable-5-1", "claude-fable-5-1"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-3-7-sonnet-latest", "claude-3-7"),
        ("claude-3-5-haiku-20241022", "claude-3-5"),
        ("claude-3-haiku-20240307", "claude-3"),
    ],
)
def test_an_id_belongs_to_its_longest_family(model: str, family: str) -> None:
    assert traits_of(model) == FAMILIES[family]


@pytest.mark.parametrize("model", ["claude-sonnet-4-9", "claude-opus-6", "claude-opus-55", "claude-mythos-preview"])
def test_an_unknown_claude_takes_little_and_writes_as_much_as_all_do(model: str) -> None:
    assert traits_of(model) == ModelTraits(
        None, 64_000, "none", False, ("adaptive", "disabled"), "off", EFFORTS, True, False, True, True, True
    )


def test_what_is_no_claude_has_no_known_limit() -> None:
    assert traits_of("llama-3").max_output_tokens is None


@pytest.mark.parametrize(
    ("model", "always"), [("claude-opus-5-5", True), ("claude-opus-5", False), ("claude-haiku-4-5", False)]
)
def test_some_models_always_think(model: str, always: bool) -> None:
    assert traits_of(model).always_thinks is always


def supported(*names: str, of: tuple[str, ...] = EFFORTS) -> JSONObject:
    return {"supported": bool(names), **{name: {"supported": name in names} for name in of}}


def test_the_upstream_corrects_the_table() -> None:
    entry: JSONObject = {
        "id": "claude-x",
        "max_input_tokens": 500_000,
        "max_tokens": 32_000,
        "capabilities": {
            "effort": supported("low", "high"),
            "thinking": {
                "supported": True,
                "types": {"adaptive": {"supported": False}, "enabled": {"supported": True}},
            },
            "structured_outputs": {"supported": False},
            "image_input": {"supported": False},
            "pdf_input": {"supported": False},
        },
    }

    found = corrected(ModelTraits(), entry)

    assert found == ModelTraits(
        500_000, 32_000, effort=("low", "high"), thinking=("enabled", "disabled"), structured_outputs=False,
        image_input=False, pdf_input=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"max_input_tokens": None, "max_tokens": 0, "capabilities": None},
        {"max_tokens": True, "capabilities": {"effort": None, "thinking": {"supported": True}, "image_input": {}}},
        {"max_tokens": "128", "capabilities": {"image_input": {"supported": "no"}, "pdf_input": []}},
    ],
)
def test_what_the_upstream_leaves_out_stays(entry: JSONObject) -> None:
    traits = traits_of("claude-opus-4-6")

    assert corrected(traits, entry) == traits


@pytest.mark.parametrize(
    ("capabilities", "thinking", "effort"),
    [
        ({"thinking": {"supported": False}, "effort": {"supported": False}}, (), ()),
        ({"thinking": {"types": {"disabled": {"supported": False}}}}, ("adaptive",), EFFORTS),
        ({"effort": {"supported": False, "low": {"supported": True}}}, ("adaptive", "disabled"), ()),
    ],
)
def test_each_capability_is_read_on_its_own(
    capabilities: JSONObject, thinking: tuple[str, ...], effort: tuple[str, ...]
) -> None:
    found = corrected(ModelTraits(), {"capabilities": capabilities})

    assert (found.thinking, found.effort) == (thinking, effort)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-haiku-4-5-20251001", 1), ("claude-haiku-4-5", 2), ("claude-haiku-4", None), ("claude-haiku", None),
        ("claude-haiku-4-5-2025", None), ("claude-opus-5", 4), ("claude-sonnet-5", None),
    ],
)  # fmt: skip
def test_a_short_name_has_the_entry_of_its_newest_date(model: str, expected: int | None) -> None:
    names = ["claude-haiku-4-5-20251001", "claude-haiku-4-5-20260101", "claude-haiku-4-5-20260101-x", "claude-opus-5"]
    entries: dict[str, JSONObject] = {name: {"max_tokens": n} for n, name in enumerate(names, 1)}

    assert entry_of(model, entries).get("max_tokens") == expected
