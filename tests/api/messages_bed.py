"""A gateway over an upstream that knows chat only and one that speaks Messages, asked through Anthropic's dialect."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic

from tests.support import Gateway, ScriptedUpstream, build_request, claude_upstream

from .bed import KEY, Answer, Bed, Body, adapter, user, yaml

UPSTREAM_KEY = "sk-ant-api03-0123456789"
_COUNT = 240
#: By kind of model, its targets in order. ``mixed`` and ``reverse`` are groups.
KINDS = ("chat", "claude", "mixed", "reverse", "alias")


def post(gateway: Gateway, path: str, body: Any, key: str | None = KEY, headers: Any = ()) -> bytes:
    """The bytes of a POST; a body of bytes goes as it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    pairs = [*given.items(), *(headers.items() if isinstance(headers, Mapping) else headers)]
    return build_request("POST", path, gateway.host, gateway.port, headers=pairs, body=data)


@dataclass(eq=False)
class MessagesBed(Bed):
    """Upstream ``o`` knows chat only, upstream ``a`` is Anthropic's."""

    _of_kind: dict[str, Iterator[int]] = field(default_factory=lambda: {kind: itertools.count() for kind in KINDS})

    @property
    def o(self) -> ScriptedUpstream:
        """The one that knows chat only."""
        return self.upstreams["o"]

    def model(self, kind: str = "chat") -> str:
        """A model that no other test has used."""
        return f"{kind}-{next(self._of_kind[kind])}"

    def message(self, model: str, /, *, key: str | None = KEY, headers: Any = (), **fields: Any) -> Answer:
        """Ask for a message on a connection of its own."""
        body = {"model": model, "max_tokens": 50, "messages": user(), **fields}
        return self.send(post(self.gateway, "/v1/messages?beta=true", body, key, headers))

    def post_to(self, path: str, body: Any, *, key: str | None = KEY, headers: Any = ()) -> Answer:
        """Send a body of any kind to a path."""
        return self.send(post(self.gateway, path, body, key, headers))

    def sent_to(self, upstream: str, model: str) -> Body:
        """The last body that an upstream got for a model, by its own name."""
        requests = self.upstreams[upstream].requests
        found: Body = next(seen.json for seen in reversed(requests) if seen.model == model)
        return found

    def anthropic(self, max_retries: int = 0) -> anthropic.Anthropic:
        """Anthropic's client; a context manager."""
        return anthropic.Anthropic(base_url=self.gateway.url, api_key=KEY, max_retries=max_retries)


def message_events(answer: Answer) -> list[Body]:
    """The payloads of a stream's events, comments left out; each is named as its type."""
    found = []
    for event in answer.events:
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@contextlib.contextmanager
def running_messages_bed(
    server: Body | None = None,
    claude: Body | None = None,
    env: Mapping[str, str] | None = None,
    chat: Body | None = None,
    **sections: Any,
) -> Iterator[MessagesBed]:
    """Such a gateway; ``server`` adds to that section, ``claude`` and ``chat`` to the adapters of ``a`` and ``o``."""
    with contextlib.ExitStack() as held:
        upstreams = {
            "o": held.enter_context(ScriptedUpstream()),
            "a": held.enter_context(claude_upstream()),
        }
        names = {kind: [f"{kind}-{i}" for i in range(_COUNT)] for kind in ("chat", "claude", "m", "r", "real")}
        adapters = {
            "o": adapter(upstreams["o"], [*names["chat"], *names["m"], *names["r"]], **(chat or {})),
            "a": {
                "type": "claude",
                "base_url": upstreams["a"].root_url,
                "api_key": UPSTREAM_KEY,
                "models": [*names["claude"], *names["m"], *names["r"], *names["real"]],
                **(claude or {}),
            },
        }
        groups: Body = {}
        for i in range(_COUNT):
            groups[f"mixed-{i}"] = {"targets": [f"o/m-{i}", f"a/m-{i}"], "strategy": "ordered"}
            groups[f"reverse-{i}"] = {"targets": [f"a/r-{i}", f"o/r-{i}"], "strategy": "ordered"}
            groups[f"alias-{i}"] = {"targets": [f"a/real-{i}"]}
        gateway = Gateway(env={"RATE_LIMIT_REQUESTS": "100000", **(env or {})})
        address = {"host": gateway.host, "port": gateway.port}
        gateway.config_yaml = yaml(
            adapters=adapters,
            model_groups=groups,
            retry={"budget": 1.0},
            server=address | (server or {}),
            **sections,
        )
        running = MessagesBed(held.enter_context(gateway), upstreams)
        yield running
        running.check_settled()
        assert UPSTREAM_KEY not in gateway.log
