"""What a model may be asked for, read from whatever a server's model list says."""

from typing import Any

import pytest

from one_api.dialects.openai.kinds import kinds_in


@pytest.mark.parametrize(
    ("entry", "kinds"),
    [
        ({"type": "embedding"}, ("embedding",)),
        ({"type": "embeddings"}, ("embedding",)),
        ({"type": "llm"}, ("chat", "completion")),
        ({"type": "chat"}, ("chat",)),
        ({"mode": "audio_transcription"}, ("transcription",)),
        ({"task": "feature-extraction"}, ("embedding",)),
        ({"capabilities": {"completion_chat": True, "completion_fim": False, "vision": True}}, ("chat",)),
        ({"capabilities": ["embed", "rerank"]}, ("embedding", "rerank")),
        ({"architecture": {"output_modalities": ["embeddings"]}}, ("embedding",)),
        ({"kinds": ["chat", "embedding", "other"], "type": "image"}, ("chat", "embedding")),
        ({"type": "model"}, None),
        ({"object": "model"}, None),
        ({"type": 7, "capabilities": {"limits": {}}, "task": None}, None),
    ],
)
def test_the_words_of_an_entry(entry: dict[str, Any], kinds: tuple[str, ...] | None) -> None:
    assert kinds_in({"id": "some-model", **entry}) == kinds


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("text-embedding-3-small", ("embedding",)),
        ("whisper-1", ("transcription", "translation")),
        ("gpt-4o-mini-tts", ("speech",)),
        ("gpt-image-1", ("image",)),
        ("omni-moderation-latest", ("moderation",)),
        ("gpt-5", None),
        ("my-text-embedding-3", None),
    ],
)
def test_openais_own_names(name: str, kinds: tuple[str, ...] | None) -> None:
    assert kinds_in({"id": name}) == kinds


def test_words_come_before_names() -> None:
    assert kinds_in({"id": "whisper-1", "type": "chat"}) == ("chat",)
