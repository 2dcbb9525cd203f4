"""What can be set of ``/v1/responses``."""

import pytest

from one_api.config import ConfigError, load


def test_responses_in_memory_take_a_single_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    path.write_text("responses: {state: memory}\n")
    variables = {"ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "k", "ONE_API_CONFIG": str(path)}

    assert load(variables).config.responses.state == "memory"
    with pytest.raises(ConfigError) as caught:
        load(variables | {"WEB_CONCURRENCY": "2"})

    (problem,) = caught.value.problems
    assert problem.where.endswith("responses.state")


def test_responses_in_the_database_take_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    path.write_text("responses: {state: database}\n")
    variables = {"ONE_API_ENV_FILE": "/dev/null", "API_KEYS": "k", "ONE_API_CONFIG": str(path)}

    assert load(variables | {"DATABASE_URL": "sqlite"}).config.responses.state == "database"
    with pytest.raises(ConfigError) as caught:
        load(variables | {"DATABASE_URL": "none"})

    (problem,) = caught.value.problems
    assert problem.where.endswith("responses.state")
