"""`make prices`: the catalogue of prices that comes with the gateway, made from the package genai-prices (MIT).

Of prices that change with the hour the highest counts, of dated ones those of today.
"""

import datetime
import json
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Tier, TieredPrices, TimeOfDateConstraint

from bench.console import progress

Entry: TypeAlias = dict[str, Any]

TARGET = Path(__file__).parent.parent / "one_api/accounts/catalogue.json"
_FIELDS = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
}
#: Those of tokens of audio, images and video, by our names.
_MODALITY_FIELDS = {
    modality: {
        "input": f"input_{modality}_mtok",
        "cached_input": f"cache_{modality}_read_mtok",
        "output": f"output_{modality}_mtok",
    }
    for modality in ("audio", "image", "video")
}
#: What else is paid for, by our names: the package's name, and how many of the unit its price is for.
_UNITS = {
    "seconds": (("input_audio_hours", "audio_hours"), 3600),
    "characters": (("input_mchars",), 1_000_000),
    "requests": (("requests_kcount",), 1000),
}
_LEAST = Decimal("1e-15")
_CLAUSES = {"equals": "equals", "starts_with": "starts_with", "ends_with": "ends_with", "contains": "contains"}


def catalogue(today: datetime.date) -> Entry:
    """All providers with the models whose prices are known."""
    shown = {}
    for provider in providers:
        models = [entry for model in provider.models if (entry := model_entry(model, today)) is not None]
        if models:
            shown[provider.id] = {"address": provider.api_pattern, "models": models}
    source = f"genai-prices {metadata.version('genai-prices')}, MIT licence, Copyright Pydantic Services Inc."
    return {"source": source, "date": today.isoformat(), "providers": shown}


def model_entry(model: ModelInfo, today: datetime.date) -> Entry | None:
    """A model with its prices in US dollars per million tokens, and for one of other units; None without any."""
    price = current(model.prices, today)
    amounts = {name: getattr(price, field, None) for name, field in _FIELDS.items()}
    modalities = {
        modality: {name: getattr(price, field, None) for name, field in fields.items()}
        for modality, fields in _MODALITY_FIELDS.items()
    }
    units = unit_prices(price)
    if amounts["input"] is None and not units:
        return None
    entry: Entry = {"id": model.id, "match": clause(model.match)}
    if amounts["input"] is not None:
        entry |= base_prices(amounts)
        entry |= {name: found for name, each in modalities.items() if (found := base_prices(each))}
    if units:
        entry["units"] = units
    if above := higher_prices(amounts):
        entry["above"] = above
    if model.context_window is not None:
        entry["context_window"] = model.context_window
    return entry


def current(prices: ModelPrice | list[ConditionalPrice], today: datetime.date) -> ModelPrice:
    """What holds today, at the dearest hour."""
    if isinstance(prices, ModelPrice):
        return prices
    held: list[ModelPrice] = []
    for each in prices:  # a later one counts before those above it
        if isinstance(each.constraint, TimeOfDateConstraint):
            held.append(each.prices)
        elif each.constraint is None or each.constraint.start_date <= today:
            held = [each.prices]
    return max(held, key=lambda price: amount(price.input_mtok))


def amount(value: Decimal | TieredPrices | None) -> Decimal:
    """The price of a small request."""
    return value.base if isinstance(value, TieredPrices) else value or Decimal(0)


def base_prices(amounts: dict[str, Any]) -> Entry:
    """The prices of a small request, as text."""
    return {name: text(amount(value)) for name, value in amounts.items() if value is not None}


def unit_prices(price: ModelPrice) -> Entry:
    """The prices of one second, character or request, as text; rounded up to the digits that are counted with."""
    found = {}
    for unit, (names, size) in _UNITS.items():
        known = (getattr(price, name, None) for name in names)
        if (value := next((each for each in known if each is not None), None)) is not None:
            found[unit] = text((amount(value) / size).quantize(_LEAST, ROUND_CEILING))
    return found


def higher_prices(amounts: dict[str, Any]) -> list[Entry]:
    """The prices of larger requests, by their size."""
    tiers = {name: value.tiers for name, value in amounts.items() if isinstance(value, TieredPrices)}
    sizes = sorted({tier.start for each in tiers.values() for tier in each})
    return [{"tokens": size, **prices_above(size, tiers)} for size in sizes]


def prices_above(size: int, tiers: dict[str, list[Tier]]) -> dict[str, str]:
    """The prices of requests that are larger than one of the sizes."""
    reached = {name: [tier.price for tier in each if tier.start <= size] for name, each in tiers.items()}
    return {name: text(prices[-1]) for name, prices in reached.items() if prices}


def text(value: Decimal) -> str:
    """Decimal text without an exponent."""
    return f"{value.normalize():f}"


def clause(match: Any) -> Entry:
    """Which names a model goes by."""
    kind = type(match).__name__.removeprefix("Clause").lower()
    if kind in ("or", "and"):
        return {kind: [clause(each) for each in getattr(match, f"{kind}_")]}
    (name,) = (name for name in (*_CLAUSES, "regex") if hasattr(match, name))
    return {name: getattr(match, name)}


if __name__ == "__main__":
    found = catalogue(datetime.datetime.now(datetime.UTC).date())
    lines = ",\n".join(
        f'{json.dumps(name)}: {{"address": {json.dumps(each["address"])}, "models": [\n'
        + ",\n".join(json.dumps(model, separators=(",", ":")) for model in each["models"])
        + "\n]}"
        for name, each in found["providers"].items()
    )
    head = json.dumps({"source": found["source"], "date": found["date"]})[:-1]
    TARGET.write_text(f'{head}, "providers": {{\n{lines}\n}}}}\n', encoding="utf-8")
    progress(f"{TARGET}: {sum(len(each['models']) for each in found['providers'].values())} models")
