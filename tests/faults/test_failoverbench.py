"""The sixteen scenarios of failoverbench (methodology v0.1), one after the other against one long-lived gateway.

The catalogue and its checks are public: https://github.com/failoverbench/failoverbench, `scenarios/catalogue.yaml`, and
`METHODOLOGY.md` beside it; https://github.com/BerriAI/litellm/issues/40404 has the faults in the middle of a stream.
Each model has one target and one fallback, and every healthy answer is the same text of sixty words. A scenario is
passed when the client has the whole text (S13: the provider's own reason), the provider was asked as often as is right,
and the gateway answers the next request. Times are scaled down: half a second to the first content and between two
events.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.bed import Answer, Body
from tests.support import (
    Close,
    Hang,
    Reset,
    Script,
    Seen,
    completion,
    error,
    error_body,
    json_reply,
    reply,
    sse,
    text_chunks,
    tokens,
)

from .bed import KINDS, FaultBed, running_faults

WORDS = [f"word{number} " for number in range(60)]
TEXT = "".join(WORDS)
USAGE = tokens(20, 60)
#: The names that target and fallback give their models.
TARGET, FALLBACK = "the-model", "the-fallback"


def healthy(stream: bool, model: str = TARGET, done: bool = True) -> Script:
    """The whole text."""
    if stream:
        return sse(*text_chunks(*WORDS, model=model, usage=USAGE), done=done)
    return json_reply(completion(TEXT, model=model, usage=USAGE))


def broken(words: int, *ending: Any) -> Script:
    """A stream of so many words, and what ends it."""
    return sse(*text_chunks(*WORDS[:words], finish=None, model=TARGET), *ending, done=False)


def malformed() -> Script:
    """A whole stream with an event before the tenth word that is no JSON."""
    chunks = text_chunks(*WORDS, model=TARGET, usage=USAGE)
    return sse(*chunks[:10], b'data: {"choices": [{"delta": {"content": \n\n', *chunks[10:])


def refuses_prefill(seen: Seen) -> Script:
    """The whole text, unless the last message is the assistant's."""
    if seen.json["messages"][-1]["role"] == "assistant":
        return error(400, error_body("This model does not support prefill.", "invalid_request_error"))
    return healthy(bool(seen.json.get("stream")), FALLBACK)


