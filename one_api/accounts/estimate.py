"""How many tokens a request may take, before they are counted, and how many a cut answer took. Pure."""

from collections.abc import Iterator
from operator import add
from typing import Any, NamedTuple, get_args

from one_api.contract import Call, JSONObject, Kind, Modalities, Modality, ModalityUsage, Units, Usage
from one_api.dialects.openai.passthrough import PassthroughRequest, units_asked

#: UTF-8 bytes of a token: English has about four, Chinese three.
_BYTES_PER_TOKEN = 3
#: Hardly any text has more in a token, on average.
_MAX_BYTES_PER_TOKEN = 8
#: What an image takes, whatever its size; its base64 would count as a thousand times as much.
_IMAGE_TOKENS = 1600
_IMAGE = "data:image/"
#: What stands for a recording or a video of which only the address is known.
_MEDIA_TOKENS = 1600
_ADDRESSES = ("http://", "https://", "gs://", "oss://")
#: For the frame of each message, part and tool.
_OBJECT_TOKENS = 2
#: Of a recording or a video, and of a form, which holds one or a picture: so many bytes make a token.
_FORM_BYTES_PER_TOKEN = 256
#: Of what a model says aloud in a stream: 24,000 samples of two bytes a second, in base64, are 20 tokens.
_SOUND_PER_TOKEN = 3200
#: Base64 has so many characters for three bytes.
_BASE64 = 4
#: Types of the parts of a message that are not text.
_PARTS: dict[str, Modality] = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "input_video": "video",
    "video": "video",
}
#: What else such a part holds.
_BESIDE_MEDIA = ("type", "text", "cache_control")
#: What is paid for by the length of a recording, and how many bytes of it take a second: 32 kbit/s.
_RECORDED: frozenset[Kind] = frozenset({"transcription", "translation"})
_BYTES_PER_SECOND = 4000
#: What is paid for its input alone.
_WITHOUT_OUTPUT: frozenset[Kind] = frozenset({"embedding", "moderation", "rerank"})
_MODALITIES: tuple[Modality, ...] = get_args(Modality)
_DRAWN: frozenset[Modality] = frozenset(("image",))
#: What nearly every chat may hold and be answered with, beside text.
_TEXT = Modalities(completion=_DRAWN)
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TIMES = ("n", "best_of")
_MAX_TIMES = 128
#: The fields of an event, in any dialect, that hold what a model has written or spoken.
_OUTPUT_FIELDS = ("delta", "choices", "text")
#: The type of an event that holds a text as a whole whose parts were events of their own.
_REPEATS = ".done"


class Bound(NamedTuple):
    """What a request takes at most, as far as can be seen from outside; in tokens, but for its ``units``."""

    prompt: int
    completion: int
    #: The client has set how many tokens its answer may have: the upstream counts them.
    is_limited: bool = False
    units: Units | None = None
    #: What its tokens may be beside text.
    modalities: Modalities = Modalities()
    #: They are nothing else, where a modality is named.
    has_no_text: bool = False


class Estimate(NamedTuple):
    """What an answer is taken to have taken."""

    usage: Usage
    units: Units | None


