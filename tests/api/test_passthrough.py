"""Moderations, images, audio and rerank through the real gateway: the bytes of both sides, and faults."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import Action, Close, Hang, Reset, Script, WaitFor, chunked, completion, error, json_reply, reply

from .bed import KEY, Answer, Body
from .doors import DoorBed, form, running_doors

SOUND = b"ID3" + bytes(range(256)) * 40
MP3 = {"Content-Type": "audio/mpeg"}
EVENTS = {"Content-Type": "text/event-stream"}
MODERATED = {"id": "modr-1", "model": "upstream-name", "results": [{"flagged": False, "message": "fine"}]}
RANKED = {"id": "r", "results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 7}}
IMAGES = {"created": 1, "data": [{"b64_json": "AAAA"}], "usage": {"input_tokens": 3, "output_tokens": 5}}
PARTIAL = b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"AA"}\n\n'
COMPLETED = (
    b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AAAA",'
    b'"usage":{"input_tokens":3,"output_tokens":5}}\n\n'
)

#: Door -> a request without its model, and the answer to it.
JSON_DOORS: dict[str, tuple[Body, Any]] = {
    "/v1/moderations": ({"input": [{"type": "text", "text": "hi"}]}, MODERATED),
    "/v1/images/generations": ({"prompt": "a cat", "n": 2, "size": "1024x1024"}, IMAGES),
    "/v1/rerank": ({"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}, RANKED),
}


def recording(model: str, audio: bytes = SOUND) -> bytes:
    """The form of a transcription: the file before the model, and a name that is given twice."""
    return form(
        ("file", audio, "a.mp3"),
        ("timestamp_granularities[]", b"word"),
        ("model", model.encode()),
        ("timestamp_granularities[]", b"segment"),
        ("response_format", b"verbose_json"),
    )


@pytest.fixture(scope="module")
def client(doors: DoorBed) -> Iterator[openai.OpenAI]:
    with doors.sdk() as opened:
        yield opened


# Objects


@pytest.mark.parametrize("door", JSON_DOORS)
def test_a_request_and_its_answer_pass_through(doors: DoorBed, door: str) -> None:
    model = doors.model()
    body, answer = JSON_DOORS[door]
    doors.a.on(model, json_reply(answer))

    got = doors.call(door, {**body, "model": model, "unknown": [1.0, None]})

    assert (got.status, got.json, got.header("content-type")) == (200, answer, "application/json")
    assert doors.last(model).json == {**body, "model": model, "unknown": [1.0, None]}
    assert doors.last(model).path == door
    assert got.header("x-gateway-deployment") == f"a/{model}"
    assert got.header("x-request-id")


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize(
    "fault",
    [
        error(500),
        error(429, headers={"Retry-After": "60"}),
        [Reset()],
        [Close()],
        reply(b"<html>sorry</html>", headers={"Content-Type": "text/html"}),
        reply(b'{"results":[', headers={"Content-Type": "application/json"}),
        json_reply({"error": {"message": "no room", "type": "server_error"}}),
        [*reply(b'{"resu', headers={"Content-Length": "500", "Content-Type": "application/json"}), Close()],
    ],
    ids=["500", "429", "reset", "closed", "a page", "half JSON", "an error with 200", "cut"],
)
def test_a_fault_is_not_seen(doors: DoorBed, door: str, fault: list[Action]) -> None:
    model = doors.model("fault")
    body, answer = JSON_DOORS[door]
    doors.a.on(model, fault)
    doors.b.on(model, json_reply(answer))

    got = doors.call(door, {**body, "model": model})

    assert (got.status, got.json) == (200, answer)
    assert got.header("x-gateway-deployment") == f"b/{model}"


def test_a_refusal_is_passed_on(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, error(400, {"error": {"message": "bad size", "type": "invalid_request_error", "param": "size"}}))

    got = doors.call("/v1/images/generations", {"model": model, "prompt": "x"})

    assert (got.status, got.error["param"]) == (400, "size")
    assert doors.asked(model) == {"a": 1}


def test_a_failed_moderation_is_an_error_and_never_an_answer(doors: DoorBed) -> None:
    model = doors.model()
    for upstream in (doors.a, doors.b):
        upstream.on(model, error(503))

    got = doors.call("/v1/moderations", {"model": model, "input": "x"})

    assert got.status == 503
    assert "results" not in got.json


@pytest.mark.parametrize("answer", [{"results": []}, {"results": None}, {"id": "modr-1"}, [], completion("I cannot.")])
def test_a_moderation_without_a_result_is_none(doors: DoorBed, answer: Any) -> None:
    model = doors.model("fault")
    doors.a.on(model, json_reply(answer))
    doors.b.on(model, json_reply(MODERATED))

    got = doors.call("/v1/moderations", {"model": model, "input": "x"})

    assert (got.status, got.header("x-gateway-deployment")) == (200, f"b/{model}")


def test_a_body_keeps_its_bytes_but_for_the_model() -> None:
    with running_doors(model_groups={"alias": {"targets": ["a/any-0"]}}) as doors:
        start = b'{ "query": "caf\\u00e9 \\"model\\"",\n "top_n": 1.0, "documents": ["\xc3\xa9"], '
        data = start + b'"x": 1, "x": 1e3, "model" :"%s" }'
        doors.a.on("any-0", json_reply(RANKED))

        for name in (b"any-0", b"alias"):
            answer = doors.send(doors.raw_request("/v1/rerank", data % name))

            assert answer.status == 200, answer.body
            assert doors.last("any-0").body == data % b"any-0"


@pytest.mark.parametrize(
    "data",
    [
        b'{"model": "alias", "model": "alias", "query": "q", "documents": []}',
        b'{"mod\\u0065l": "alias", "query": "q", "documents": []}',
        b'{"options": {"model": "mine"}, "model": "alias", "query": "q", "documents": []}',
        b'{"options": {"model": "mine"}, "mod\\u0065l": "alias", "query": "q", "documents": []}',
    ],
    ids=["twice", "escaped", "inside", "inside and escaped"],
)
def test_a_model_that_is_hard_to_find_is_replaced_all_the_same(data: bytes) -> None:
    with running_doors(model_groups={"alias": {"targets": ["a/any-0"]}}) as doors:
        doors.a.on("any-0", json_reply(RANKED))

        assert doors.send(doors.raw_request("/v1/rerank", data)).status == 200
        sent = doors.last("any-0").json
        assert sent["model"] == "any-0"
        assert sent.get("options", {"model": "mine"}) == {"model": "mine"}


@pytest.mark.parametrize("answer", [{}, None])
def test_an_answer_that_says_nothing_is_none(doors: DoorBed, answer: Any) -> None:
    model = doors.model()
    doors.a.on(model, json_reply(answer))
    doors.b.on(model, json_reply(RANKED))

    assert doors.call("/v1/rerank", {"model": model, "query": "q", "documents": ["a", "b"]}).json == RANKED


def test_moderations_without_a_model_go_to_one_that_moderates(doors: DoorBed) -> None:
    assert doors.call("/v1/moderations", {"input": "x"}).status == 400
    with running_doors({"kinds": {"any-3": ["chat", "moderation"], "any-4": ["moderation"]}}) as other:
        other.a.on("any-3", json_reply(MODERATED))
        with other.sdk() as sdk:
            sdk.moderations.create(input="x")
        assert other.last("any-3").json == {"input": "x", "model": "any-3"}


def test_moderations_without_a_model_go_to_the_one_that_is_set() -> None:
    with running_doors(models={"moderation": "any-0"}) as other:
        other.a.on("any-0", json_reply(MODERATED))

        assert other.call("/v1/moderations", {"input": "x"}).json == MODERATED
        assert other.last("any-0").json["model"] == "any-0"


def test_the_alias_goes_up_as_the_upstreams_own_name() -> None:
    with running_doors(model_groups={"alias": {"targets": ["a/any-0"]}}) as doors:
        doors.a.on("any-0", json_reply(RANKED))

        assert doors.call("/v1/rerank", {"model": "alias", "query": "q", "documents": []}).status == 200
        assert doors.last("any-0").json["model"] == "any-0"


@pytest.mark.parametrize("door", [*JSON_DOORS, "/v1/audio/speech"])
def test_a_model_of_another_kind_is_not_asked(doors: DoorBed, door: str) -> None:
    got = doors.call(door, {"model": "talk-0", "input": "x"})

    assert (got.status, got.error["code"]) == (400, "model_not_supported")
    assert "/v1/chat/completions" in got.error["message"]


@pytest.mark.parametrize("door", [*JSON_DOORS, "/v1/audio/speech", "/v1/embeddings", "/v1/completions"])
def test_every_door_wants_a_key_and_a_model(doors: DoorBed, door: str) -> None:
    assert doors.call(door, {"model": "any-0"}, key="wrong").status == 401
    assert doors.call(door, {"input": "x"}).status == 400
    assert doors.call(door, {"model": "nothing-of-this-name", "input": "x"}).status == 404
    assert doors.get(door).status == 405
    both = doors.call(door, {"model": "any-0"}, headers=[("x-api-key", "another")])
    assert both.status == 401


def test_the_log_has_the_tokens_in_whatever_words(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, json_reply(IMAGES))

    record = doors.record_of(doors.call("/v1/images/generations", {"model": model, "prompt": "x"}))

    assert (record["path"], record["prompt_tokens"], record["completion_tokens"]) == ("/v1/images/generations", 3, 5)


JSON_TYPE, PLAIN = {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}
TWO_IMAGES = {"data": [{"b64_json": "QUFB"}, {"url": "https://x.example/a.png"}]}
LARGE_IMAGES = b'{"data":[{"b64_json":"' + b"A" * 1_500_000 + b'"},{"b64_json" : "' + b"B" * 1_500_000 + b'"}]}'
IN_PIECES = [LARGE_IMAGES[at : at + 50_001] for at in range(0, len(LARGE_IMAGES), 50_001)]
TRANSCRIBED = b'data: {"type":"transcript.text.done","text":"hi","usage":{"type":"duration","seconds":12.5}}\n\n'
SUBTITLES = b"1\n00:00:00,000 --> 00:00:02,000\nhi\n\n2\n00:00:02,000 --> 01:02:03,500\nthere\n"
UNITS: dict[str, tuple[str, Body | None, Any, tuple[float, str] | None]] = {
    "images as they came": ("/v1/images/generations", {"prompt": "x", "n": 4}, json_reply(TWO_IMAGES), (2, "images")),
    "large images": ("/v1/images/generations", {"prompt": "x", "n": 4}, chunked(*IN_PIECES, headers=JSON_TYPE),
                     (2, "images")),
    "streamed images": ("/v1/images/generations", {"prompt": "x", "stream": True},
                        reply(PARTIAL + COMPLETED + COMPLETED, headers=EVENTS), (2, "images")),
    "characters": ("/v1/audio/speech", {"input": "Grüß dich!", "voice": "a"}, reply(SOUND, headers=MP3),
                   (10, "characters")),
    "documents": ("/v1/rerank", {"query": "q", "documents": ["a", "b", "c"]}, json_reply({"results": []}),
                  (3, "documents")),
    "searches": ("/v1/rerank", {"query": "q", "documents": ["a", "b", "c"]},
                 json_reply({"results": [], "meta": {"billed_units": {"search_units": 1}}}), (1, "search_units")),
    "seconds": ("/v1/audio/transcriptions", None,
                json_reply({"text": "hi", "usage": {"type": "duration", "seconds": 7}}), (7, "seconds")),
    "seconds of segments": ("/v1/audio/transcriptions", None, json_reply({"text": "hi", "duration": "8.47"}),
                            (8.47, "seconds")),
    "streamed seconds": ("/v1/audio/transcriptions", None, reply(TRANSCRIBED, headers=EVENTS), (12.5, "seconds")),
    "seconds of subtitles": ("/v1/audio/transcriptions", None, reply(SUBTITLES, headers=PLAIN), (3723.5, "seconds")),
    "seconds of short subtitles": ("/v1/audio/translations", None,
                                   reply(b"WEBVTT\n\n00:00.000 --> 00:09.250\nhi\n", headers=PLAIN), (9.25, "seconds")),
    "a text": ("/v1/audio/transcriptions", None, reply(b"hi --> there", headers=PLAIN), None),
    "a moderation": ("/v1/moderations", {"input": "x"}, json_reply(MODERATED), None),
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_the_log_has_what_is_not_counted_in_tokens(doors: DoorBed, name: str) -> None:
    path, body, script, expected = UNITS[name]
    model = doors.model()
    doors.a.on(model, script)

    answer = doors.call(path, {**body, "model": model}) if body else doors.upload(path, recording(model))

    record = doors.record_of(answer)
    assert answer.status == 200
    assert (record.get("units"), record.get("unit")) == (expected or (None, None))


def test_a_large_answer_passes_through_without_being_held(doors: DoorBed) -> None:
    model, gate = doors.model(), threading.Event()
    head, tail = b'{"created":1,"data":[{"b64_json":"' + b"A" * 2_000_000, b'"}],"usage":{"total_tokens":9}}'
    doors.a.on(model, chunked(head, WaitFor(gate), tail, headers={"Content-Type": "application/json"}))
    with doors.connect() as client:
        client.send(doors.request("/v1/images/generations", {"model": model, "prompt": "x"}))
        answer = client.read_head()
        assert answer.status == 200, "the first part is here while the upstream still holds the rest"
        gate.set()
        got = Answer(answer.status, answer.headers, b"".join(client.iter_body(answer)))

    assert got.body == head + tail
    assert doors.record_of(got)["prompt_tokens"] == 9


# Images in events


def test_events_pass_through_as_they_are(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, chunked(PARTIAL, COMPLETED, headers=EVENTS))

    got = doors.call("/v1/images/generations", {"model": model, "prompt": "x", "stream": True})

    assert (got.status, got.body) == (200, PARTIAL + COMPLETED)
    record = doors.record_of(got)
    assert (record["prompt_tokens"], record["completion_tokens"], record["stream"]) == (3, 5, True)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"type":"error","error":{"type":"server_error","message":"no"}}\n\n',
        b'event: error\ndata: {"type":"error","code":"rate_limit_exceeded","message":"slow"}\n\n',
        b': hello\n\ndata: {"error":{"message":"no"}}\n\n',
    ],
)
def test_an_error_in_place_of_the_first_event_is_not_seen(doors: DoorBed, event: bytes) -> None:
    model = doors.model()
    doors.a.on(model, chunked(event, headers=EVENTS))
    doors.b.on(model, chunked(PARTIAL, COMPLETED, headers=EVENTS))

    got = doors.call("/v1/images/generations", {"model": model, "prompt": "x", "stream": True})

    assert (got.body, got.header("x-gateway-deployment")) == (PARTIAL + COMPLETED, f"b/{model}")


@pytest.mark.parametrize("end", [[Close()], [Reset()], []], ids=["closed", "reset", "ended without its last event"])
@pytest.mark.parametrize("sent", [PARTIAL, PARTIAL + b"event: ima"], ids=["between events", "within one"])
def test_events_that_are_cut_end_with_an_error(doors: DoorBed, sent: bytes, end: list[Action]) -> None:
    model, gate = doors.model("cut"), threading.Event()
    doors.a.on(model, chunked(sent, WaitFor(gate), *end, headers=EVENTS))
    with doors.connect() as client:
        client.send(doors.request("/v1/images/generations", {"model": model, "prompt": "x", "stream": True}))
        head = client.read_head()
        gate.set()
        body = b"".join(client.iter_body(head))

    assert body.startswith(sent)
    last = body.rstrip().rpartition(b"\n\n")[2]
    assert last.startswith(b'data: {"error":')
    assert b"[DONE]" not in body


def test_silence_between_events_is_filled_and_silence_within_one_is_not() -> None:
    with running_doors(server={"heartbeat_s": 0.1}) as doors:
        model, gate = doors.model(), threading.Event()
        doors.a.on(model, chunked(PARTIAL, WaitFor(gate), COMPLETED, headers=EVENTS))
        with doors.connect() as client:
            client.send(doors.request("/v1/images/generations", {"model": model, "prompt": "x", "stream": True}))
            events = client.iter_events(client.read_head())
            first, second = next(events), next(events)
            gate.set()
            rest = list(events)

        assert first.startswith("event: image_generation.partial_image")
        assert second.startswith(":")
        assert rest[-1].startswith("event: image_generation.completed")


# Speech


def test_sound_passes_through(doors: DoorBed, client: openai.OpenAI) -> None:
    model = doors.model()
    more = {**MP3, "Content-Disposition": "attachment; filename=a.mp3", "X-Secret": "no"}
    doors.a.on(model, chunked(SOUND[:5000], SOUND[5000:], headers=more))

    got = client.audio.speech.with_raw_response.create(model=model, voice="alloy", input="hello")

    assert got.content == SOUND
    assert got.headers["content-type"] == "audio/mpeg"
    assert got.headers["content-disposition"] == "attachment; filename=a.mp3"
    assert "x-secret" not in got.headers


@pytest.mark.parametrize(
    "fault",
    [
        error(500),
        json_reply({"error": {"message": "no", "type": "server_error"}}),
        json_reply({"text": "this is no sound"}),
        reply(b"<!doctype html>", headers={"Content-Type": "audio/mpeg"}),
        reply(b"", headers=MP3),
        [Reset()],
    ],
    ids=["500", "an error with 200", "an object", "a page", "nothing", "reset"],
)
def test_what_is_no_sound_is_had_elsewhere(doors: DoorBed, fault: Script) -> None:
    model = doors.model("sound")
    doors.a.on(model, fault)
    doors.b.on(model, reply(SOUND, headers=MP3))

    got = doors.call("/v1/audio/speech", {"model": model, "input": "x", "voice": "v"})

    assert (got.status, got.body) == (200, SOUND)


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
def test_sound_that_is_cut_has_no_clean_end(doors: DoorBed, end: Action) -> None:
    model, gate = doors.model("cutsound"), threading.Event()
    doors.a.on(model, chunked(SOUND, WaitFor(gate), end, headers=MP3))
    with doors.connect() as client:
        client.send(doors.request("/v1/audio/speech", {"model": model, "input": "x", "voice": "v"}))
        head = client.read_head()
        assert head.status == 200
        gate.set()
        with pytest.raises((EOFError, ConnectionResetError)):
            b"".join(client.iter_body(head))
    assert doors.record_of(Answer(head.status, head.headers, b""))["error"]


def test_what_is_paid_for_is_not_asked_for_twice_when_it_is_late() -> None:
    for after_send, asked in ((False, {"a": 1}), (True, {"a": 1, "b": 1})):
        with running_doors({"timeouts": {"first_event_s": 1.0}}, retry={"after_send": after_send}) as doors:
            model = doors.model()
            doors.a.on(model, [Hang()])
            doors.b.on(model, reply(SOUND, headers=MP3))

            got = doors.call("/v1/audio/speech", {"model": model, "input": "x", "voice": "v"})

            assert got.status == (200 if after_send else 504)
            assert doors.asked(model) == asked


def test_what_is_not_paid_for_each_time_is_asked_for_again_when_it_is_late() -> None:
    with running_doors({"timeouts": {"first_event_s": 1.0}}) as doors:
        model = doors.model()
        doors.a.on(model, [Hang()])
        doors.b.on(model, json_reply(MODERATED))

        assert doors.call("/v1/moderations", {"model": model, "input": "x"}).json == MODERATED


def test_a_client_that_leaves_closes_the_upstream(doors: DoorBed) -> None:
    model, gate = doors.model(), threading.Event()
    doors.a.on(model, chunked(SOUND, WaitFor(gate), SOUND, headers=MP3))
    with doors.connect() as client:
        client.send(doors.request("/v1/audio/speech", {"model": model, "input": "x", "voice": "v"}))
        client.read_head()
    closed = doors.last(model).closes_within(3)
    gate.set()

    assert closed


# Forms


@pytest.mark.parametrize("door", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"])
@pytest.mark.parametrize("size", [10, 3_000_000], ids=["small", "large"])
def test_119_a_form_keeps_its_bytes_and_goes_elsewhere_with_all_of_them(doors: DoorBed, door: str, size: int) -> None:
    model = doors.model("form")
    audio = (b"\x00\xff\r\n--xY" * size)[:size]
    answer = IMAGES if "images" in door else {"text": "hello", "task": "transcribe"}
    doors.a.on(model, error(503))
    doors.b.on(model, json_reply(answer))
    sent = recording(model, audio)

    got = doors.upload(door, sent)

    assert (got.status, got.json) == (200, answer)
    first, second = doors.a.requests[-1], doors.b.requests[-1]
    assert (first.path, second.path) == (door, door)
    assert first.body == second.body == sent
    assert second.headers.first("content-type") == "multipart/form-data; boundary=xYz"


def test_119_only_the_model_is_replaced() -> None:
    with running_doors(
        model_groups={"alias-of-another-length": {"targets": ["a/any-0", "b/any-1"], "strategy": "ordered"}}
    ) as doors:
        doors.a.on("any-0", error(500))
        doors.b.on("any-1", json_reply({"text": "hello"}))
        sent = recording("alias-of-another-length")

        assert doors.upload("/v1/audio/transcriptions", sent).status == 200

        assert doors.a.requests[-1].body == sent.replace(b"alias-of-another-length", b"any-0")
        assert doors.b.requests[-1].body == sent.replace(b"alias-of-another-length", b"any-1")


def test_the_official_client_transcribes(doors: DoorBed, client: openai.OpenAI) -> None:
    model = doors.model()
    doors.a.on(model, json_reply({"text": "hello", "usage": {"type": "duration", "seconds": 3}}))

    answer = client.audio.transcriptions.create(
        model=model, file=("a.mp3", SOUND), timestamp_granularities=["word", "segment"], response_format="json"
    )

    assert answer.text == "hello"
    assert doors.last(model).body.count(b'name="timestamp_granularities[]"') == 2
    assert SOUND in doors.last(model).body


def test_the_official_client_edits_images(doors: DoorBed, client: openai.OpenAI) -> None:
    model = doors.model()
    doors.a.on(model, json_reply(IMAGES))

    answer = client.images.edit(model=model, image=[("a.png", b"png-a"), ("b.png", b"png-b")], prompt="a hat")

    assert answer.data is not None
    assert answer.data[0].b64_json == "AAAA"
    assert doors.last(model).body.count(b'name="image[]"') == 2


@pytest.mark.parametrize("label", ["text/plain; charset=utf-8", "text/vtt", "application/x-subrip"])
def test_words_may_come_as_text(doors: DoorBed, label: str) -> None:
    model = doors.model()
    doors.a.on(model, reply(b"[music] hello\n", headers={"Content-Type": label}))

    got = doors.upload("/v1/audio/transcriptions", recording(model))

    assert (got.status, got.body, got.header("content-type")) == (200, b"[music] hello\n", label)


def test_words_may_come_as_events(doors: DoorBed) -> None:
    model = doors.model()
    events = b'data: {"type":"transcript.text.delta","delta":"he"}\n\n', b'data: {"type":"transcript.text.done"}\n\n'
    doors.a.on(model, chunked(*events, headers=EVENTS))

    got = doors.upload("/v1/audio/transcriptions", recording(model))

    assert got.body == b"".join(events)


def chunks_of(body: bytes) -> bytes:
    """A body in the chunked coding, in pieces that cut the marks of a form."""
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


def test_a_form_may_come_in_chunks(doors: DoorBed) -> None:
    model = doors.model()
    doors.a.on(model, json_reply({"text": "hello"}))
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY + "\r\n"
        "Content-Type: multipart/form-data; boundary=xYz\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    got = doors.send(head.encode() + chunks_of(recording(model)))

    assert got.status == 200
    assert doors.last(model).body == recording(model)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (form(("file", b"x", "a")), "multipart/form-data; boundary=xYz", 400),
        (form(("model", b"")), "multipart/form-data; boundary=xYz", 400),
        (form(("model", b"a"), ("model", b"b")), "multipart/form-data; boundary=xYz", 400),
        (form(("model", b"any-0"))[:-6], "multipart/form-data; boundary=xYz", 400),
        (form(("model", b"any-0")), "multipart/form-data", 400),
        (b"", "multipart/form-data; boundary=xYz", 400),
        (b'{"model":"any-0"}', "application/json", 415),
        (b"model=any-0", "application/x-www-form-urlencoded", 415),
        (form(("model", b"nothing-of-this-name")), "multipart/form-data; boundary=xYz", 404),
        (form(("model", b"talk-0")), "multipart/form-data; boundary=xYz", 400),
    ],
)
def test_what_is_no_form_for_this_door(doors: DoorBed, data: bytes, kind: str, status: int) -> None:
    before = len(doors.a.requests)

    got = doors.upload("/v1/audio/transcriptions", data, headers=[("Content-Type", kind)])

    assert got.status == status, got.body
    assert got.error["message"]
    assert len(doors.a.requests) == before


@pytest.mark.parametrize("announced", [True, False])
def test_a_form_that_is_too_large_is_refused(announced: bool) -> None:
    with running_doors(server={"max_upload_bytes": 2_000_000}) as doors:
        data = recording("any-0", b"x" * 2_000_000)
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        head += "Content-Type: multipart/form-data; boundary=xYz\r\n"
        coded = f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"
        length = f"Content-Length: {len(data)}\r\n\r\n" if announced else "Transfer-Encoding: chunked\r\n\r\n"

        got = doors.send((head + length).encode() + (data if announced else coded))

        assert (got.status, got.error["code"]) == (413, "request_too_large")
        assert "max_upload_bytes" in got.error["message"]
        assert doors.a.requests == []


def test_a_form_without_a_key_is_not_read(doors: DoorBed) -> None:
    got = doors.upload("/v1/audio/transcriptions", recording("any-0"), headers=[("Authorization", "Bearer wrong")])

    assert got.status == 401


def test_limits_count_forms_as_requests_and_not_by_their_size() -> None:
    with running_doors(rate_limit={"requests_per_minute": 2, "tokens_per_minute": 1000}) as doors:
        doors.a.on("any-0", json_reply({"text": "hello"}))

        statuses = [
            doors.upload("/v1/audio/transcriptions", recording("any-0", b"x" * 100_000)).status for _ in range(3)
        ]

        assert statuses == [200, 200, 429]


# Other servers


def test_a_plain_wsgi_server_has_the_same_doors() -> None:
    with running_doors(worker="gthread") as doors:
        model = doors.model()
        sent = recording(model, SOUND * 300)
        doors.a.on(model, error(503))
        doors.b.on(model, json_reply({"text": "hello"}))

        assert doors.upload("/v1/audio/transcriptions", sent).json == {"text": "hello"}
        assert doors.b.requests[-1].body == sent

        doors.a.on(model, chunked(SOUND, SOUND, headers=MP3))
        assert doors.call("/v1/audio/speech", {"model": model, "input": "x"}).body == SOUND + SOUND

        doors.a.on(model, chunked(SOUND, Close(), headers=MP3))
        with pytest.raises((EOFError, ConnectionResetError)):
            doors.call("/v1/audio/speech", {"model": model, "input": "x"})


def test_a_process_that_ends_does_not_end_sound_cleanly() -> None:
    with running_doors(server={"drain_s": 1}) as doors:
        model, gate = doors.model(), threading.Event()
        doors.a.on(model, chunked(SOUND, WaitFor(gate), SOUND, headers=MP3))
        with doors.connect() as client:
            client.send(doors.request("/v1/audio/speech", {"model": model, "input": "x"}))
            head = client.read_head()
            doors.gateway.terminate()
            with pytest.raises((EOFError, ConnectionResetError)):
                b"".join(client.iter_body(head))
        gate.set()
        doors.gateway.wait()
        assert '"level":"error"' not in doors.gateway.log
