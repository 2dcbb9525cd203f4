"""Where a price comes from, and that an unknown one is none."""

import datetime
import json
import math
from pathlib import Path

import genai_prices
import pytest
from genai_prices.data import providers

from bench.prices import model_entry
from one_api.accounts.money import NANO
from one_api.accounts.prices import IMPORTED, SHIPPED, Catalogue, InvalidCatalogue, Prices, open_catalogue
from one_api.contract import ModalityUsage, Usage
from one_api.settings.adapters import AdapterConfig, ClaudeConfig, LocalConfig, OpenAIConfig
from one_api.settings.prices import HigherPriceConfig, ModalityPriceConfig, PriceConfig, PricesConfig

ADAPTERS: dict[str, AdapterConfig] = {
    "openai": OpenAIConfig(base_url="https://api.openai.com/v1"),
    "claude": ClaudeConfig(),
    "kimi": OpenAIConfig(base_url="https://api.moonshot.cn/v1"),
    "own": OpenAIConfig(base_url="http://127.0.0.1:9/v1"),
    "local": LocalConfig(),
}
CATALOGUE = {
    "date": "2026-01-01",
    "source": "a test",
    "providers": {
        "openai": {
            "address": "https://api\\.openai\\.com",
            "models": [
                {"id": "gpt", "match": {"equals": "gpt"}, "input": "1", "cached_input": "0.1", "output": "4"},
                {"id": "embed", "match": {"starts_with": "embed-"}, "input": "0.02"},
                {
                    "id": "large",
                    "match": {"and": [{"contains": "large"}, {"or": [{"ends_with": "x"}, {"regex": "^y"}]}]},
                    "input": "3",
                    "output": "15",
                    "above": [{"tokens": 200000, "input": "6"}],
                    "context_window": 1000000,
                },
            ],
        }
    },
}


def prices(**settings: object) -> Prices:
    """The prices of a configuration, over a small catalogue."""
    return Prices(PricesConfig(**settings), ADAPTERS, Catalogue(CATALOGUE))  # type: ignore[arg-type]


def test_the_configuration_comes_first() -> None:
    found = prices(models={"openai/gpt": PriceConfig(input=0.25, output=2, cached_input=0.025)}).rates("openai/gpt")

    assert found is not None
    assert found.as_dict() == {"input": "0.25", "cached_input": "0.025", "cache_write": "0.25", "output": "2"}


@pytest.mark.parametrize("pattern", ["own/*", "*/qwen-max", "qwen-max"])
def test_a_price_may_be_for_many_deployments(pattern: str) -> None:
    found = prices(models={pattern: PriceConfig(input=0.4, output=1.2)}).price("own/qwen-max")

    assert found is not None
    assert found.source == f"configuration: prices.models.{pattern}"


def test_larger_requests_may_have_other_prices() -> None:
    configured = PriceConfig(input=0.4, output=1.2, above=(HigherPriceConfig(tokens=100, input=0.8),))
    found = prices(models={"own/*": configured}).rates("own/qwen")

    assert found is not None
    assert found.as_dict()["above"] == [
        {"tokens": 100, "input": "0.8", "cached_input": "0.8", "cache_write": "0.8", "output": "1.2"}
    ]


def test_a_model_may_cost_a_part_of_what_another_does() -> None:
    found = prices(models={"own/mine": PriceConfig(same_as="openai/gpt", times=0.9)}).rates("own/mine")

    assert found is not None
    assert (found.as_dict()["input"], found.as_dict()["output"]) == ("0.9", "3.6")


def test_other_units_have_prices_for_one_of_them() -> None:
    models = {
        "own/tts": PriceConfig(units={"characters": 0.000015}),
        "own/half": PriceConfig(same_as="openai/w", times=0.5),
    }
    whisper = {"id": "w", "match": {"equals": "w"}, "units": {"seconds": "0.0001"}}
    known = {"date": "2026-01-01", "providers": {"openai": {"address": "x", "models": [whisper]}}}
    found = Prices(PricesConfig(models=models), ADAPTERS, Catalogue(known))
    spoken, heard = found.rates("own/tts"), found.rates("own/half")

    assert spoken is not None
    assert heard is not None
    assert spoken.as_dict() == {"units": {"characters": "0.000015"}}
    assert heard.as_dict() == {"units": {"seconds": "0.00005"}}
    assert found.listing(["own/tts", "own/half"])["pricing"] == {
        "prompt": "0",
        "completion": "0",
        "input_cache_read": "0",
        "input_cache_write": "0",
        "characters": "0.000015",
        "seconds": "0.00005",
    }


