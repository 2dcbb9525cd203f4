"""Money is exact to the nano-dollar, and an answer costs what its provider's page says."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_api.accounts.money import dollars, nano
from one_api.accounts.rates import Rates
from one_api.contract import Units, Usage

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
