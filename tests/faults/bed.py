"""A gateway whose groups try again, resume, hold back and hedge, over upstreams that do as they are told."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.api.bed import UPSTREAM_KEYS, Bed, Body, adapter, user, yaml
from tests.support import Gateway, RawClient, ScriptedUpstream, free_port, post_chat

CERTIFICATES = Path(__file__).parent / "certificates"

#: By kind of group, its settings; "X" stands for a model of upstream X. Each kind has many groups, one for each test.
#: Those that are least busy are asked from left to right, as in order, but none of them is preferred to the others.
KINDS: dict[str, Body] = {
    "only": {"targets": "a"},
    "twins": {"targets": "ab", "strategy": "least_busy"},
    "three": {"targets": "abc"},
    "spare": {"targets": "a", "fallbacks": "b"},
    "spares": {"targets": "a", "fallbacks": "bc"},
    "refused": {"targets": "rb"},
    "unknown": {"targets": "nb"},
    "hopeless": {"targets": "r"},
    "nameless": {"targets": "n"},
    "resume": {"targets": "abc", "on_stream_failure": "resume"},
    "prefill": {"targets": "ap", "on_stream_failure": "resume"},
    "hold": {"targets": "ab", "strategy": "least_busy", "hold_back": {"ms": 60_000, "tokens": 3}},
    "hedge": {
        "targets": "ab",
        "hedge": {"after": 0.1, "budget": 1.0},
        "timeouts": {"first_event_s": 30, "total_s": 30},  # the slow one is overtaken, and never timed out
    },
    "bench": {"targets": "a", "fallbacks": "b", "on_stream_failure": "resume"},
    "bench-prefill": {"targets": "a", "fallbacks": "p", "on_stream_failure": "resume"},
    "brief": {"targets": "ab", "timeouts": {"idle_s": 0.4}},
    "even": {"targets": "abc", "strategy": "weighted"},
    "spread": {"targets": "abc", "strategy": "adaptive"},
}
#: Of a group whose upstreams are silent until they are given up, and of all others, which nobody waits for.
_SHORT = {"first_event_s": 0.5, "total_s": 0.5, "idle_s": 0.5}
_LONG = {"first_event_s": 20.0, "total_s": 20.0, "idle_s": 20.0}
#: How many groups of each kind there are, for the whole matrix and for a few tests.
_NONE = {"bench": 0, "bench-prefill": 0}
_MANY = dict.fromkeys(KINDS, 20) | {"twins": 340, "spare": 400, "only": 40, "resume": 100} | _NONE
FEW = dict.fromkeys(KINDS, 12) | _NONE
#: How many more there are of each kind whose upstreams may be silent.
_SILENT = dict.fromkeys(KINDS, 8) | {"resume": 20, "bench": 12, "bench-prefill": 12}
#: Adapters that are other views of an upstream: b goes on from a prefill, under the name p.
_VIEWS = {"p": "b"}


class FaultBed(Bed):
    """A bed with groups of every kind."""

    pool = _MANY

    def model(self, kind: str = "only", silent: bool = False) -> str:
        """A group that no other test has used, so its deployments are in good health.

        One that is ``silent`` waits for an upstream only half a second.
        """
        name = f"{kind}-silent" if silent else kind
        number = next(self._numbers.setdefault(name, itertools.count()))
        assert number < (_SILENT if silent else self.pool)[kind], "every group is used"
        return f"{name}-{number}"

    @property
    def arrived(self) -> int:
        """How many requests the upstreams have seen."""
        return sum(len(upstream.requests) for upstream in self.upstreams.values())

    @contextlib.contextmanager
    def crowd(self, model: str, count: int, **fields: Any) -> Iterator[list[RawClient]]:
        """So many clients that have asked at once; none of them has read anything."""
        request = post_chat(self.gateway.host, self.gateway.port, {"model": model, "messages": user(), **fields})
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(self.connect()) for _ in range(count)]
            for client in clients:
                client.send(request)
            yield clients


def _groups(pool: dict[str, int]) -> dict[str, Body]:
    """The settings of all groups, by name."""
    found: dict[str, Body] = {}
    for kind, count in pool.items():
        found |= {name: _group(kind, name, _LONG) for name in (f"{kind}-{number}" for number in range(count))}
        silent = (f"{kind}-silent-{number}" for number in range(_SILENT[kind] if count else 0))
        found |= {name: _group(kind, name, _SHORT) for name in silent}
    return found


def _group(kind: str, name: str, timeouts: dict[str, float]) -> Body:
    """The settings of one group."""
    settings: dict[str, Any] = {"strategy": "ordered", **KINDS[kind]}
    for places in ("targets", "fallbacks"):
        settings[places] = [f"{each}/{name}" for each in settings.get(places, "")]
    return settings | {"timeouts": timeouts | settings.get("timeouts", {})}


@contextlib.contextmanager
def running_faults(pool: dict[str, int] = _MANY, alone_s: float = 3.0, **sections: Any) -> Iterator[FaultBed]:
    """A gateway with so many groups of each kind; an upstream that is left alone in one has ``alone_s``."""
    with contextlib.ExitStack() as held:
        upstreams = {name: held.enter_context(ScriptedUpstream()) for name in UPSTREAM_KEYS}
        groups = _groups(pool)
        urls = {name: upstream.base_url for name, upstream in upstreams.items()}
        urls |= {name: urls[known] for name, known in _VIEWS.items()}
        urls |= {"r": f"http://127.0.0.1:{free_port()}/v1", "n": "http://nowhere.invalid/v1"}
        timeouts = {"connect_s": 0.5, **dict.fromkeys(_LONG, alone_s)}
        config: Body = {
            "adapters": {
                name: adapter(url, [*groups], api_key=f"sk-upstream-{name}", timeouts=timeouts, prefill=name in _VIEWS)
                for name, url in urls.items()
            },
            "model_groups": groups,
        }
        gateway = Gateway(env={"RATE_LIMIT_REQUESTS": "1000000"}, start_timeout_s=60)
        server = {"host": gateway.host, "port": gateway.port, **sections.pop("server", {})}
        gateway.config_yaml = yaml(**config, **sections, server=server)
        bed = FaultBed(held.enter_context(gateway), upstreams)
        bed.pool = pool
        yield bed
