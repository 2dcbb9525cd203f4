"""What each deployment costs: by the configuration, else by the catalogue; else there is no price."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache, lru_cache, reduce
from pathlib import Path
from typing import Any, cast, get_args

from one_api.accounts.money import nano
from one_api.accounts.rates import FREE, PER, ModalityRates, Rates
from one_api.contract import JSONObject, Modality, PricedUnit
from one_api.dialects import json
from one_api.settings.adapters import AdapterConfig, ClaudeConfig, LocalConfig, OpenAIConfig
from one_api.settings.prices import ModalityPriceConfig, PriceConfig, PricesConfig, TokenPricesConfig

#: The catalogue that comes with the gateway, made by ``make prices``.
SHIPPED = Path(__file__).parent / "catalogue.json"
#: What ``flask prices import`` puts into the instance folder; it counts where it is newer.
IMPORTED = "catalogue.json"
_FIELDS = ("input", "cached_input", "cache_write", "cache_write_1h", "output")
_MODALITIES: tuple[Modality, ...] = get_args(Modality)
_MODALITY_FIELDS = ("input", "cached_input", "output")
_UNITS = frozenset(get_args(PricedUnit))
_MAX_KEPT = 4096


class InvalidCatalogue(ValueError):
    """The file is no catalogue; the message says why."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a deployment costs, and where that is from."""

    rates: Rates
    #: configuration, local, or the catalogue with its provider and model.
    source: str
    context_window: int | None = None


