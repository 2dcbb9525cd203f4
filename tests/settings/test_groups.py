"""Groups that name groups: each name stands for its group's deployments, in order."""

from pathlib import Path

import pytest

from one_api.config import Config, ConfigError, load
from one_api.settings.groups import GroupCycle, expanded
from one_api.settings.sections import GroupConfig, targets

ADAPTERS = ("a", "b", "c")


def names(group: GroupConfig) -> tuple[list[str], list[str]]:
    """The deployments of a group, and of its fallbacks."""
    return [each.model for each in targets(group.targets)], [each.model for each in targets(group.fallbacks)]


def read(tmp_path: Path, groups: str) -> Config:
    """A configuration with these groups."""
    path = tmp_path / "one_api.yaml"
    path.write_text(
        f"adapters: {{a: {{type: openai}}, b: {{type: openai}}, c: {{type: claude}}}}\nmodel_groups: {groups}"
    )
    return load({"ONE_API_ENV_FILE": "/dev/null", "ONE_API_CONFIG": str(path)}).config


@pytest.mark.parametrize(
    ("groups", "served", "instead"),
    [
        ("{g: {targets: [a/m], fallbacks: [h]}, h: {targets: [b/m, c/m]}}", ["a/m"], ["b/m", "c/m"]),
        ("{g: {targets: [a/m], fallbacks: [h, a/n]}, h: {targets: [b/m], fallbacks: [c/m]}}",
         ["a/m"], ["b/m", "c/m", "a/n"]),
        ("{g: {targets: [a/m, h]}, h: {targets: [b/m], fallbacks: [c/m]}}", ["a/m", "b/m"], ["c/m"]),
        ("{g: {targets: [a/m], fallbacks: [h]}, h: i, i: {targets: [c/m]}}", ["a/m"], ["c/m"]),
        ("{g: {targets: [a/m], fallbacks: [h]}, h: {targets: [a/m, b/m]}}", ["a/m"], ["b/m"]),
        ("{g: a/m}", ["a/m"], []),
        ("{g: {targets: [a/m], fallbacks: [org/h]}, org/h: {targets: [b/m]}}", ["a/m"], ["b/m"]),
        ("{g: a/m, a/m: {targets: [a/m, b/m]}}", ["a/m"], []),
    ],
)  # fmt: skip
def test_a_name_stands_for_the_deployments_of_its_group(
    tmp_path: Path, groups: str, served: list[str], instead: list[str]
) -> None:
    assert names(read(tmp_path, groups).model_groups["g"]) == (served, instead)


@pytest.mark.parametrize("alias", ["h", "{targets: [h]}", "{targets: [{model: h}]}"])
def test_an_alias_is_its_group_in_all_settings(tmp_path: Path, alias: str) -> None:
    group = "{targets: [a/m], fallbacks: [b/m], strategy: ordered, cache: {enabled: true}}"

    found = read(tmp_path, f"{{g: {alias}, h: {group}}}").model_groups

    assert found["g"] == found["h"]
    assert found["g"].strategy == "ordered"


def test_a_weight_is_shared_among_what_it_stands_for(tmp_path: Path) -> None:
    groups = "{g: {targets: [a/m, {model: h, weight: 6}]}, h: {targets: [b/m, {model: c/m, weight: 2}]}}"

    found = targets(read(tmp_path, groups).model_groups["g"].targets)

    assert [(each.model, each.weight) for each in found] == [("a/m", None), ("b/m", 2), ("c/m", 4)]


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        ("{g: {targets: [a/m], fallbacks: [g]}}", "g -> g"),
        ("{g: {targets: [a/m], fallbacks: [h]}, h: {targets: [b/m], fallbacks: [g]}}", "g -> h -> g"),
        ("{x: {targets: [a/m], fallbacks: [g]}, g: h, h: i, i: {targets: [g]}}", "g -> h -> i -> g"),
    ],
)
def test_a_cycle_is_an_error_at_the_start_that_shows_it(tmp_path: Path, groups: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, groups)

    (problem,) = caught.value.problems
    assert problem.where.endswith("model_groups.g")
    assert path in problem.what


def test_a_group_may_shadow_the_address_of_its_own_deployment() -> None:
    groups = {"a/m": GroupConfig(targets=("a/m", "b/m"))}

    assert expanded(groups, ()) == expanded(groups, ADAPTERS) == groups


def test_what_is_expanded_stays() -> None:
    groups = {"g": GroupConfig(targets=("a/m", "h")), "h": GroupConfig(targets=("b/m",), fallbacks=("c/m",))}

    once = expanded(groups, ADAPTERS)

    assert expanded(once, ADAPTERS) == once


def test_many_paths_to_one_group_are_gone_once() -> None:
    chain = {f"g{i}": GroupConfig(targets=("a/m",), fallbacks=(f"g{i + 1}", f"g{i + 1}")) for i in range(60)}

    found = expanded({**chain, "g60": GroupConfig(targets=("b/m",))}, ADAPTERS)

    assert names(found["g0"]) == (["a/m"], ["b/m"])


def test_without_a_configuration_a_cycle_is_an_error_too() -> None:
    with pytest.raises(GroupCycle):
        expanded({"g": GroupConfig(targets=("h",)), "h": GroupConfig(targets=("g",))}, ADAPTERS)


@pytest.mark.parametrize(("entry", "says"), [("fsat", "Did you mean fast?"), ("gpt-5", "Did you mean up/gpt-5?")])
def test_a_name_that_leads_nowhere_gets_the_likely_cure(tmp_path: Path, entry: str, says: str) -> None:
    path = tmp_path / "one_api.yaml"
    path.write_text(
        f"adapters: {{up: {{type: openai, models: [gpt-5]}}}}\n"
        f"model_groups: {{fast: up/gpt-5, g: {{targets: [up/gpt-5], fallbacks: [{entry}]}}}}"
    )

    with pytest.raises(ConfigError) as caught:
        load({"ONE_API_ENV_FILE": "/dev/null", "ONE_API_CONFIG": str(path)})

    assert says in str(caught.value)
