"""The fault matrix through the two doors beside chat: the way behind them is chat's, the words are theirs."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.bed import Answer, user
from tests.api.test_errors import TOO_LONG, Fault, script_of
from tests.support import (
    Action,
    Close,
    Hang,
    Reset,
    Send,
    WaitFor,
    error,
    error_body,
    event,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)

from .bed import FaultBed
from .doors import DOORS, MESSAGES, Door
from .test_after_content import BROKEN, SENT, WHOLE, WORDS, breaking
from .test_before_content import INVISIBLE, OWN
from .test_hostile import ATTACKS, CODERS, ODD, TYPES, encoded, plain

#: The last word that is sent before a stream breaks.
LAST = "word39 "


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest) -> Door:
    """Each of the two doors."""
    return DOORS[request.param]


def read(faults: FaultBed, request: bytes, *steps: tuple[str, Callable[[], object]]) -> Answer:
    """The answer to a stream; each step is done when an event with its text has come, one after the other."""
    left = list(steps)
    with faults.connect() as client:
        client.send(request)
        head = client.read_head()
        events: list[str] = []
        for each in client.iter_events(head):
            events.append(each)
            if left and left[0][0] in each:
                left.pop(0)[1]()
    return Answer(head.status, head.headers, "".join(f"{each}\n\n" for each in events).encode())


# Before the first content


@pytest.mark.parametrize("fault", INVISIBLE, ids=[fault.id for fault in INVISIBLE])
def test_another_answers_before_the_first_content(faults: FaultBed, door: Door, fault: Fault, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(door.request(faults, model, stream=stream))

    assert door.text(answer, stream) == "Hello"
    assert faults.record_of(answer)["deployment"] == f"b/{model}"


@pytest.mark.parametrize("fault", OWN, ids=[fault.id for fault in OWN])
def test_what_is_wrong_in_the_request_has_its_own_status(
    faults: FaultBed, door: Door, fault: Fault, stream: bool
) -> None:
    model = faults.model("only")
    faults.a.on(model, script_of(fault, stream))

    answer = faults.send(door.request(faults, model, stream=stream))

    assert answer.status == fault.status
    assert answer.json["error"]["message"]


def test_when_all_are_silent_it_is_504(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("three", silent=True)
    for upstream in (faults.a, faults.b, faults.c):
        upstream.on(model, [Hang()])

    answer = faults.send(door.request(faults, model, stream=stream))

    assert (answer.status, door.error(answer)) == (504, door.errors["upstream_timeout"])
    assert answer.header("x-should-retry") == door.should_retry


def test_when_none_can_be_reached_it_is_529_in_anthropics_words(faults: FaultBed, stream: bool) -> None:
    answer = faults.send(MESSAGES.request(faults, faults.model("hopeless"), stream=stream))

    assert (answer.status, MESSAGES.error(answer)) == (529, "overloaded_error")
    assert answer.header("x-should-retry") == MESSAGES.should_retry


# Streams that break, in groups that go on


@BROKEN
def test_m02_an_equal_answer_goes_on_without_a_seam(faults: FaultBed, door: Door, ending: list[Any], code: str) -> None:
    model, gate = faults.model("resume", silent=code == "upstream_timeout"), threading.Event()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks(*WORDS, usage=tokens(3, 60))))

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert (door.text(answer, True), door.output_tokens(answer)) == (WHOLE, 60)


@BROKEN
def test_m01_the_first_error_is_told_when_nobody_goes_on(
    faults: FaultBed, door: Door, ending: list[Any], code: str
) -> None:
    model, gate = faults.model("resume", silent=code == "upstream_timeout"), threading.Event()
    faults.a.on(model, breaking(gate, ending))
    faults.b.on(model, sse(*text_chunks("Something else")))
    faults.c.on(model, error(500))

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert door.failed(answer) == (SENT, door.errors[code])


@pytest.mark.parametrize("ending", [Close(), Hang()], ids=["cut", "silent"])
def test_half_a_call_is_never_handed_over(faults: FaultBed, door: Door, ending: Action) -> None:
    model = faults.model("only", silent=isinstance(ending, Hang))
    faults.a.on(model, sse(*tool_chunks(("weather", '{"a"'), finish=None), ending, done=False))

    answer = faults.send(door.request(faults, model, stream=True, tools=[door.tool]))

    code = "upstream_timeout" if isinstance(ending, Hang) else "upstream_stream_truncated"
    assert door.failed(answer) == ("", door.errors[code])


def test_m02_a_differing_answer_is_replaced_by_a_prefill(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("prefill"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(model, sse(*text_chunks("Something else")), sse(*text_chunks(*WORDS[40:])))

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert door.text(answer, True) == WHOLE
    assert faults.b.requests[-1].json["messages"][-1] == {"role": "assistant", "content": SENT}


def test_m02_a_prefill_that_is_refused_does_not_hide_the_first_error(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("prefill"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    refusal = error(400, error_body("no prefill", "invalid_request_error"))
    faults.b.on(model, sse(*text_chunks("Something else")), refusal)

    answer = read(faults, door.request(faults, model, stream=True), (LAST, gate.set))

    assert door.failed(answer)[0] == SENT
    assert "no prefill" not in answer.body.decode()


def test_m02_a_stream_may_break_twice(faults: FaultBed, door: Door) -> None:
    model, first, second = faults.model("resume"), threading.Event(), threading.Event()
    second.set()
    faults.a.on(model, breaking(first, [Close()]))
    faults.b.on(model, breaking(second, [Reset()], text_chunks(*WORDS[:50], finish=None)))
    faults.c.on(model, sse(*text_chunks(*WORDS)))

    assert door.text(read(faults, door.request(faults, model, stream=True), (LAST, first.set)), True) == WHOLE
    assert faults.asked(model) == {"a": 1, "b": 1, "c": 1}


def test_m02_heartbeats_go_on_while_another_is_asked(eager: FaultBed, door: Door) -> None:
    model, gate, late = eager.model("resume"), threading.Event(), threading.Event()
    eager.a.on(model, breaking(gate, [Close()]))
    eager.b.on(model, sse(WaitFor(late), *text_chunks(*WORDS)))

    steps = [(LAST, gate.set), (door.heartbeat, late.set)]
    answer = read(eager, door.request(eager, model, stream=True), *steps)

    assert late.is_set()
    assert door.text(answer, True) == WHOLE


def test_m02_a_client_that_leaves_while_another_is_asked(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))
    faults.b.on(model, [Hang()])
    before = len(faults.b.requests)

    with faults.connect() as client:
        client.send(door.request(faults, model, stream=True))
        events = client.iter_events(client.read_head())
        while LAST not in next(events):
            pass
        gate.set()
        seen = faults.b.wait_for(before + 1)

    assert seen.closes_within(2)


def test_m02_answers_of_a_fixed_form_are_never_resumed(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, breaking(gate, [Close()]))

    answer = read(faults, door.request(faults, model, stream=True, **door.schema), (LAST, gate.set))

    assert (door.failed(answer)[0], faults.asked(model)) == (SENT, {"a": 1})


def test_m02_a_tool_call_is_never_resumed(faults: FaultBed, door: Door) -> None:
    model = faults.model("resume")
    begun = [*text_chunks("I look. ", finish=None), *tool_chunks(("weather", '{"city": "Be'), finish=None)[1:]]
    faults.a.on(model, sse(*begun, Close(), done=False))

    answer = faults.send(door.request(faults, model, stream=True, tools=[door.tool]))

    assert door.failed(answer)[0] == "I look. "
    assert faults.asked(model) == {"a": 1}


@pytest.mark.parametrize("ending", [[Close()], [Reset()], [Hang()], [event(error_body())]], ids=str)
def test_m01_an_early_death_is_invisible_while_the_answer_is_held_back(
    faults: FaultBed, door: Door, ending: list[Action]
) -> None:
    model = faults.model("hold", silent=isinstance(ending[0], Hang))
    faults.a.on(model, sse(*text_chunks(*WORDS[:2], finish=None), *ending, done=False))
    faults.b.on(model, sse(*text_chunks("Another ", "whole ", "answer")))

    answer = faults.send(door.request(faults, model, stream=True))

    assert door.text(answer, True) == "Another whole answer"
    assert faults.asked(model) == {"a": 1, "b": 1}


def test_m05_a_junk_event_ends_a_stream_that_goes_on_elsewhere(faults: FaultBed, door: Door) -> None:
    model = faults.model("resume")
    faults.a.on(model, sse(*text_chunks(*WORDS[:30], finish=None), b"data: {junk\n\n", *text_chunks(*WORDS[30:])[1:]))
    faults.b.on(model, sse(*text_chunks(*WORDS)))

    assert door.text(faults.send(door.request(faults, model, stream=True)), True) == WHOLE
    assert faults.asked(model) == {"a": 1, "b": 1}


# The request, the account, and clients that leave


def test_u12_an_account_without_credit_is_left_alone(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, error(429, error_body("pay", "insufficient_quota", "insufficient_quota")))

    for _ in range(3):
        assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "Hello"

    assert faults.asked(model) == {"a": 1, "b": 3}


def test_u18_a_context_that_is_too_small_leads_to_a_fallback_and_to_no_target(
    faults: FaultBed, door: Door, stream: bool
) -> None:
    spare, twins = faults.model("spare"), faults.model("twins")
    for model in (spare, twins):
        faults.a.on(model, error(400, TOO_LONG))

    answered, refused = (faults.send(door.request(faults, model, stream=stream)) for model in (spare, twins))

    assert door.text(answered, stream) == "Hello"
    assert refused.status == 400
    assert (faults.asked(spare), faults.asked(twins)) == ({"a": 1, "b": 1}, {"a": 1})


def test_u17_a_refusal_of_content_goes_nowhere(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("spare")
    faults.a.on(model, error(400, error_body("not that", "invalid_request_error", "content_filter")))

    answer = faults.send(door.request(faults, model, stream=stream))

    assert (answer.status, faults.asked(model)) == (400, {"a": 1})
    assert "not that" in answer.json["error"]["message"]


def test_u06_a_large_request_is_sent_again_whole(faults: FaultBed, door: Door) -> None:
    model, text = faults.model("spare"), "x" * 5_000_000
    faults.a.on(model, [Reset()])

    assert door.text(faults.send(door.request(faults, model, **door.question(text))), False) == "Hello"
    assert faults.b.requests[-1].json["messages"] == user(text)


def test_c02_a_client_that_leaves_amid_a_silent_stream(faults: FaultBed, door: Door) -> None:
    model, gate = faults.model("resume"), threading.Event()
    faults.a.on(model, sse(*text_chunks("a ", "b ", finish=None), WaitFor(gate), done=False))
    with faults.connect() as client:
        client.send(door.request(faults, model, stream=True))
        client.read_head()

    assert faults.last(model).closes_within(1)
    gate.set()


def test_c02_a_client_that_leaves_ends_both_questions_of_a_hedge(faults: FaultBed, door: Door, stream: bool) -> None:
    model = faults.model("hedge")
    faults.a.on(model, [Hang()])
    faults.b.on(model, [Hang()])
    before = {name: len(faults.upstreams[name].requests) for name in "ab"}

    with faults.connect() as client:
        client.send(door.request(faults, model, stream=stream))
        asked = [faults.upstreams[name].wait_for(before[name] + 1) for name in "ab"]

    assert all(seen.closes_within(2) for seen in asked)


# What an upstream may not do, and what it may


@pytest.mark.parametrize("label", CODERS)
def test_u26_an_encoded_answer_is_read(faults: FaultBed, door: Door, label: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, encoded(CODERS[label](plain(stream)), label, stream))

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "from a"
    assert faults.asked(model) == {"a": 1}


@pytest.mark.parametrize("name", ATTACKS)
def test_u26_u27_u28_another_answers(faults: FaultBed, door: Door, name: str, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, ATTACKS[name](stream))

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "Hello"
    assert faults.asked(model) == {"a": 1, "b": 1}


@pytest.mark.parametrize("odd", list(ODD.values()), ids=list(ODD))
def test_u29_an_odd_head_is_no_reason_to_ask_another(faults: FaultBed, door: Door, odd: bytes, stream: bool) -> None:
    model = faults.model("twins")
    faults.a.on(model, [Send(odd.replace(b"{}", TYPES[stream].encode()) + plain(stream)), Close()])

    assert door.text(faults.send(door.request(faults, model, stream=stream)), stream) == "from a"
    assert faults.asked(model) == {"a": 1}
