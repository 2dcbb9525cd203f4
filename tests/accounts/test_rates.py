"""Money is exact to the nano-dollar, and an answer costs what its provider's page says."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.accounts.money import dollars, nano
from one_api.accounts.rates import ModalityRates, Rates, by_modality
from one_api.contract import Modalities, ModalityUsage, PricedUnit, Units, Usage

COUNTS = st.integers(0, 1_000_000_000)


def rates(price_in: float, price_out: float, cached: float, written: float) -> Rates:
    """Rates from prices in dollars per million tokens."""
    return Rates(nano(price_in), nano(price_out), nano(cached), nano(written))


@pytest.mark.parametrize(
    ("written", "amount", "shown"),
    [("0.25", 250_000_000, "0.25"), (0.1, 100_000_000, "0.1"), (3, 3_000_000_000, "3"), (1e-10, 1, "0.000000001")],
)
def test_dollars_become_whole_nano_dollars_and_back(written: float | str, amount: int, shown: str) -> None:
    assert nano(written) == amount
    assert dollars(amount) == shown


def test_a_debt_is_shown_with_its_sign() -> None:
    assert dollars(-1_500_000_000) == "-1.5"


def test_cached_and_written_tokens_have_prices_of_their_own() -> None:
    # 3 new, 12,304 written, 550 out at 3, 3.75 and 15 dollars: not billed twice.
    usage = Usage(12_307, 550, cached_tokens=0, cache_write_tokens=12_304)

    assert dollars(rates(3, 15, 0.3, 3.75).cost(usage) or 0) == "0.054399"


def test_tokens_that_are_written_for_an_hour_have_a_price_of_their_own() -> None:
    claude = Rates(nano(3), nano(15), nano("0.3"), nano("3.75"), cache_write_1h=nano(6))
    without = Rates(nano(3), nano(15), nano("0.3"), nano("3.75"))
    usage = Usage(3 + 12_304, 550, 0, 12_304, cache_write_1h_tokens=2_304)

    assert claude.cost(usage) == (3 * 3000 + 10_000 * 3750 + 2_304 * 6000 + 550 * 15_000)
    assert without.cost(usage) == (3 * 3000 + 12_304 * 3750 + 550 * 15_000)
    # Counts that contradict each other are clamped.
    assert claude.cost(Usage(10, 0, 8, 5, cache_write_1h_tokens=99)) == 8 * 300 + 2 * 6000
    assert claude.most(10, 0) == 10 * 6000


def test_a_few_cheap_tokens_cost_something() -> None:
    assert rates(0.02, 0, 0, 0).cost(Usage(3, 0)) == 60


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once() -> None:
    assert rates(0.0000001, 0.0000001, 0, 0).cost(Usage(1, 1)) == 1


def test_cached_tokens_beyond_the_prompt_are_clamped() -> None:
    assert rates(1, 1, 0.1, 2).cost(Usage(10, 0, cached_tokens=900, cache_write_tokens=900)) == 1_000


def test_a_large_request_has_the_rates_of_its_size_as_a_whole() -> None:
    tiered = Rates(nano(3), nano(15), nano(3), nano(3), above=((200_000, rates(6, 22.5, 6, 6)),))

    assert tiered.cost(Usage(200_000, 0)) == 600_000_000
    assert tiered.cost(Usage(200_001, 0)) == 1_200_006_000


def test_completion_tokens_of_a_model_without_a_price_for_them_have_no_cost() -> None:
    embeddings = Rates(20_000_000, None, 20_000_000, 20_000_000)

    assert embeddings.cost(Usage(1_000_000, 0)) == 20_000_000
    assert embeddings.cost(Usage(1_000_000, 1)) is None


SPOKEN = Rates(None, None, 0, 0, units=(("characters", nano(15)), ("seconds", nano(100))))


@pytest.mark.parametrize(
    ("units", "cost"),
    [
        (Units(1, "characters"), 15_000),
        (Units(12.345, "seconds"), 1_234_500),
        (Units(0.00001, "seconds"), 1),  # a fraction is rounded up
        (Units(2, "images"), None),  # no price for these
        (None, None),
    ],
)
@pytest.mark.parametrize("usage", [None, Usage(5, 7)])
def test_a_model_may_be_paid_for_by_other_units_alone(usage: Usage | None, units: Units | None, cost: int) -> None:
    assert SPOKEN.cost(usage, units) == SPOKEN.most(5, 7, units) == cost


def test_what_takes_nothing_costs_nothing() -> None:
    assert SPOKEN.cost(Usage(0, 0)) == 0


def test_units_come_on_top_of_tokens() -> None:
    both = Rates(nano(1), nano(1), 0, 0, units=(("images", nano(40_000)),))

    assert both.cost(Usage(1, 1), Units(2, "images")) == 80_002_000
    assert both.cost(Usage(1, 1), Units(2, "seconds")) == both.cost(Usage(1, 1)) == 2_000
    assert both.cost(None, Units(2, "images")) is None  # its tokens are not known


PER_REQUEST: tuple[tuple[PricedUnit, int], ...] = (("requests", nano(5000)),)


@pytest.mark.parametrize(
    ("rates", "usage", "units", "cost"),
    [
        (Rates(nano(1), nano(2), 0, 0, units=PER_REQUEST), Usage(10, 20), None, 5_050_000),
        (Rates(nano(1), nano(2), 0, 0, units=PER_REQUEST), Usage(10, 20), Units(3, "images"), 5_050_000),
        (Rates(nano(1), nano(2), 0, 0, units=PER_REQUEST), None, None, None),  # its tokens are not known
        (Rates(None, None, 0, 0, units=PER_REQUEST), Usage(10, 20), None, 5_000_000),
        (Rates(None, None, 0, 0, units=PER_REQUEST), None, None, None),  # nothing is known of it
        (Rates(None, None, 0, 0, units=PER_REQUEST), Usage(0, 0), None, 0),
        (
            Rates(None, None, 0, 0, units=(*PER_REQUEST, ("images", nano(1)))),
            None,
            Units(3, "images"),
            5_000_000 + 3000,
        ),
    ],
)
def test_a_request_may_have_a_price_of_its_own(
    rates: Rates, usage: Usage | None, units: Units | None, cost: int | None
) -> None:
    assert rates.cost(usage, units) == cost
    if cost:
        assert rates.most(10, 20, units) == cost


@pytest.mark.parametrize(("documents", "searches"), [(1, 1), (100, 1), (101, 2)])
def test_documents_are_searches_where_only_these_have_a_price(documents: int, searches: int) -> None:
    rates = Rates(None, None, 0, 0, units=(("search_units", nano(2000)),))

    assert rates.cost(None, Units(documents, "documents")) == searches * 2_000_000


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_costs_agree_with_fractions(prompt: int, completion: int, cached: int, written: int) -> None:
    cached_part = min(cached, prompt)
    written_part = min(written, prompt - cached_part)
    new = prompt - cached_part - written_part
    exact = Fraction(new * 250 + completion * 2000 + cached_part * 25 + written_part * 312_500_000_000, 1) / 1_000_000

    cost = Rates(250, 2000, 25, 312_500_000_000).cost(Usage(prompt, completion, cached, written))

    assert cost is not None
    assert 0 <= cost - exact < 1


#: In nano-dollars for a token: text 5, cached 1, written 6, output 7; audio 32, 4, 64; images 8, 2, 30.
MANIFOLD = Rates(
    5_000_000,
    7_000_000,
    1_000_000,
    6_000_000,
    modalities=(
        ("audio", ModalityRates(32_000_000, 64_000_000, 4_000_000)),
        ("image", ModalityRates(8_000_000, 30_000_000, 2_000_000)),
        ("video", ModalityRates(11_000_000, 9_000_000, 3_000_000)),
    ),
)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(100, 10), 570),
        (Usage(100, 50, audio=ModalityUsage(80, 40)), 20 * 5 + 80 * 32 + 10 * 7 + 40 * 64),
        (Usage(100, 0, 60, audio=ModalityUsage(50, 0, 30)), 20 * 5 + 30 * 1 + 20 * 32 + 30 * 4),
        (Usage(100, 0, 0, 10, audio=ModalityUsage(50)), 40 * 5 + 10 * 6 + 50 * 32),
        # Of which modality cached tokens are is not known: text as far as there is so much, then audio.
        (Usage(100, 0, 20, audio=ModalityUsage(80)), 20 * 1 + 80 * 32),
        (Usage(100, 0, 50, audio=ModalityUsage(80)), 20 * 1 + 50 * 32 + 30 * 4),
        (Usage(100, 0, 100, audio=ModalityUsage(60), image=ModalityUsage(40)), 60 * 4 + 40 * 2),
        # Counts that contradict each other.
        (Usage(10, 5, 900, 900, audio=ModalityUsage(900, 900, 900)), 10 * 4 + 5 * 64),
        (Usage(10, 5, audio=ModalityUsage(6, 3), image=ModalityUsage(6, 3)), 6 * 32 + 4 * 8 + 3 * 64 + 2 * 30),
    ],
)
def test_tokens_of_a_modality_have_prices_of_their_own(usage: Usage, cost: int) -> None:
    assert MANIFOLD.cost(usage) == cost


def test_tokens_of_a_modality_without_prices_cost_what_text_does() -> None:
    usage = Usage(100, 50, 20, audio=ModalityUsage(80, 40, 10))

    assert rates(5, 7, 1, 6).cost(usage) == rates(5, 7, 1, 6).cost(Usage(100, 50, 20))
    assert by_modality(usage, None) == {"audio": {"prompt": 80, "cached": 10, "completion": 40, "rates": None}}


def test_a_model_whose_text_has_no_price_may_give_images() -> None:
    drawing = Rates(5_000_000, None, 0, 0, modalities=(("image", ModalityRates(8_000_000, 30_000_000, 0)),))

    assert drawing.cost(Usage(10, 20, image=ModalityUsage(0, 20))) == 10 * 5 + 20 * 30
    assert drawing.cost(Usage(10, 20, image=ModalityUsage(0, 19))) is None
    assert drawing.dearest(Modalities(completion=frozenset({"image"}))).most(10, 20) == 10 * 5 + 20 * 30


PARTS = st.builds(ModalityUsage, COUNTS, COUNTS, COUNTS)


@given(st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, st.just(0), PARTS, PARTS, PARTS))
def test_nothing_costs_more_than_its_reserve_or_less_than_its_cheapest_token(usage: Usage) -> None:
    every = Modalities(frozenset({"audio", "image", "video"}), frozenset({"audio", "image", "video"}))

    cost, most = MANIFOLD.cost(usage), MANIFOLD.dearest(every).most(usage.prompt_tokens, usage.completion_tokens)

    assert cost is not None
    assert most == usage.prompt_tokens * 32 + usage.completion_tokens * 64
    assert usage.prompt_tokens + usage.completion_tokens * 7 <= cost <= most


@given(st.lists(st.sampled_from(["text", "audio", "image", "video"]), max_size=60), st.data())
def test_costs_are_the_sum_of_each_tokens_price(kinds: list[str], data: st.DataObject) -> None:
    prices = {"text": (5, 1, 7), "audio": (32, 4, 64), "image": (8, 2, 30), "video": (11, 3, 9)}
    hits = data.draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    said = data.draw(st.lists(st.sampled_from(sorted(prices)), max_size=20))
    parts = {
        kind: ModalityUsage(
            kinds.count(kind),
            said.count(kind),
            sum(hit for each, hit in zip(kinds, hits, strict=True) if each == kind),
        )
        for kind in ("audio", "image", "video")
    }

    usage = Usage(len(kinds), len(said), sum(hits), audio=parts["audio"], image=parts["image"], video=parts["video"])
    cost = MANIFOLD.cost(usage)

    asked = sum(prices[kind][1 if hit else 0] for kind, hit in zip(kinds, hits, strict=True))
    assert cost == asked + sum(prices[kind][2] for kind in said)
