"""What tokens and other units cost: rates, and the exact arithmetic on them. Pure; no price here is a float."""

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

from one_api.accounts.money import NANO, dollars
from one_api.contract import JSONObject, Modalities, Modality, ModalityUsage, PricedUnit, Units, Usage

#: Rates are for so many tokens, or so many of another unit.
PER = 1_000_000
_NO_TOKENS = ModalityUsage()
#: Where searches have a price and an answer counts documents only: a search is over so many of them at most.
_DOCUMENTS_PER_SEARCH = 100
#: What OpenRouter calls a token of a prompt, of a completion, and one that was cached, if it has a name for that.
_MODALITY_NAMES: dict[Modality, tuple[str, ...]] = {
    "audio": ("audio", "audio_output", "input_audio_cache"),
    "image": ("image_token", "image_output"),
    "video": ("video", "video_output"),
}
_UNIT_NAMES: dict[PricedUnit, str] = {"requests": "request"}


@dataclass(frozen=True, slots=True)
class ModalityRates:
    """Prices of the tokens of one modality, in nano-dollars per million; ``output`` as that of ``Rates``."""

    input: int
    output: int | None
    cached: int

    def as_dict(self) -> JSONObject:
        """Return what people are shown, as decimal text: dollars per million tokens."""
        output = None if self.output is None else dollars(self.output)
        return {"input": dollars(self.input), "cached_input": dollars(self.cached), "output": output}

    def at_most(self, other: "ModalityRates") -> "ModalityRates":
        """See ``Rates``."""
        output = max(self.output or 0, other.output or 0)
        return ModalityRates(max(self.input, other.input), output, max(self.cached, other.cached))


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in nano-dollars per million tokens. ``above`` are those of larger requests, smallest first.

    A request with more prompt tokens than such a size costs its rates as a whole. ``output`` is None for a model that
    is known to be paid for its prompt alone, such as one for embeddings; ``input`` for one that is paid for by other
    units alone. ``units`` have prices per million of them, which come on top of those of tokens. Tokens of a modality
    that is not in ``modalities`` cost what those of text do.
    """

    input: int | None
    output: int | None
    cached: int
    cache_write: int
    above: tuple[tuple[int, "Rates"], ...] = ()
    units: tuple[tuple[PricedUnit, int], ...] = ()
    modalities: tuple[tuple[Modality, ModalityRates], ...] = ()
    #: Of tokens that are put into a cache for an hour; None is as for others.
    cache_write_1h: int | None = None

    def cost(self, usage: Usage | None, units: Units | None = None) -> int | None:
        """Return what an answer costs in nano-dollars, rounded up once; None when a price or a count is missing.

        Counts that contradict each other are clamped: cached and written tokens are part of the prompt. Where it is not
        known of which modality these are, they are text as far as there is so much of it.
        """
        if units is None and (usage is None or not (usage.prompt_tokens or usage.completion_tokens)):
            return None if usage is None else 0
        return self._rounded(self._of_tokens(usage), units)

    def _of_tokens(self, usage: Usage | None) -> int | None:
        """Return the millionfold of what an answer's tokens cost."""
        if self.input is None:
            return 0
        if usage is None:
            return None
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        rates, total = self._for_size(prompt), 0
        cached = min(usage.cached_tokens, prompt) if usage.cached_tokens else 0
        for modality, own in rates.modalities:
            part: ModalityUsage = getattr(usage, modality)
            asked, answered = min(part.prompt_tokens, prompt), min(part.completion_tokens, completion)
            hits = max(min(part.cached_tokens, asked, cached), cached - (prompt - asked))
            if own.output is None and answered:
                return None
            total += (asked - hits) * own.input + hits * own.cached + answered * (own.output or 0)
            prompt, completion, cached = prompt - asked, completion - answered, cached - hits
        if rates.output is None and completion:
            return None
        written = min(usage.cache_write_tokens, prompt - cached) if usage.cache_write_tokens else 0
        if usage.cache_write_1h_tokens and rates.cache_write_1h is not None:
            total += min(usage.cache_write_1h_tokens, written) * (rates.cache_write_1h - rates.cache_write)
        return (
            total
            + (prompt - cached - written) * (rates.input or 0)
            + cached * rates.cached
            + written * rates.cache_write
            + completion * (rates.output or 0)
        )

    def most(self, prompt_tokens: int, completion_tokens: int, units: Units | None = None) -> int | None:
        """Return what so much costs at most: tokens at full price, or all of them put into a cache; as ``cost``."""
        if self.input is None:
            return self._rounded(0, units)
        rates = self._for_size(prompt_tokens)
        if rates.output is None and completion_tokens:
            return None
        dearest = max(rates.input or 0, rates.cache_write, rates.cache_write_1h or 0)
        return self._rounded(prompt_tokens * dearest + completion_tokens * (rates.output or 0), units)

    def dearest(self, modalities: Modalities) -> "Rates":
        """Return these rates with that of the dearest kind of tokens that there may be, for each of text."""
        if self.input is None or not (self.modalities or self.above):
            return self
        inputs = [own.input for modality, own in self.modalities if modality in modalities.prompt]
        of_modalities = [own.output for modality, own in self.modalities if modality in modalities.completion]
        outputs = [each for each in (self.output, *of_modalities) if each is not None]
        return replace(
            self,
            input=max([self.input, *inputs]),
            output=max(outputs, default=None),
            above=tuple((size, dearer.dearest(modalities)) for size, dearer in self.above),
        )

    def _rounded(self, tokens: int | None, units: Units | None) -> int | None:
        """Return the millionth part of what tokens cost, with the units."""
        of_units = self._of_units(units) if self.units else None
        if tokens is None or (of_units is None and self.input is None):
            return None
        return -(-(tokens + (of_units or 0)) // PER)

    def _of_units(self, units: Units | None) -> int | None:
        """Return the millionfold of what units and the request cost, rounded up; None where these have no price."""
        prices = dict(self.units)
        of_request = prices.get("requests")
        if units is None:
            return of_request
        amount = Decimal(str(units.amount))
        if (price := prices.get(units.unit)) is not None:
            return int((amount * price).to_integral_value(ROUND_CEILING)) + (of_request or 0)
        if units.unit == "documents" and (price := prices.get("search_units")) is not None:
            return -(-int(amount) // _DOCUMENTS_PER_SEARCH) * price + (of_request or 0)
        return of_request

    def _for_size(self, prompt_tokens: int) -> "Rates":
        rates = self
        for size, dearer in self.above:
            if prompt_tokens > size:
                rates = dearer
        return rates

    def as_dict(self) -> JSONObject:
        """Return what people are shown, as decimal text: dollars per million tokens, and for one of each other unit."""
        shown: JSONObject = {}
        if self.input is not None:
            shown = {
                "input": dollars(self.input),
                "cached_input": dollars(self.cached),
                "cache_write": dollars(self.cache_write),
                "output": None if self.output is None else dollars(self.output),
            }
        if self.cache_write_1h is not None:
            shown["cache_write_1h"] = dollars(self.cache_write_1h)
        shown |= {modality: own.as_dict() for modality, own in self.modalities}
        if self.units:
            shown["units"] = {unit: _dollars_each(price) for unit, price in self.units}
        if self.above:
            shown["above"] = [{"tokens": size, **dearer.as_dict()} for size, dearer in self.above]
        return shown

    def per_token(self) -> JSONObject:
        """Return what model lists show, under OpenRouter's names and those of units: dollars for one, as text."""
        tokens = {
            "prompt": _dollars_each(self.input or 0),
            "completion": _dollars_each(self.output or 0),
            "input_cache_read": _dollars_each(self.cached),
            "input_cache_write": _dollars_each(self.cache_write),
        }
        for modality, own in self.modalities:
            names = _MODALITY_NAMES[modality]
            tokens |= zip(names, map(_dollars_each, (own.input, own.output or 0, own.cached)), strict=False)
        return tokens | {_UNIT_NAMES.get(unit, unit): _dollars_each(price) for unit, price in self.units}

    def at_most(self, other: "Rates") -> "Rates":
        """Return what neither of two ever exceeds, for requests of ordinary size."""
        units = dict(self.units)
        for unit, price in other.units:
            units[unit] = max(price, units.get(unit, 0))
        modalities = dict(self.modalities) | dict(other.modalities)
        return Rates(
            max(self.input or 0, other.input or 0),
            max(self.output or 0, other.output or 0),
            max(self.cached, other.cached),
            max(self.cache_write, other.cache_write),
            units=tuple(units.items()),
            modalities=tuple((each, self._of(each).at_most(other._of(each))) for each in modalities),
        )

    def _of(self, modality: Modality) -> ModalityRates:
        own = dict(self.modalities).get(modality)
        return own or ModalityRates(self.input or 0, self.output, self.cached)


def by_modality(usage: Usage, rates: Rates | None) -> JSONObject:
    """Return what of an answer's tokens was not text, and the prices of these; empty where it was all text.

    ``rates`` of a modality is None where it has no prices of its own.
    """
    if usage.audio == usage.image == usage.video == _NO_TOKENS:
        return {}
    prices = {} if rates is None else dict(rates.modalities)
    parts: dict[Modality, ModalityUsage] = {"audio": usage.audio, "image": usage.image, "video": usage.video}
    return {
        name: {
            "prompt": part.prompt_tokens,
            "cached": part.cached_tokens,
            "completion": part.completion_tokens,
            "rates": prices[name].as_dict() if name in prices else None,
        }
        for name, part in parts.items()
        if part != _NO_TOKENS
    }


def _dollars_each(rate: int) -> str:
    return format((Decimal(rate) / PER / NANO).normalize(), "f")


#: What costs nothing: models on this machine.
FREE = Rates(0, 0, 0, 0)
