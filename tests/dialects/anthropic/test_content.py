"""Content parts become blocks: what a file or an image is, its bytes say."""

import base64
from typing import Any
from urllib.parse import quote

import pytest

from one_api.dialects.anthropic.models import ModelTraits, traits_of
from one_api.dialects.anthropic.request import RequestOptions, translate
from one_api.errors import InvalidRequest
from tests.dialects.anthropic.samples import HI, assistant, refusal, sent, system, text, turns, user

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(251, 256)) * 7
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 20
GIF = b"GIF89a" + b"x" * 20
WEBP = b"RIFF\x01\x02\x03\x04WEBPVP8 "
PDF = b"%PDF-1.7\n..."


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def block(part: Any) -> Any:
    """The block that a part of a user message becomes."""
    return turns(user([part]))[0]["content"][0]


def image(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


def inline(media_type: str, data: bytes) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": b64(data)}}


@pytest.mark.parametrize(
    ("data", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_the_type_of_an_image_is_read_from_its_bytes(data: bytes, media_type: str) -> None:
    assert block(image(f"data:image/jpg;charset=x;base64,{b64(data)}")) == inline(media_type, data)


@pytest.mark.parametrize(
    "uri",
    [
        f"DATA:IMAGE/PNG;BASE64,{b64(PNG)}",
        f"data:;base64,{b64(PNG)}",
        f" data:image/png; base64 ,{b64(PNG)}",
        f"data:image/png;base64,{b64(PNG).rstrip('=')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(PNG).decode()}",
        f"data:image/png;base64,{b64(PNG)[:10]}\r\n {b64(PNG)[10:]}",
        f"data:image/png;base64,{quote(b64(PNG), safe='')}",
        f"data:image/png,{quote(PNG)}",
        f"data:image/png;a=b;base64;c=d,{b64(PNG)}",
    ],
)
def test_a_data_uri_is_read_in_all_its_forms(uri: str) -> None:
    assert block(image(uri)) == inline("image/png", PNG)


def test_a_bare_string_is_an_image_too_and_detail_is_ignored() -> None:
    uri = f"data:image/png;base64,{b64(PNG)}"

    assert block({"type": "image_url", "image_url": uri}) == block(image(uri, detail="high"))
    assert refusal(user([{"type": "image_url", "image_url": "x"}]))[0] == "messages[0].content[0].image_url"


def test_an_https_image_is_the_upstreams_to_fetch() -> None:
    for url in ("https://x.example/a.png", "HTTPS://x.example/a.png"):
        assert block(image(url)) == {"type": "image", "source": {"type": "url", "url": url}}


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://x.example/a.png", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("/etc/passwd", "invalid_image_url"),
        ("ftp://x.example/a", "invalid_image_url"),
        ("", "invalid_image_url"),
        (f"data:image/svg+xml;base64,{b64(b'<svg/>')}", "invalid_image_format"),
        (f"data:image/png;base64,{b64(b'BM....')}", "invalid_image_format"),
        ("data:image/png,", "invalid_image_format"),
        ("data:image/png;base64,", "invalid_base64"),
        ("data:image/png;base64,a", "invalid_base64"),
        ("data:image/png;base64,*!ä", "invalid_base64"),
        ("data:image/png;base64", "invalid_base64"),
        (5, "invalid_type"),
        (None, "invalid_type"),
    ],
)
def test_an_image_that_cannot_be_sent_is_refused(url: Any, code: str) -> None:
    assert refusal(user([text("A"), image(url)])) == ("messages[0].content[1].image_url.url", code)


def test_a_pdf_is_a_document_with_its_name() -> None:
    for data in (f"data:application/pdf;base64,{b64(PDF)}", b64(PDF), f"data:text/plain;base64,{b64(PDF)}"):
        assert block(file(file_data=data, filename="a.pdf")) == {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": b64(PDF)},
            "title": "a.pdf",
        }


def test_a_text_file_is_a_document_of_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Grüße"}

    for uri in (f"data:text/markdown;base64,{b64('Grüße'.encode())}", "data:text/plain,Gr%C3%BC%C3%9Fe"):
        assert block(file(file_data=uri)) == {"type": "document", "source": source}


def test_a_file_that_the_operator_has_stored() -> None:
    part = file(file_id="file-1", filename="a.pdf")

    (turn,) = turns(user([part]), options={"file_ids": {"file-1": "file_011C"}})

    assert turn["content"] == [
        {"type": "document", "source": {"type": "file", "file_id": "file_011C"}, "title": "a.pdf"}
    ]
    unknown = refusal(user([file(file_id="file_011C")]), options={"file_ids": {"file-1": "file_011C"}})
    assert unknown == ("messages[0].content[0].file.file_id", "unsupported_parameter")


@pytest.mark.parametrize(
    ("given", "place", "code"),
    [
        ({"file_id": "file-1"}, "file_id", "unsupported_parameter"),
        ({"file_id": ["file-1"]}, "file_id", "invalid_type"),
        ({}, "file_data", "invalid_type"),
        ({"file_data": 5}, "file_data", "invalid_type"),
        ({"file_data": b64(b"PK\x03\x04")}, "file_data", "unsupported_content_part"),
        ({"file_data": f"data:application/pdf;base64,{b64(b'nope')}"}, "file_data", "unsupported_content_part"),
        ({"file_data": f"data:image/png;base64,{b64(PNG)}"}, "file_data", "unsupported_content_part"),
        ({"file_data": f"data:text/plain;base64,{b64(PNG)}"}, "file_data", "unsupported_content_part"),
        ({"file_data": "data:text/plain,%20"}, "file_data", "unsupported_content_part"),
        ({"file_data": "!"}, "file_data", "invalid_base64"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(given: Any, place: str, code: str) -> None:
    assert refusal(user([file(**given)])) == (f"messages[0].content[0].file.{place}", code)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (user([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]), "unsupported_content_part"),
        (user([{"type": "video_url", "video_url": {"url": "x"}}]), "invalid_value"),
        (user([{"type": "hologram"}]), "invalid_value"),
        (user([{"text": "no type"}]), "invalid_value"),
        (user([{"type": ["text"]}]), "invalid_value"),
        (user([{"type": "refusal", "refusal": "x"}]), "invalid_value"),
        (system([image("https://x.example/a.png")]), "invalid_value"),
        (assistant([image("https://x.example/a.png")]), "invalid_value"),
    ],
)
def test_other_parts_are_refused(message: Any, code: str) -> None:
    assert refusal(message, HI) == ("messages[0].content[0].type", code)


def test_a_part_must_be_an_object_and_its_text_a_string() -> None:
    assert refusal(user(["A"])) == ("messages[0].content[0]", "invalid_type")
    assert refusal(user([{"type": "text", "text": None}])) == ("messages[0].content[0].text", "invalid_type")
    assert refusal(user([{"type": "file", "file": "x"}])) == ("messages[0].content[0].file", "invalid_type")


def test_a_signed_thinking_part_is_sent_back_and_another_ignored() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}

    found = turns(HI, assistant([signed, {"type": "thinking", "thinking": "unsigned"}, text("A")]), HI)

    assert found[1]["content"] == [signed, text("A")]


@pytest.mark.parametrize(
    ("traits", "part"),
    [
        (ModelTraits(64_000, 9, image_input=False), image("https://x.example/a.png")),
        (ModelTraits(64_000, 9, pdf_input=False), file(file_data=b64(PDF))),
    ],
)
def test_a_model_that_cannot_see_is_sent_nothing_to_see(traits: ModelTraits, part: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate({"model": "m", "messages": [user([part])]}, traits, RequestOptions())

    assert caught.value.code == "unsupported_content_part"


def test_the_base64_of_a_plain_uri_is_passed_on_as_it_is() -> None:
    data = b64(PNG * 1000)

    found = sent(user([image(f"data:image/png;base64,{data}")]))["messages"][0]["content"][0]

    assert found["source"]["data"] == data
    assert traits_of("claude-opus-5").image_input
