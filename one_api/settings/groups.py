"""Groups that name other groups: a name is replaced by the deployments of its group, in order."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from one_api.settings.sections import GroupConfig, TargetConfig, targets


class GroupCycle(ValueError):
    """Groups that lead back to themselves; ``path`` names them in order, the first one again at the end."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(f"the groups lead back to themselves: {' -> '.join(path)}")
        self.path = path


def named_group(entry: str, group: str, groups: Collection[str], adapters: Collection[str]) -> bool:
    """Return whether an entry of ``group`` names a group; "adapter/model" of a known adapter is a deployment."""
    adapter, slash, _ = entry.partition("/")
    return entry in groups and not (slash and (adapter in adapters or entry == group))


def expanded(groups: Mapping[str, GroupConfig], adapters: Collection[str]) -> dict[str, GroupConfig]:
    """Return the groups with deployments alone in their targets and fallbacks.

    A group in ``targets`` stands for its targets, and its fallbacks come after the group's own; in ``fallbacks`` it
    stands for its targets, then its fallbacks. A weight is shared among the targets that it stands for. A deployment is
    named once. A group of one group that says nothing else is an alias: it is that group in all its settings.

    Raises:
        GroupCycle: when groups lead back to themselves.
    """
    expansion = _Expansion(groups, adapters)
    return {name: expansion.group(name, ()) for name in groups}


@dataclass(frozen=True, slots=True)
class _Expansion:
    groups: Mapping[str, GroupConfig]
    adapters: Collection[str]
    done: dict[str, GroupConfig] = field(default_factory=dict)

    def group(self, name: str, path: tuple[str, ...]) -> GroupConfig:
        """Return one group, expanded; ``path`` is how it was reached."""
        if name in path:
            raise GroupCycle((*path[path.index(name) :], name))
        if name not in self.done:
            self.done[name] = self._expand(self.groups[name], (*path, name))
        return self.done[name]

    def _expand(self, group: GroupConfig, path: tuple[str, ...]) -> GroupConfig:
        name = path[-1]
        entries = targets(group.targets + group.fallbacks)
        if not any(named_group(each.model, name, self.groups, self.adapters) for each in entries):
            return group
        if alias := _alias_of(group):
            return self.group(alias, path)
        served = list(self._targets(group.targets, path))
        instead = [each for target in targets(group.fallbacks) for each in self._whole(target, path)]
        inherited = [
            each
            for target in targets(group.targets)
            if named_group(target.model, name, self.groups, self.adapters)
            for each in targets(self.group(target.model, path).fallbacks)
        ]
        own = _once(served, set())
        others = _once([*instead, *inherited], {target.model for target in own})
        return replace(group, targets=tuple(own), fallbacks=tuple(others))

    def _targets(self, entries: tuple[TargetConfig | str, ...], path: tuple[str, ...]) -> Iterator[TargetConfig]:
        """Yield the deployments of entries, without the fallbacks of the groups that they name."""
        for target in targets(entries):
            if not named_group(target.model, path[-1], self.groups, self.adapters):
                yield target
                continue
            inner = targets(self.group(target.model, path).targets)
            yield from inner if target.weight is None else _share(inner, target.weight)

    def _whole(self, target: TargetConfig, path: tuple[str, ...]) -> Iterator[TargetConfig]:
        """Yield the deployments of a fallback, with the fallbacks of the group that it names."""
        yield from self._targets((target,), path)
        if named_group(target.model, path[-1], self.groups, self.adapters):
            yield from targets(self.group(target.model, path).fallbacks)


def _alias_of(group: GroupConfig) -> str | None:
    """Return the only name that a group holds, when it says nothing else."""
    if len(group.targets) == 1 and group == GroupConfig(targets=group.targets):
        (only,) = targets(group.targets)
        return only.model if only.weight is None else None
    return None


def _share(inner: tuple[TargetConfig, ...], weight: float) -> list[TargetConfig]:
    """Return targets whose weights add up to ``weight``; one without a weight of its own counts as 1."""
    whole = sum(target.weight or 1.0 for target in inner)
    return [replace(target, weight=weight * (target.weight or 1.0) / whole) for target in inner]


def _once(entries: list[TargetConfig], seen: set[str]) -> list[TargetConfig]:
    """Return the entries whose deployment was not seen before."""
    return [target for target in entries if not (target.model in seen or seen.add(target.model))]  # type: ignore[func-returns-value]
