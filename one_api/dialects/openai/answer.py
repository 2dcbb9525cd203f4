"""A whole answer of an OpenAI-compatible upstream, out of whatever bytes it came in: JSON, or events."""

from collections.abc import Collection
from typing import Any

from one_api.dialects.characters import all_whole
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import Identity, normalise
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer, RepairedObject, read_body
from one_api.dialects.sse import EventReader, EventTooLarge


def read_answer(
    data: bytes,
    identity: Identity,
    *,
    choices: int = 1,
    tools: Collection[str] = (),
    decoded: Any = None,
) -> JSONObject:
    """Return the completion that the body of an answer holds; see ``OpenAIStream`` for ``choices`` and ``tools``.

    ``decoded`` is the value of the body, if that has been decoded already.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it holds no answer, or not all of one.
    """
    payload = read_body(data, decoded)
    if payload is None:
        return _assembled(data, OpenAIStream(identity, include_usage=True, choices=choices, tools=tools))
    answer = all_whole(payload) if isinstance(payload, RepairedObject) else payload
    return normalise(answer, identity, has_tools=bool(tools))


def _assembled(data: bytes, stream: OpenAIStream) -> JSONObject:
    """Return the completion that a body of events amounts to."""
    reader, assembler = EventReader(), Assembler()
    try:
        events = [*reader.feed(data), *reader.end()]
    except EventTooLarge as error:
        raise InvalidAnswer(str(error)) from None
    if not events:
        raise InvalidAnswer("it is neither a JSON object nor an event stream")
    for event in events:
        try:
            chunks = stream.feed(event)
        except ErrorPayload:
            raise
        except InvalidAnswer:
            if not stream.is_complete:
                raise
            break
        for chunk in chunks:
            assembler.add(chunk)
    for chunk in stream.end():
        assembler.add(chunk)
    if not stream.finished:
        raise InvalidAnswer("its events stop before the answer is complete")
    return assembler.completion()
