"""A gateway over scripted upstreams, and what a client sees of it; every test takes models of its own from it."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import openai

from tests.support import (
    Action,
    Gateway,
    Head,
    Headers,
    RawClient,
    Script,
    ScriptedUpstream,
    Seen,
    WaitFor,
    build_request,
    post_chat,
    sse,
)

Body: TypeAlias = dict[str, Any]

KEY = "test-key"
#: The operator's.
ADMIN_KEY = "admin-key"
#: The credentials of the upstreams; they look like keys, so that a leak can be told.
UPSTREAM_KEYS = {name: f"sk-upstream-{name}-0123456789" for name in "abc"}
#: So unlike that the order in which deployments are chosen is certain.
WEIGHTS = {"a": 10**12, "b": 10**6, "c": 1}
#: By kind of model, the upstreams that serve it.
SERVING = {"solo": "a", "pair": "ab", "trio": "abc"}
#: How many models of each kind there are; so many times as many in beds that many files share.
POOL = {"solo": 400, "pair": 200, "trio": 20}
SHARED = 4
#: How long an exchange may take to end after its test, in seconds.
SETTLE_S = 15.0


def adapter(upstream: ScriptedUpstream | str, models: list[str] | None, **settings: Any) -> Body:
    """The configuration of an adapter for an upstream, or for a base URL."""
    url = upstream if isinstance(upstream, str) else upstream.base_url
    listed = {} if models is None else {"models": models}
    return {"type": "openai", "base_url": url, **listed, **settings}


def yaml(**sections: Any) -> str:
    """A configuration file; JSON is YAML."""
    return json.dumps(sections)


def user(text: str = "Hi") -> list[Body]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Answer:
    """A whole answer as it came over the wire."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's value; None if there is none."""
        return self.headers.first(name)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> Body:
        """The error object, which has all four keys."""
        found: Body = self.json["error"]
        assert found.keys() == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[str]:
        """The server-sent events, comments included, each without its blank line."""
        text = self.body.decode()
        assert text.endswith("\n\n"), text[-200:]
        return text.split("\n\n")[:-1]

    @property
    def payloads(self) -> list[Body]:
        """The JSON objects of the events."""
        return [json.loads(event.removeprefix("data: ")) for event in self.events if event.startswith("data: {")]

    @property
    def chunks(self) -> list[Body]:
        """The chunks among them."""
        return [payload for payload in self.payloads if "error" not in payload]

    @property
    def deltas(self) -> list[Body]:
        """The deltas of all choices, empty ones left out."""
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"] if choice["delta"]]

    @property
    def stream_error(self) -> Body | None:
        """The error with which the stream ended; None if it ended with `[DONE]`, which it must else not hold."""
        errors = [payload["error"] for payload in self.payloads if "error" in payload]
        assert len(errors) + self.events.count("data: [DONE]") == 1
        assert "error" in self.events[-1] or self.events[-1] == "data: [DONE]"
        return errors[0] if errors else None

    @property
    def text(self) -> str:
        """The content of the stream's choice 0."""
        choices = [choice for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == 0]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass(eq=False)
