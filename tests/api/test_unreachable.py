"""Upstreams that cannot be reached, that are silent, or that leave: U01, U02, U05 to U07 of the fault matrix."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import (
    Close,
    Gateway,
    Hang,
    RawClient,
    Receive,
    Reset,
    Script,
    ScriptedUpstream,
    Send,
    blackhole,
    completion,
    free_port,
    json_reply,
    post_chat,
    sse,
)
from tests.support.running_time import RunningTime

from .bed import Answer, Bed, adapter, user, yaml


@dataclass
class Silent:
    """A gateway whose first choice for every `pair` model is out of reach or silent, and whose second is well."""

    gateway: Gateway
    slow: ScriptedUpstream
    well: ScriptedUpstream

    def ask(self, model: str, **fields: Any) -> Answer:
        """The answer to a chat request."""
        return Bed(self.gateway, {"a": self.slow, "b": self.well}).ask(model, **fields)


@pytest.fixture(scope="module")
def silent() -> Iterator[Silent]:
    """Adapters for a closed port, a black hole, and an upstream for which the gateway has little patience, or much."""
    impatient = {"first_event_s": 0.3, "total_s": 0.3, "idle_s": 0.3}
    with contextlib.ExitStack() as held:
        slow, well = held.enter_context(ScriptedUpstream()), held.enter_context(ScriptedUpstream())
        hole = held.enter_context(blackhole())
        refused = f"http://127.0.0.1:{free_port()}/v1"
        adapters = {
            "refused": adapter(refused, ["refused-solo", "refused-pair"], weight=10**9),
            "hole": adapter(hole, ["hole-solo", "hole-pair"], weight=10**9, timeouts={"connect_s": 0.3}),
            "pit": adapter(hole, ["pit-solo"], timeouts={"connect_s": 60}),
            "slow": adapter(slow, [f"slow-{i}" for i in range(20)], weight=10**9, timeouts=impatient),
            "frail": adapter(slow, ["frail-solo", "frail-1", "frail-2"], weight=10**9),
            "well": adapter(
                well, ["refused-pair", "hole-pair", "frail-1", "frail-2", *(f"slow-{i}" for i in range(10))]
            ),
        }
        gateway = Gateway(config_yaml=yaml(adapters=adapters, retry={"budget": 1.0}))
        yield Silent(held.enter_context(gateway), slow, well)


@pytest.mark.parametrize("place", ["refused", "hole"])
def test_u01_u02_an_upstream_out_of_reach(silent: Silent, place: str, stream: bool) -> None:
    with RunningTime() as took:
        answer = silent.ask(f"{place}-solo", stream=stream)

    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert took.seconds < 2
    assert "127.0.0.1" not in answer.error["message"]


@pytest.mark.parametrize("place", ["refused", "hole"])
def test_u01_u02_another_deployment_answers_instead(silent: Silent, place: str, stream: bool) -> None:
    answer = silent.ask(f"{place}-pair", stream=stream)

    assert (answer.status, answer.header("x-gateway-deployment")) == (200, f"well/{place}-pair")


def test_u02_others_are_not_held_up(silent: Silent) -> None:
    host, port = silent.gateway.host, silent.gateway.port
    with RawClient(host, port, timeout_s=0.1) as stuck:
        stuck.send(post_chat(host, port, {"model": "pit-solo", "messages": user()}))

        assert silent.ask("well/hole-pair").status == 200

        with pytest.raises(TimeoutError):  # its connect goes on
            stuck.read_head()


SILENCES = {
    "no head": [Hang()],
    "half a head": [Send(b"HTTP/1.1 200 OK\r\n"), Hang()],
    "no body": [
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Hang(),
    ],
    "comments only": sse(b": hello\n\n", Hang()),
}


@pytest.mark.parametrize("script", list(SILENCES.values()), ids=list(SILENCES))
def test_u07_an_upstream_that_is_silent(silent: Silent, script: Script, stream: bool) -> None:
    silent.slow.on("slow-19", script)

    answer = silent.ask("slow-19", stream=stream)

    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert silent.slow.requests[-1].closes_within(1), "the upstream is let go"


@pytest.mark.parametrize(("model", "script"), [*enumerate(SILENCES.values())], ids=list(SILENCES))
def test_u07_another_deployment_answers_instead_of_a_silent_one(
    silent: Silent, model: int, script: Script, stream: bool
) -> None:
    silent.slow.on(f"slow-{model}", script)

    answer = silent.ask(f"slow-{model}", stream=stream)

    assert (answer.status, answer.header("x-gateway-deployment")) == (200, f"well/slow-{model}")
    assert silent.slow.requests[-1].closes_within(1), "the upstream is let go"


@pytest.mark.parametrize("opening", [[Reset()], [Close()], [Receive(2_500_000), Reset()]], ids=str)
def test_u05_u06_a_new_connection_that_dies(silent: Silent, opening: Script) -> None:
    model, text = f"frail-{len(opening)}", "x" * 5_000_000
    script = [*json_reply(completion("well")), Close()]
    silent.slow.on("frail-solo", script)
    assert silent.ask("frail-solo").status == 200
    silent.slow.on_connect(opening)

    answer = silent.ask(model, messages=user(text))

    assert (answer.status, answer.header("x-gateway-deployment")) == (200, f"well/{model}")
    assert silent.well.requests[-1].json["messages"] == user(text)
    assert all(seen.model != model for seen in silent.slow.requests), "no half of a request was taken for a whole"