class Catalogue:
    """Providers and their models, as ``make prices`` writes them."""

    def __init__(self, content: JSONObject) -> None:
        self.date: str = content["date"]
        self._providers: dict[str, JSONObject] = content["providers"]

    @classmethod
    @cache
    def shipped(cls) -> "Catalogue":
        """Return the one that comes with the gateway, read once in a process; our tests check its prices."""
        return cls(json.decode_object(SHIPPED.read_bytes()))

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """Read a file and check every price in it; raises InvalidCatalogue, or OSError."""
        try:
            found = cls(json.decode_object(path.read_bytes()))
            for provider in found._providers.values():
                re.compile(provider["address"])
                for model in provider["models"]:
                    _fits("", model["match"])
                    _rates(model)
        except (json.InvalidJSON, re.error, KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise InvalidCatalogue(f"{path} is no catalogue of prices: {type(error).__name__} {error}") from None
        return found

    def provider_at(self, address: str) -> str | None:
        """Return whose address it is."""
        found = (name for name, each in self._providers.items() if re.match(each["address"], address))
        return next(found, None)

    def price(self, provider: str, model: str) -> Price | None:
        """Return what a provider takes for a model; None when either is not known."""
        for each in self._providers.get(provider, {}).get("models", ()):
            if _fits(model, each["match"]):
                source = f"catalogue of {self.date}: {provider}/{each['id']}"
                return Price(_rates(each), source, each.get("context_window"))
        return None


def _fits(model: str, clause: JSONObject) -> bool:
    """Return whether a model's name fits a clause; raises KeyError for a clause of another kind."""
    ((kind, wanted),) = clause.items()
    name = model.lower()
    match kind:
        case "equals":
            return bool(name == wanted.lower())
        case "starts_with":
            return name.startswith(wanted.lower())
        case "ends_with":
            return name.endswith(wanted.lower())
        case "contains":
            return wanted.lower() in name
        case "regex":
            return re.search(wanted, name) is not None
        case "or":
            return any(_fits(model, each) for each in wanted)
        case "and":
            return all(_fits(model, each) for each in wanted)
    raise KeyError(kind)


def _rates(prices: Mapping[str, Any], below: Mapping[str, Any] | None = None) -> Rates:
    """Return the rates of prices in dollars; ``below`` are those of smaller requests. Raises KeyError without any."""
    whole = _filled(prices, below or {}, _FIELDS)
    amounts = _amounts(whole)
    own_of = {
        name: _filled(prices.get(name) or {}, (below or {}).get(name) or {}, _MODALITY_FIELDS) for name in _MODALITIES
    }
    units = tuple((_unit(name), nano(Decimal(str(each)) * PER)) for name, each in (prices.get("units") or {}).items())
    own = amounts["input"]
    if own is None and not units:
        raise KeyError("input")
    cached, written = amounts["cached_input"], amounts["cache_write"]
    rates = Rates(
        own,
        amounts["output"],
        (own or 0) if cached is None else cached,
        (own or 0) if written is None else written,
        tuple((int(each["tokens"]), _rates(each, whole | own_of)) for each in prices.get("above", ())),
        units,
        cache_write_1h=amounts["cache_write_1h"],
    )
    return replace(
        rates,
        modalities=tuple(
            (name, _modality(own, rates))
            for name, own in own_of.items()
            if any(each is not None for each in own.values())
        ),
    )


def _modality(prices: JSONObject, rates: Rates) -> ModalityRates:
    """Return the rates of one modality: for what has none of its own, those of its input, else those of text."""
    amounts = _amounts(prices)
    own, cached, output = amounts["input"], amounts["cached_input"], amounts["output"]
    if cached is None:
        cached = rates.cached if own is None else own
    return ModalityRates((rates.input or 0) if own is None else own, rates.output if output is None else output, cached)


def _filled(prices: Mapping[str, Any], below: Mapping[str, Any], names: Iterable[str]) -> JSONObject:
    return {name: below.get(name) if prices.get(name) is None else prices[name] for name in names}


def _amounts(prices: JSONObject) -> dict[str, int | None]:
    return {name: None if value is None else nano(value) for name, value in prices.items()}


def _unit(name: str) -> PricedUnit:
    if name not in _UNITS:
        raise KeyError(name)
    return cast(PricedUnit, name)


def open_catalogue(folder: Path) -> Catalogue:
    """Return the newer one of the catalogue that comes with the gateway and the one in ``folder``, if it is there.

    Raises:
        InvalidCatalogue: when the one in ``folder`` cannot be read.
    """
    shipped = Catalogue.shipped()
    try:
        imported = Catalogue.read(folder / IMPORTED)
    except (FileNotFoundError, NotADirectoryError):
        return shipped
    except OSError as error:
        raise InvalidCatalogue(f"{folder / IMPORTED} cannot be read: {error.strerror}") from None
    return imported if imported.date > shipped.date else shipped


class Prices:
    """The prices of one configuration."""

    def __init__(self, settings: PricesConfig, adapters: Mapping[str, AdapterConfig], catalogue: Catalogue) -> None:
        self._settings = settings
        self._adapters = adapters
        self._catalogue = catalogue
        #: Deployments may be named by clients, so not all are kept.
        self.price = lru_cache(maxsize=_MAX_KEPT)(self._price)

    @property
    def lets_unknown_pass(self) -> bool:
        """Return whether a model without a price may be used where a budget binds."""
        return self._settings.unknown == "free"

    def rates(self, deployment: str) -> Rates | None:
        """Return what ``adapter/model`` costs; None where it is not known."""
        price = self.price(deployment)
        return None if price is None else price.rates

    def listing(self, deployments: Iterable[str]) -> JSONObject:
        """Return what a model list says of a model that these serve.

        ``pricing``, see ``Rates.per_token``: what no deployment exceeds, where the prices of all are known; and
        ``context_window``, which all of them have, likewise.
        """
        found = [self.price(each) for each in deployments]
        known = [price for price in found if price is not None]
        if not known or len(known) != len(found):
            return {}
        listing: JSONObject = {"pricing": reduce(Rates.at_most, (price.rates for price in known)).per_token()}
        windows = [price.context_window for price in known if price.context_window is not None]
        return listing | {"context_window": min(windows)} if len(windows) == len(found) else listing

    def _price(self, deployment: str) -> Price | None:
        adapter, _, model = deployment.partition("/")
        for pattern, configured in self._settings.models.items():
            if fnmatchcase(deployment, pattern) or pattern == model:
                return self._configured(configured, pattern)
        settings = self._adapters.get(adapter)
        if isinstance(settings, LocalConfig):
            return Price(FREE, "local: it costs nothing")
        provider = self._settings.catalogue.get(adapter)
        if provider is None and isinstance(settings, (OpenAIConfig, ClaudeConfig)):
            provider = self._catalogue.provider_at(settings.base_url)
        return self._catalogue.price(provider, model) if provider else None

    def _configured(self, price: PriceConfig, pattern: str) -> Price | None:
        source = f"configuration: prices.models.{pattern}"
        if price.same_as is None:
            return Price(_configured_rates(price), source)
        provider, _, model = price.same_as.partition("/")
        found = self._catalogue.price(provider, model)
        if found is None:
            return None
        return Price(_times(found.rates, price.times), f"{source}, {found.source}", found.context_window)


def _configured_rates(price: PriceConfig) -> Rates:
    above = [{"tokens": each.tokens} | _fields(each) for each in price.above]
    return _rates(_fields(price) | {"above": above, "units": price.units})


def _fields(price: TokenPricesConfig) -> JSONObject:
    modalities: dict[Modality, ModalityPriceConfig] = {name: getattr(price, name) for name in _MODALITIES}
    return {name: getattr(price, name) for name in _FIELDS} | {
        name: {field: getattr(own, field) for field in _MODALITY_FIELDS} for name, own in modalities.items()
    }


def _times(rates: Rates, times: float) -> Rates:
    """Return rates at a part of them, each rounded up."""
    millionths = round(times * 1_000_000)

    def scaled(rate: int) -> int:
        return -(-rate * millionths // 1_000_000)

    return Rates(
        None if rates.input is None else scaled(rates.input),
        None if rates.output is None else scaled(rates.output),
        scaled(rates.cached),
        scaled(rates.cache_write),
        tuple((size, _times(dearer, times)) for size, dearer in rates.above),
        tuple((unit, scaled(price)) for unit, price in rates.units),
        tuple(
            (
                name,
                ModalityRates(
                    scaled(own.input), None if own.output is None else scaled(own.output), scaled(own.cached)
                ),
            )
            for name, own in rates.modalities
        ),
        None if rates.cache_write_1h is None else scaled(rates.cache_write_1h),
    )
