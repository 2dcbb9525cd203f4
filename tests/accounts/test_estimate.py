"""What a request may take at most, before any upstream has counted it."""

import base64
from typing import Any

import pytest

from one_api.accounts.estimate import size_of

#: An image of 300,000 bytes, and a recording of 25,600, in base64.
IMAGE, SOUND = (base64.b64encode(bytes(size)).decode() for size in (300_000, 25_600))
ADDRESS = "https://example.org/file"


def tokens_of(part: dict[str, Any]) -> int:
    """Return what a part of a message counts beside its frame."""
    return (size_of([part]) - size_of([dict.fromkeys(part, "")])) // 3


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
        {"type": "image_url", "image_url": {"url": ADDRESS}},
        {"type": "image_url", "image_url": ADDRESS},
        {"type": "input_image", "image_url": ADDRESS},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
        {"type": "image", "source": {"type": "url", "url": ADDRESS}},
    ],
)
def test_an_image_counts_the_same_however_it_is_given(part: dict[str, Any]) -> None:
    assert 1600 <= tokens_of(part) < 1610


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}, 100),
        ({"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{SOUND}"}}, 100),
        ({"type": "video", "video": [f"data:image/jpeg;base64,{SOUND}"] * 4}, 400),
        ({"type": "audio_url", "audio_url": {"url": ADDRESS}}, 1600),
        ({"type": "video", "video": [ADDRESS] * 4}, 6400),
    ],
)
def test_a_recording_counts_by_its_bytes_and_one_of_which_only_the_address_is_known_as_an_image(
    part: dict[str, Any], tokens: int
) -> None:
    assert tokens <= tokens_of(part) < tokens + 10


def test_a_text_beside_an_image_counts() -> None:
    part = {"type": "image_url", "image_url": {"url": ADDRESS}}

    assert tokens_of(part | {"text": "a" * 300}) - tokens_of(part) == 100
