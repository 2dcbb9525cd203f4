"""What can be set of the prices of models."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_api.contract import PricedUnit
from one_api.settings.kinds import Count, Price


class ModalityPriceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens of audio, images or video cost, in US dollars per million; what is left out costs what text does."""

    input: Price | None = None
    #: Left out: as ``input``.
    cached_input: Price | None = None
    output: Price | None = None


class TokenPricesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens cost, in US dollars per million."""

    input: Price | None = None
    #: Prompt tokens that the upstream had in its cache; left out: as ``input``.
    cached_input: Price | None = None
    #: Prompt tokens that it put there; left out: as ``input``.
    cache_write: Price | None = None
    #: Those of them that stay there for an hour; left out: as ``cache_write``.
    cache_write_1h: Price | None = None
    output: Price | None = None
    #: Tokens of audio, of images and of video in prompts and answers; left out: as those of text.
    audio: ModalityPriceConfig = ModalityPriceConfig()
    image: ModalityPriceConfig = ModalityPriceConfig()
    video: ModalityPriceConfig = ModalityPriceConfig()


class HigherPriceConfig(TokenPricesConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of larger requests, as a whole; what is left out is as for smaller ones."""

    #: From more prompt tokens than this on.
    tokens: Count


class PriceConfig(TokenPricesConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in US dollars per million tokens, and for one of each other unit."""

    above: tuple[HigherPriceConfig, ...] = ()
    #: What one image, second, character, search, document or request costs, on top of tokens; without ``input`` and
    #: ``output`` these cost nothing.
    units: dict[PricedUnit, Price] = {}
    #: Instead of prices: a model of the catalogue, as provider/model.
    same_as: str | None = None
    #: What part of that price is paid, 0.9 for a discount of a tenth.
    times: Annotated[float, Meta(ge=0, le=1000)] = 1.0


class PricesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What models cost, where the catalogue that comes with the gateway does not know it or is wrong."""

    #: By adapter/model, also with ``*``, or by the upstream's name of the model; the first that fits counts.
    models: dict[str, PriceConfig] = {}
    #: By adapter: its provider in the catalogue, where its address does not show that.
    catalogue: dict[str, str] = {}
    #: What becomes of requests for a model without a price where a budget binds: refuse answers 503 ``unpriced``; free
    #: lets them through, and charges nothing. Danger: free is a way around every budget.
    unknown: Literal["refuse", "free"] = "refuse"
