"""What upstreams say of an error is passed on without what looks like a key, and not at any length."""

import pytest

from tests.support import Flood, Send, error, error_body, event, text_chunks

from .bed import Bed

LEAKS = [
    "Incorrect API key provided: sk-proj-abcDEF0123456789****wxyz.",
    "key sk-ant-api03-abcdefghijklmnop is not valid",
    "header was Bearer abc.def-ghi_jkl",
    "used gsk_abcdef0123456789, xai-abcdef0123456789 and AIzaSyA0123456789abcdef",
]
SECRETS = ["abcDEF0123456789", "api03", "abc.def-ghi_jkl", "abcdef0123456789", "SyA0123456789abcdef"]


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("status", [400, 422, 429, 503])
def test_what_looks_like_a_key_is_cut_out(bed: Bed, leak: str, status: int, stream: bool) -> None:
    model = bed.model()
    bed.a.on(model, error(status, error_body(leak)))

    answer = bed.ask(model, stream=stream)

    assert answer.status == (502 if status < 429 and "Incorrect API key" in leak else status)
    assert "[removed]" in answer.error["message"]
    assert not [secret for secret in SECRETS if secret in answer.error["message"]]


@pytest.mark.parametrize("leak", LEAKS)
def test_what_looks_like_a_key_is_cut_out_of_a_report_in_a_stream(bed: Bed, leak: str) -> None:
    payload = error_body(leak, "invalid_request_error")

    answer = bed.stream_in_two_parts(text_chunks("one", finish=None), [event(payload)])

    assert answer.stream_error is not None
    assert not [secret for secret in SECRETS if secret in answer.stream_error["message"]]


@pytest.mark.parametrize(
    "text", ["the keyboard_layout and keyword_arguments", "a skeleton of sketches", "keys: skipping, risks, pkcs"]
)
def test_ordinary_words_stay(bed: Bed, text: str) -> None:
    model = bed.model()
    bed.a.on(model, error(400, error_body(text)))

    assert bed.ask(model).error["message"] == text


def test_a_long_message_is_cut(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, error(400, error_body("x" * 50_000)))

    assert bed.ask(model).error["message"] == "x" * 500


def test_an_endless_message_is_not_read(bed: Bed) -> None:
    model = bed.model()
    bed.a.on(model, [Send(b"HTTP/1.1 422 No\r\n\r\n"), Flood(10**9)])

    answer = bed.ask(model)

    assert (answer.status, answer.error["type"]) == (422, "invalid_request_error")
    assert bed.last(model).closes_within(2)
