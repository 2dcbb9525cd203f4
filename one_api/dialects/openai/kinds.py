"""What a model may be asked for, as far as an entry of a model list or its name says."""

from collections.abc import Iterator
from typing import Any

from one_api.contract import DOORS, Kind
from one_api.dialects.json import JSONObject

#: Words that servers use for what a model does (Together, LM Studio, Mistral, LiteLLM, Ollama, Infinity, OpenRouter).
_WORDS: dict[str, tuple[Kind, ...]] = {
    "chat": ("chat",),
    "completion_chat": ("chat",),
    "llm": ("chat", "completion"),
    "vlm": ("chat", "completion"),
    "language": ("chat", "completion"),
    "text-generation": ("chat", "completion"),
    "completion": ("chat", "completion"),
    "completion_fim": ("completion",),
    "embed": ("embedding",),
    "embedding": ("embedding",),
    "embeddings": ("embedding",),
    "feature-extraction": ("embedding",),
    "moderation": ("moderation",),
    "image": ("image",),
    "image_generation": ("image",),
    "text-to-image": ("image",),
    "rerank": ("rerank",),
    "score": ("rerank",),
    "audio_transcription": ("transcription",),
    "transcription": ("transcription",),
    "transcribe": ("transcription",),
    "translation": ("translation",),
    "automatic-speech-recognition": ("transcription", "translation"),
    "audio_speech": ("speech",),
    "speech": ("speech",),
    "text-to-speech": ("speech",),
}
#: How OpenAI's own models begin that do not chat: its list says nothing of what they do.
_NAMES: dict[str, tuple[Kind, ...]] = {
    "text-embedding-": ("embedding",),
    "omni-moderation-": ("moderation",),
    "text-moderation-": ("moderation",),
    "dall-e-": ("image",),
    "gpt-image-": ("image",),
    "whisper-1": ("transcription", "translation"),
    "gpt-4o-transcribe": ("transcription",),
    "gpt-4o-mini-transcribe": ("transcription",),
    "tts-1": ("speech",),
    "gpt-4o-mini-tts": ("speech",),
    "babbage-002": ("completion",),
    "davinci-002": ("completion",),
    "gpt-3.5-turbo-instruct": ("completion",),
}
#: Fields that hold such words: one, several, or each with true or false.
_FIELDS = ("type", "task", "mode", "capabilities", "supported_tasks")


def kinds_in(entry: JSONObject) -> tuple[Kind, ...] | None:
    """Return what a model of this entry may be asked for, by its words, else by its name; None if neither says."""
    listed = entry.get("kinds")
    if isinstance(listed, list) and (ours := tuple(kind for kind in DOORS if kind in listed)):
        return ours  # it is a gateway like this one
    found = {kind for word in _words_in(entry) for kind in _WORDS.get(word.lower(), ())}
    if found:
        return tuple(kind for kind in DOORS if kind in found)
    name = str(entry.get("id"))
    return next((kinds for start, kinds in _NAMES.items() if name.startswith(start)), None)


def _words_in(entry: JSONObject) -> Iterator[str]:
    for name in _FIELDS:
        yield from _texts(entry.get(name))
    architecture = entry.get("architecture")
    if isinstance(architecture, dict) and "embeddings" in _texts(architecture.get("output_modalities")):
        yield "embeddings"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [name for name, holds in value.items() if holds is True]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
