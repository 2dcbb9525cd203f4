"""Money is a whole number of nano-dollars: one token costs tens of them, and 64 bits hold nine billion dollars."""

from decimal import ROUND_CEILING, Decimal

from one_api.records import NANO as NANO


def nano(dollars: float | str | Decimal) -> int:
    """Return dollars in nano-dollars, rounded up: a price is never cheaper than it was written."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_CEILING))


def dollars(amount: int) -> str:
    """Return nano-dollars in dollars, as decimal text without trailing zeros."""
    whole, rest = divmod(abs(amount), NANO)
    text = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if amount < 0 else text
