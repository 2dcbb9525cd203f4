"""What tokens cost: rates, and the exact arithmetic on them. Pure; no number here is a float."""

from dataclasses import dataclass
from decimal import Decimal

from one_api.accounts.money import NANO, dollars
from one_api.contract import JSONObject, Usage

#: Rates are for so many tokens.
PER = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in nano-dollars per million tokens. ``above`` are those of larger requests, smallest first.

    A request with more prompt tokens than such a size costs its rates as a whole. ``output`` is None for a model that
    is known to be paid for its prompt alone, such as one for embeddings.
    """

    input: int
    output: int | None
    cached: int
    cache_write: int
    above: tuple[tuple[int, "Rates"], ...] = ()

    def cost(self, usage: Usage) -> int | None:
        """Return what an answer costs in nano-dollars, rounded up once; None when a price is missing.

        Counts that contradict each other are clamped: cached and written tokens are part of the prompt.
        """
        rates = self._for_size(usage.prompt_tokens)
        if rates.output is None and usage.completion_tokens:
            return None
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
        total = (
            (usage.prompt_tokens - cached - written) * rates.input
            + cached * rates.cached
            + written * rates.cache_write
            + usage.completion_tokens * (rates.output or 0)
        )
        return -(-total // PER)

    def most(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """Return what so many tokens cost at most: at full price, or all of them put into a cache; as ``cost``."""
        rates = self._for_size(prompt_tokens)
        if rates.output is None and completion_tokens:
            return None
        total = prompt_tokens * max(rates.input, rates.cache_write) + completion_tokens * (rates.output or 0)
        return -(-total // PER)

    def _for_size(self, prompt_tokens: int) -> "Rates":
        rates = self
        for size, dearer in self.above:
            if prompt_tokens > size:
                rates = dearer
        return rates

    def as_dict(self) -> JSONObject:
        """Return what people are shown: dollars per million tokens, as decimal text."""
        shown: JSONObject = {
            "input": dollars(self.input),
            "cached_input": dollars(self.cached),
            "cache_write": dollars(self.cache_write),
            "output": None if self.output is None else dollars(self.output),
        }
        if self.above:
            shown["above"] = [{"tokens": size, **dearer.as_dict()} for size, dearer in self.above]
        return shown

    def per_token(self) -> JSONObject:
        """Return what model lists show, under OpenRouter's names: dollars per token, as decimal text."""
        return {
            "prompt": _dollars_per_token(self.input),
            "completion": _dollars_per_token(self.output or 0),
            "input_cache_read": _dollars_per_token(self.cached),
            "input_cache_write": _dollars_per_token(self.cache_write),
        }

    def at_most(self, other: "Rates") -> "Rates":
        """Return what neither of two ever exceeds, for requests of ordinary size."""
        return Rates(
            max(self.input, other.input),
            max(self.output or 0, other.output or 0),
            max(self.cached, other.cached),
            max(self.cache_write, other.cache_write),
        )


def _dollars_per_token(rate: int) -> str:
    return format((Decimal(rate) / PER / NANO).normalize(), "f")


#: What costs nothing: models on this machine.
FREE = Rates(0, 0, 0, 0)
