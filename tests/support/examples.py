"""How many examples a property test draws."""

from hypothesis import settings


def examples(most: int) -> int:
    """Return the number of examples: ``most`` in ``make check-long``, else at most Hypothesis's own default of 100."""
    return min(most, settings().max_examples)