@dataclass(frozen=True)
class Scenario:
    """A fault of the target: its answers, streamed or whole, and how often target and fallback are to be asked."""

    id: str
    streamed: list[Script]
    whole: list[Script]
    target_calls: int
    fallback_calls: int
    #: The shortest time that the client waits, in seconds.
    least_s: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether the target stops to say anything."""
        return any(isinstance(action, Hang) for script in (*self.streamed, *self.whole) for action in script)


def both(
    name: str, faults: list[Script], target: int, fallback: int, *, recovers: bool = False, least_s: float = 0.0
) -> Scenario:
    """A fault that is the same for streams and whole answers."""
    ends = [[healthy(stream)] if recovers else [] for stream in (True, False)]
    return Scenario(name, [*faults, *ends[0]], [*faults, *ends[1]], target, fallback, least_s)


def mid_stream(name: str, fault: Script, target: int = 1, fallback: int = 1) -> Scenario:
    """A fault that only a stream can have."""
    return Scenario(name, [fault], [], target, fallback)


LIMIT = error_body("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded")
TOO_LONG = error_body("The context length is 8192 tokens.", "invalid_request_error", "context_length_exceeded")
OVERLOADED = error_body("The engine is overloaded.", code="overloaded")
FILTERED = error_body(
    "Your request was rejected by our safety system.", "invalid_request_error", "content_policy_violation"
)

HEAD_ONLY: Script = [*reply(b"", headers={"content-length": "9"}), Hang()]

SCENARIOS = [
    both("S01 429 with retry-after", [error(429, LIMIT, {"retry-after": "1"})], 2, 0, recovers=True, least_s=0.9),
    both("S02 429 without retry-after", [error(429, LIMIT)], 1, 1),
    both("S03 500 once, then healthy", [error(500)], 2, 0, recovers=True),
    both("S04 503", [error(503, OVERLOADED)], 2, 1),
    both("S05 reset before the head", [[Reset()]], 2, 0, recovers=True),
    both("S06 no response", [[Hang()]], 1, 1),
    Scenario("S07 slow first token", [sse(Hang(), done=False)], [HEAD_ONLY], 1, 1),
    mid_stream("S08 cut after 40 words", broken(40, Close())),
    mid_stream("S09 stall after 20 words", broken(20, Hang())),
    mid_stream("S10 malformed event", malformed()),
    mid_stream("S11 no [DONE]", healthy(True, done=False), fallback=0),
    both("S12 context length exceeded", [error(400, TOO_LONG)], 1, 1),
    mid_stream("S14 cut, and the fallback refuses prefill", broken(40, Close())),
    both("S16 accounting", [error(503, OVERLOADED)], 2, 1),
]  # fmt: skip
CASES = [
    pytest.param(each, stream, id=f"{each.id} {'stream' if stream else 'whole'}")
    for each in SCENARIOS
    for stream in ((True, False) if each.whole else (True,))
]


@pytest.fixture(scope="module")
def bench() -> Iterator[FaultBed]:
    """The gateway, with a prefill declared for every second fallback."""
    pool = dict.fromkeys(KINDS, 0) | {"bench": len(CASES) + 20, "bench-prefill": len(CASES) + 20}
    with running_faults(pool) as running:
        yield running


def ask(bench: FaultBed, model: str, stream: bool) -> Answer:
    """The answer to one request; a stream has its usage."""
    fields: Body = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return bench.ask(model, **fields)


def text_of(answer: Answer, stream: bool) -> str:
    """The text of an answer that is complete."""
    assert answer.status == 200, answer.body
    if not stream:
        return str(answer.json["choices"][0]["message"]["content"])
    assert answer.stream_error is None
    return answer.text


def is_alive(bench: FaultBed, stream: bool) -> bool:
    """Whether the gateway serves another model, right away."""
    other = bench.model("bench")
    bench.a.on(other, healthy(stream))
    return text_of(ask(bench, other, stream), stream) == TEXT


@pytest.mark.parametrize("kind", ["bench", "bench-prefill"])
@pytest.mark.parametrize(("scenario", "stream"), CASES)
def test_the_client_has_the_whole_text(bench: FaultBed, scenario: Scenario, stream: bool, kind: str) -> None:
    model = bench.model(kind, silent=scenario.is_silent)
    bench.a.on(model, *(scenario.streamed if stream else scenario.whole))
    bench.b.on(model, refuses_prefill)
    began = time.monotonic()

    answer = ask(bench, model, stream)

    assert text_of(answer, stream) == TEXT
    assert time.monotonic() - began >= scenario.least_s
    asked = bench.asked(model)
    assert (asked.get("a", 0), asked.get("b", 0)) == (scenario.target_calls, scenario.fallback_calls)
    assert bench.record_of(answer)["completion_tokens"] == 60, "what failed is not counted to the client"
    last = [chunk for chunk in answer.chunks if chunk["choices"]][-1] if stream else answer.json
    assert last["model"] == (FALLBACK if scenario.fallback_calls else TARGET)
    usages = [chunk["usage"] for chunk in answer.chunks if chunk.get("usage")] if stream else [answer.json["usage"]]
    assert usages == [USAGE]


def test_s13_the_reason_of_a_content_filter_is_passed_on(bench: FaultBed, stream: bool) -> None:
    model = bench.model("bench")
    bench.a.on(model, error(400, FILTERED))

    answer = ask(bench, model, stream)

    assert (answer.status, answer.error["code"]) == (400, "content_policy_violation")
    assert "safety system" in answer.error["message"]
    assert bench.asked(model) == {"a": 1}, "a refusal is not routed around"


def test_s15_one_that_flaps_is_left_probed_and_used_again(bench: FaultBed, stream: bool) -> None:
    model, outage = bench.model("bench"), 10
    bench.a.on(model, error(503, OVERLOADED))
    bench.b.on(model, healthy(stream, FALLBACK))

    during = [text_of(ask(bench, model, stream), stream) for _ in range(outage)]
    asked = bench.asked(model)["a"]
    bench.a.on(model, healthy(stream))
    back = time.monotonic()
    while bench.asked(model)["a"] == asked:
        assert text_of(ask(bench, model, stream), stream) == TEXT
        assert time.monotonic() - back < 20
        time.sleep(0.2)  # the pace of a single client

    assert during == [TEXT] * outage
    assert asked <= 4, "its circuit opened"
    assert bench.record_of(ask(bench, model, stream))["deployment"] == f"a/{model}"


@pytest.mark.parametrize("ending", [Close(), Reset(), Hang()], ids=["cut", "reset", "stall"])
@pytest.mark.parametrize("kind", ["bench", "bench-prefill"])
def test_when_nobody_can_go_on_the_client_has_a_clear_error(bench: FaultBed, kind: str, ending: Any) -> None:
    model = bench.model(kind, silent=isinstance(ending, Hang))

    def differs(seen: Seen) -> Script:
        if seen.json["messages"][-1]["role"] == "assistant":
            return error(400, error_body("This model does not support prefill.", "invalid_request_error"))
        return sse(*text_chunks("Something else"))

    bench.a.on(model, broken(40, ending))
    bench.b.on(model, differs)

    answer = ask(bench, model, stream=True)

    assert answer.stream_error is not None
    assert answer.stream_error["code"] in ("upstream_stream_truncated", "upstream_timeout")
    assert "".join(WORDS[:40]).startswith(answer.text), "never a text that looks whole, and never the refused prefill"
    assert all(choice["finish_reason"] is None for chunk in answer.chunks for choice in chunk["choices"])
    assert is_alive(bench, stream=True)
