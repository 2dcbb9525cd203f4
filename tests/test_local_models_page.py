"""The page on local models: every configuration on it is one that can be used as it stands."""

import re
from pathlib import Path

import pytest

from one_api.config import Config
from one_api.settings.adapters import LocalConfig, OpenAIConfig
from one_api.settings.sections import targets

PAGE = (Path(__file__).parent.parent / "docs/local-models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def load(block: str, tmp_path: Path) -> Config:
    """Load a block as a configuration file, with a value for every variable in it."""
    path = tmp_path / "one_api.yaml"
    path.write_text(block, encoding="utf-8")
    variables = {name: f"sk-{name.lower()}" for name in re.findall(r"\$\{(\w+)\}", block)}
    return Config.load({"ONE_API_CONFIG": str(path), "ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "k", **variables})


def test_the_page_shows_every_step() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert {"A bigger model", "llama-server", "Ollama", "vLLM", "SGLang", "Several behind one name"} <= set(headings)
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_configuration_of_the_page_can_be_loaded(block: str, tmp_path: Path) -> None:
    config = load(block, tmp_path)

    assert config.adapters
    assert all(isinstance(adapter, (LocalConfig, OpenAIConfig)) for adapter in config.adapters.values())


def test_the_group_of_the_page_ends_on_this_machine(tmp_path: Path) -> None:
    config = load(BLOCKS[-1], tmp_path)

    assert targets(config.model_groups["qwen"].fallbacks)[-1].model == "local/SmolLM2-135M-Instruct.Q4_1"


def test_sampling_and_aliases_are_read(tmp_path: Path) -> None:
    local = load(BLOCKS[0], tmp_path).adapters["local"]

    assert isinstance(local, LocalConfig)
    (model,) = local.aliases.values()
    assert local.sampling[model].given() == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0}