class Bed:
    """A running gateway and its upstreams, by the names of their adapters."""

    gateway: Gateway
    upstreams: Mapping[str, ScriptedUpstream]
    #: Models whose exchanges need not end.
    waived: set[str] = field(default_factory=set)
    _checked_log: int = 0
    _checked_at: float = 0.0
    #: It has so many times the models of ``POOL``.
    times: int = 1
    #: The first of each kind is for tests that name it.
    _numbers: dict[str, Iterator[int]] = field(default_factory=lambda: {kind: itertools.count(1) for kind in POOL})

    @property
    def a(self) -> ScriptedUpstream:
        """The upstream that is asked first."""
        return self.upstreams["a"]

    @property
    def b(self) -> ScriptedUpstream:
        """The second one, for pairs and trios."""
        return self.upstreams["b"]

    @property
    def c(self) -> ScriptedUpstream:
        """The third one, for trios."""
        return self.upstreams["c"]

    def model(self, kind: str = "solo") -> str:
        """A model that no other test has used, so its deployments are in good health."""
        number = next(self._numbers[kind])
        assert number < POOL[kind] * self.times, "every model is used"
        return f"{kind}-{number}"

    def ask(self, model: str, /, *, key: str | None = KEY, headers: Any = (), **fields: Any) -> Answer:
        """Ask for a completion on a connection of its own."""
        body = {"model": model, "messages": user(), **fields}
        return self.send(post_chat(self.gateway.host, self.gateway.port, body, key, headers))

    def post(self, body: Any, *, key: str | None = KEY, headers: Any = ()) -> Answer:
        """Send a body of any kind to the chat route; bytes go as they are."""
        return self.send(post_chat(self.gateway.host, self.gateway.port, body, key, headers))

    def get(self, path: str, *, method: str = "GET", key: str | None = KEY, headers: Any = ()) -> Answer:
        """Send a request without a body."""
        given = {"Authorization": f"Bearer {key}"} if key else {}
        pairs = [*given.items(), *(headers.items() if isinstance(headers, Mapping) else headers)]
        return self.send(build_request(method, path, self.gateway.host, self.gateway.port, headers=pairs))

    def send(self, request: bytes) -> Answer:
        """Send bytes and return the answer."""
        with self.connect() as client:
            client.send(request)
            answer = client.read_response()
        return Answer(answer.status, answer.headers, answer.body)

    def connect(self) -> RawClient:
        """A connection to the gateway."""
        return RawClient(self.gateway.host, self.gateway.port, timeout_s=10.0)

    def begin(self, model: str, *, key: str | None = KEY, **fields: Any) -> "contextlib.AbstractContextManager[Begun]":
        """Ask for a stream and read it piece by piece: the head at once, the events as the test takes them."""
        body = {"model": model, "messages": user(), "stream": True, **fields}
        return Begun.opened(self, post_chat(self.gateway.host, self.gateway.port, body, key))

    def stream(self, script: Script, **fields: Any) -> Answer:
        """The answer to a streamed request for a model of its own, which upstream a answers with the script."""
        model = self.model()
        self.a.on(model, script)
        return self.ask(model, stream=True, **fields)

    def stream_in_two_parts(self, first: Sequence[Body], rest: Sequence[bytes | Action], **fields: Any) -> Answer:
        """The answer to a stream whose second part is sent when the client has all of the first."""
        gate, model = threading.Event(), self.model()
        self.a.on(model, sse(*first, WaitFor(gate), *rest, done=False))
        with self.begin(model, **fields) as begun:
            events = [begun.next() for _ in first]
            gate.set()
            return begun.answer([*events, *begun.rest()])

    def sent(self, /, **fields: Any) -> Any:
        """The body that reaches upstream a for a request that succeeds."""
        model = self.model()
        answer = self.ask(model, **fields)
        assert answer.status == 200, answer.body
        return self.last(model).json

    def last(self, model: str) -> Seen:
        """The last request for the model at upstream a."""
        return next(seen for seen in reversed(self.a.requests) if seen.model == model)

    def sdk(self, max_retries: int = 0) -> openai.OpenAI:
        """The official client; a context manager."""
        return openai.OpenAI(base_url=self.gateway.base_url, api_key=KEY, max_retries=max_retries)

    def record_of(self, answer: Answer) -> Body:
        """The log line of the request with this answer, once it is written."""
        request_id = answer.header("x-request-id")
        assert request_id
        return self.gateway.record_of(request_id)

    def asked(self, model: str) -> dict[str, int]:
        """How often each upstream was asked for a model; those that never were are left out."""
        counts = {
            name: sum(seen.model == model for seen in upstream.requests) for name, upstream in self.upstreams.items()
        }
        return {name: count for name, count in counts.items() if count}

    def check_settled(self) -> None:
        """Fail if an exchange since the last check is still open, or the gateway has logged a bug of its own."""
        requests = [seen for upstream in self.upstreams.values() for seen in upstream.requests]
        new = [seen for seen in requests if seen.arrived_at > self._checked_at]
        new_log, self._checked_log = self.gateway.read_log(self._checked_log)
        self._checked_at = time.monotonic()
        for seen in new:
            assert seen.model in self.waived or seen.ended.wait(SETTLE_S), f"{seen.model}: its upstream is still held"
        assert '"level":"error"' not in new_log, new_log[-4000:]


class Begun:
    """A stream under way: its head has come."""

    def __init__(self, client: RawClient, head: Head) -> None:
        self.head = head
        self.client = client
        self._events = client.iter_events(head)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, bed: Bed, request: bytes) -> Iterator["Begun"]:
        """Send the request and wait for the head."""
        with bed.connect() as client:
            client.send(request)
            yield cls(client, client.read_head())

    def next(self) -> str:
        """The next event, comments included."""
        return next(self._events)

    def rest(self) -> list[str]:
        """All events that are still to come."""
        return list(self._events)

    def answer(self, events: list[str]) -> Answer:
        """The whole answer, given its events."""
        return Answer(self.head.status, self.head.headers, "".join(f"{event}\n\n" for event in events).encode())


@contextlib.contextmanager
def running_bed(
    server: Body | None = None,
    settings: Body | None = None,
    env: Mapping[str, str] | None = None,
    times: int = 1,
    **sections: Any,
) -> Iterator[Bed]:
    """A gateway over the upstreams a, b and c, with so many times the models of ``POOL``.

    `server` adds to that section of the configuration, `settings` to each adapter, `env` to the environment; `sections`
    are further ones.
    """
    with contextlib.ExitStack() as held:
        upstreams = {name: held.enter_context(ScriptedUpstream()) for name in UPSTREAM_KEYS}
        adapters = {
            name: adapter(
                upstream, _models(name, times), api_key=UPSTREAM_KEYS[name], weight=WEIGHTS[name], **settings or {}
            )
            for name, upstream in upstreams.items()
        }
        gateway = Gateway(env={"RATE_LIMIT_REQUESTS": "100000", **(env or {})})
        address = {"host": gateway.host, "port": gateway.port}
        gateway.config_yaml = yaml(
            adapters=adapters, retry={"budget": 1.0}, server=address | (server or {}), **sections
        )
        yield Bed(held.enter_context(gateway), upstreams, times=times)


def _models(name: str, times: int) -> list[str]:
    return [f"{kind}-{i}" for kind, names in SERVING.items() if name in names for i in range(POOL[kind] * times)]