def test_tokens_of_audio_and_images_have_prices_of_their_own() -> None:
    models = {
        "own/a": PriceConfig(
            input=1,
            cached_input=0.1,
            output=4,
            audio=ModalityPriceConfig(input=32, output=64),
            image=ModalityPriceConfig(output=30),
            above=(HigherPriceConfig(tokens=100, input=2, audio=ModalityPriceConfig(output=70)),),
        ),
        "own/half": PriceConfig(same_as="openai/v", times=0.5),
    }
    voice = {"id": "v", "match": {"equals": "v"}, "input": "2", "output": "4", "audio": {"cached_input": "1"}}
    known = {"date": "2026-01-01", "providers": {"openai": {"address": "x", "models": [voice]}}}
    found = Prices(PricesConfig(models=models), ADAPTERS, Catalogue(known))
    own, half = found.rates("own/a"), found.rates("own/half")

    assert own is not None
    assert half is not None
    shown = own.as_dict()
    # What is left out costs what it does for text, and cached tokens of audio what others of audio do.
    assert shown["audio"] == {"input": "32", "cached_input": "32", "output": "64"}
    assert shown["image"] == {"input": "1", "cached_input": "0.1", "output": "30"}
    assert shown["above"][0]["audio"] == {"input": "32", "cached_input": "32", "output": "70"}
    assert shown["above"][0]["image"] == {"input": "2", "cached_input": "0.1", "output": "30"}
    assert half.as_dict()["audio"] == {"input": "1", "cached_input": "0.5", "output": "2"}
    listed = found.listing(["own/a", "own/half"])["pricing"]
    assert (listed["audio"], listed["audio_output"], listed["image_output"]) == ("0.000032", "0.000064", "0.00003")


@pytest.mark.parametrize(
    ("provider", "model", "modality", "output"),
    [
        ("openai", "gpt-image-1.5", "image", "32"),
        ("openai", "gpt-audio", "audio", "64"),
        ("google", "gemini-omni-1.1-flash", "video", "17.5"),
    ],
)
def test_the_catalogue_knows_tokens_of_audio_images_and_video(
    provider: str, model: str, modality: str, output: str
) -> None:
    found = Catalogue.shipped().price(provider, model)

    assert found is not None
    assert found.rates.as_dict()[modality]["output"] == output


def test_a_part_of_an_unknown_price_is_unknown() -> None:
    assert prices(models={"own/mine": PriceConfig(same_as="openai/none")}).rates("own/mine") is None


def test_a_list_tells_what_no_deployment_exceeds() -> None:
    models = {"own/a": PriceConfig(input=1, output=2, cached_input=0.5), "own/b": PriceConfig(input=0.25, output=3)}
    found = prices(models=models)

    assert found.listing(["own/a", "own/b"]) == {
        "pricing": {
            "prompt": "0.000001",
            "completion": "0.000003",
            "input_cache_read": "0.0000005",
            "input_cache_write": "0.000001",
        }
    }
    assert found.listing(["own/a", "own/unknown"]) == {}
    assert found.listing([]) == {}


def test_models_on_this_machine_cost_nothing() -> None:
    found = prices().rates("local/qwen2.5-0.5b")

    assert found is not None
    assert found.input == found.output == 0


def test_the_address_shows_the_provider() -> None:
    assert prices().price("openai/gpt") is not None
    assert prices().price("own/gpt") is None
    assert prices(catalogue={"own": "openai"}).price("own/gpt") is not None


@pytest.mark.parametrize("model", ["gpt-5-typo", "xgpt", "large", "", "nothing"])
def test_a_model_that_nobody_knows_has_no_price(model: str) -> None:
    assert prices().rates(f"openai/{model}") is None


@pytest.mark.parametrize("model", ["GPT", "embed-3", "a-large-x", "y-large"])
def test_names_are_matched_as_the_catalogue_says(model: str) -> None:
    assert prices().rates(f"openai/{model}") is not None


def test_every_price_of_the_shipped_catalogue_can_be_read() -> None:
    assert Catalogue.read(SHIPPED).date == Catalogue.shipped().date