class Output(NamedTuple):
    """What a model has written, spoken and drawn so far."""

    #: Of its texts.
    size: int = 0
    #: How many pieces of text came.
    pieces: int = 0
    #: Tokens of audio, and of images.
    audio: int = 0
    image: int = 0

    def plus(self, other: "Output") -> "Output":
        """Return what both are together."""
        return Output(*map(add, self, other))

    def tokens(self, bound: Bound) -> int:
        """Return how many tokens that is, to compare with ``bound``.

        Where the upstream counts, it is only so many as there must be: an answer within its limit is never beyond it.
        """
        if bound.is_limited:
            return max(self.pieces, self.size // _MAX_BYTES_PER_TOKEN + self.audio + self.image)
        return -(-self.size // _BYTES_PER_TOKEN) + self.audio + self.image


def bound_of(call: Call, reserve_tokens: int) -> Bound:
    """Return what a request may take; ``reserve_tokens`` stand for an answer without a limit."""
    body = getattr(call, "body", None)
    fields = body if isinstance(body, dict) else getattr(body, "fields", None)
    units, modalities, has_no_text = None, Modalities(), False
    if isinstance(call, PassthroughRequest):
        units, modalities, has_no_text = units_asked(call), call.door.modalities, True
    elif isinstance(body, dict):
        modalities = _modalities_of(body)
    if not isinstance(fields, dict):  # a form
        size = getattr(body, "size", 0)
        if call.kind in _RECORDED:
            units = Units(-(-size // _BYTES_PER_SECOND), "seconds")
        prompt = _IMAGE_TOKENS + size // _FORM_BYTES_PER_TOKEN
        return Bound(prompt, reserve_tokens, False, units, modalities, has_no_text)
    prompt = -(-size_of(fields) // _BYTES_PER_TOKEN)
    if call.kind in _WITHOUT_OUTPUT:
        return Bound(prompt, 0, False, units, modalities, has_no_text)
    limit, times = _largest(fields, _LIMITS), _largest(fields, _TIMES) or 1
    completion = (limit or reserve_tokens) * min(times, _MAX_TIMES)
    return Bound(prompt, completion, limit > 0, units, modalities, has_no_text)


def _largest(fields: JSONObject, names: tuple[str, ...]) -> int:
    """Return the largest count that a field of these names holds; 0 where none does."""
    largest = 0
    for name in names:
        if name in fields and type(value := fields[name]) is int and largest < value < 2**31:
            largest = value
    return largest


def _modalities_of(fields: JSONObject) -> Modalities:
    """Return what a chat holds beside text, and what its answer may; some models draw without being asked to."""
    messages, asked = fields.get("messages"), fields.get("modalities")
    found: set[Modality] = set()
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or (len(message) == 2 and isinstance(message.get("content"), str)):
            continue  # as nearly always, a role and a text
        if message.get("audio"):  # what was said before, by its id
            found.add("audio")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and (modality := _PARTS.get(str(part.get("type")))) is not None:
                found.add(modality)
    if not found and not isinstance(asked, list):
        return _TEXT
    output = _DRAWN if not isinstance(asked, list) else frozenset(each for each in _MODALITIES if each in asked)
    return Modalities(frozenset(found), output)


def size_of(value: Any) -> int:
    """Return the bytes of all texts in a JSON value, those of keys included.

    An image, a recording and a video count as what they take.
    """
    total, rest = 0, [value]
    for each in rest:  # which grows meanwhile
        kind = type(each)
        if kind is str:
            if each.startswith(_IMAGE):
                total += _IMAGE_TOKENS * _BYTES_PER_TOKEN
            else:
                total += len(each) if each.isascii() else len(each.encode())
        elif kind is dict:
            total += _OBJECT_TOKENS * _BYTES_PER_TOKEN + len("".join(each))
            if "type" in each and type(part := each["type"]) is str and part in _PARTS:
                total += _media_tokens(each, _PARTS[part]) * _BYTES_PER_TOKEN
                each = {name: each[name] for name in _BESIDE_MEDIA if name in each}
            rest += each.values()
        elif kind is list:
            if each and type(each[0]) is int:
                total += _BYTES_PER_TOKEN * len(each)  # the ids of tokens
            else:
                rest += each
    return total


def _media_tokens(part: JSONObject, modality: Modality) -> int:
    """Return what the image, recording or video in a part of a message takes, given in base64 or by its address."""
    if modality == "image":
        return _IMAGE_TOKENS
    held = [part[name] for name in part if name not in _BESIDE_MEDIA]
    texts = [each for each in _leaves(held) if isinstance(each, str)]
    size = sum(len(each) for each in texts if not each.startswith(_ADDRESSES))
    known = -(-size * 3 // (_BASE64 * _FORM_BYTES_PER_TOKEN))
    return known + _MEDIA_TOKENS * sum(each.startswith(_ADDRESSES) for each in texts)


def output_in(items: list[JSONObject]) -> Output:
    """Return the output of a model in chunks, events or a whole answer."""
    output = Output()
    for each in items:
        if not str(each.get("type", "")).endswith(_REPEATS):
            size, audio, image = _sizes([each[name] for name in _OUTPUT_FIELDS if name in each])
            if size or audio or image:
                output = Output(output.size + size, output.pieces + 1, output.audio + audio, output.image + image)
    return output


def _sizes(value: Any) -> tuple[int, int, int]:
    """Return the bytes of all texts in a value, without its keys, and its tokens of audio and of images."""
    size = audio = image = 0
    for each in _leaves(value):
        if isinstance(each, int):
            audio += each
        elif each.startswith(_IMAGE):
            image += _IMAGE_TOKENS
        else:
            size += len(each) if each.isascii() else len(each.encode())
    return size, audio, image


def _leaves(value: Any) -> Iterator[str | int]:
    """Give the texts in a value; of sound how many tokens it is."""
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            sound = each.get("audio")
            if isinstance(sound, dict) and isinstance(data := sound.get("data"), str):
                yield -(-len(data) // _SOUND_PER_TOKEN)
                each = each | {"audio": sound | {"data": ""}}
            rest += [inner for name, inner in each.items() if name not in ("role", "type", "id", "finish_reason")]
        elif isinstance(each, list):
            rest += each


def estimated(bound: Bound, output: Output | None) -> Estimate:
    """Return what an uncounted answer took; ``output`` is None where nothing is known of it."""
    if output is not None:
        audio, image = (ModalityUsage(completion_tokens=each) for each in (output.audio, output.image))
        tokens = output.tokens(bound._replace(is_limited=False))
        usage = Usage(bound.prompt, tokens, audio=audio, image=image)
        return Estimate(usage, bound.units)
    usage = Usage(bound.prompt, bound.completion)
    if bound.has_no_text:
        audio, image, video = (_part(usage, bound.modalities, each) for each in _MODALITIES)
        usage = Usage(bound.prompt, bound.completion, audio=audio, image=image, video=video)
    return Estimate(usage, bound.units)


def _part(usage: Usage, modalities: Modalities, modality: Modality) -> ModalityUsage:
    return ModalityUsage(
        usage.prompt_tokens * (modality in modalities.prompt),
        usage.completion_tokens * (modality in modalities.completion),
    )