def test_the_shipped_catalogue_knows_the_common_models() -> None:
    shipped = Prices(PricesConfig(), ADAPTERS, Catalogue.shipped())

    for deployment in ("openai/whisper-1", "openai/tts-1"):
        assert (rates := shipped.rates(deployment)) is not None
        assert rates.units
    for deployment in ("openai/gpt-5-mini", "claude/claude-sonnet-4-5", "kimi/kimi-k2-0905-preview"):
        found = shipped.price(deployment)
        assert found is not None, deployment
        assert found.rates.input
        assert found.rates.output


#: What an answer takes: in our words, and in those of the package that the catalogue is made of.
TAKEN = {
    "a small one": (Usage(1000, 500), {"input_tokens": 1000, "output_tokens": 500}),
    "one that was cached and written": (
        Usage(1000, 500, 300, 200),
        {"input_tokens": 1000, "output_tokens": 500, "cache_read_tokens": 300, "cache_write_tokens": 200},
    ),
    "a large one": (
        Usage(300_000, 500, 1000),
        {"input_tokens": 300_000, "output_tokens": 500, "cache_read_tokens": 1000},
    ),
    "one that was written for an hour": (
        Usage(1000, 500, 300, 200, cache_write_1h_tokens=150),
        {
            "input_tokens": 1000,
            "output_tokens": 500,
            "cache_read_tokens": 300,
            "cache_write_tokens": 200,
            "cache_write_1h_tokens": 150,
        },
    ),
    "one with sound": (
        Usage(1000, 500, 0, 0, 0, ModalityUsage(400, 100)),
        {"input_tokens": 1000, "output_tokens": 500, "input_audio_tokens": 400, "output_audio_tokens": 100},
    ),
}
ASKED = (
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "groq",
    "mistral",
    "moonshotai",
    "openai",
    "perplexity",
    "x-ai",
    "zai",
)


@pytest.mark.parametrize("name", TAKEN)
def test_costs_are_what_the_source_of_the_catalogue_computes_at_the_dearest_hour(name: str) -> None:
    usage, taken = TAKEN[name]
    now = datetime.datetime(2026, 11, 30, 0, 30, tzinfo=datetime.UTC)
    compared = 0
    for provider in (each for each in providers if each.id in ASKED):
        for model in provider.models:
            entry = model_entry(model, now.date())
            if entry is None or "output" not in entry:
                continue
            models = [entry | {"match": {"equals": model.id}}]
            price = Catalogue({"date": "", "providers": {"p": {"models": models}}}).price("p", model.id)
            hours = [now + datetime.timedelta(hours=hour) for hour in range(24)]
            found = [
                model.calc_price(genai_prices.Usage(**taken), provider, genai_request_timestamp=hour).total_price
                for hour in (hours if isinstance(model.prices, list) else hours[:1])
            ]
            compared += 1
            assert price is not None
            assert price.rates.cost(usage) == math.ceil(max(found) * NANO), (provider.id, model.id)
    assert compared > 300


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"date": "2030-01-01", "providers": {"x": {"address": "(", "models": []}}}',
        '{"date": "2030-01-01", "providers": {"x": {"address": "", "models": [{"match": {"equals": "a"}}]}}}',
        '{"date": "2030-01-01", "providers": {"x": {"address": "", "models": [{"match": {"is": "a"}, "input": "1"}]}}}',
        '{"date": "2030-01-01", "providers": {"x": {"address": "", "models": [{"match": {"or": 1}, "input": "1"}]}}}',
        '{"date": "1", "providers": {"x": {"address": "", "models": [{"match": {"equals": "a"}, "units": {"x": 1}}]}}}',
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)

    with pytest.raises(InvalidCatalogue):
        Catalogue.read(tmp_path / "file")


def test_a_catalogue_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / IMPORTED).mkdir()

    with pytest.raises(InvalidCatalogue, match="cannot be read: Is a directory"):
        open_catalogue(tmp_path)


@pytest.mark.parametrize(("date", "wins"), [("2000-01-01", False), ("2999-01-01", True)])
def test_an_imported_catalogue_counts_where_it_is_newer(date: str, wins: bool, tmp_path: Path) -> None:
    (tmp_path / IMPORTED).write_text(json.dumps(CATALOGUE | {"date": date}))

    assert (open_catalogue(tmp_path).date == date) is wins
