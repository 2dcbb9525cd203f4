"""A whole answer of an OpenAI-compatible upstream, out of whatever bytes it came in: JSON, or events."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from one_api.dialects import json
from one_api.dialects.characters import all_whole
from one_api.dialects.frames import FramedReader, Item, chunks_of
from one_api.dialects.json_steps import Steps
from one_api.dialects.openai.assemble import Assembler
from one_api.dialects.openai.response import Identity, normalise
from one_api.dialects.openai.stream import OpenAIStream
from one_api.dialects.payloads import ErrorPayload, InvalidAnswer, RepairedObject, read_body
from one_api.dialects.sse import EventReader, EventTooLarge

#: How much of a body of events is read in one step, in bytes.
_STEP_BYTES = 8 * 1024
_BEGINS_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*[\[{"]')


def read_in_steps(
    data: bytes,
    identity: Identity,
    *,
    choices: int = 1,
    tools: Collection[str] = (),
    decoded: Any = None,
) -> Steps:
    """Return the completion that the body of an answer holds, in steps none of which takes long.

    See ``OpenAIStream`` for ``choices`` and ``tools``. ``decoded`` is the value of the body, if that has been decoded
    already: what is done with it is one step.

    Raises:
        ErrorPayload: when it reports an error.
        InvalidAnswer: when it holds no answer, or not all of one.
    """
    payload = read_body(data, decoded) if decoded is not None or _BEGINS_JSON.match(data) else None
    if payload is None:
        stream = OpenAIStream(identity, include_usage=True, choices=choices, tools=tools)
        return (yield from _assembled(_pieces_of(data, decoded), stream))
    answer = all_whole(payload) if isinstance(payload, RepairedObject) else payload
    return normalise(answer, identity, has_tools=bool(tools))


def _pieces_of(data: bytes, decoded: Any) -> Iterator[bytes]:
    """Give the body in pieces that are read in one step each; of a list that has been decoded, its items."""
    if isinstance(decoded, list):
        yield from (json.encode(each) + b"\n" for each in decoded)
        return
    yield from (data[start : start + _STEP_BYTES] for start in range(0, len(data), _STEP_BYTES))


def _assembled(pieces: Iterator[bytes], stream: OpenAIStream) -> Steps:
    """Return the completion that a body of events amounts to."""
    events, assembler = EventReader(), Assembler()
    reader, found = FramedReader(events, stream), list[Item]()
    try:
        for piece in pieces:
            reader.feed(piece, found)
            _add(assembler, found)
            yield
        reader.end(found)
    except EventTooLarge as error:
        raise InvalidAnswer(str(error)) from None
    except ErrorPayload:
        raise
    except InvalidAnswer:
        if not stream.is_complete:
            raise
    _add(assembler, found)
    if not events.blocks:
        raise InvalidAnswer("it is neither a JSON object nor an event stream")
    for chunk in stream.end():
        assembler.add(chunk)
    if not stream.finished:
        raise InvalidAnswer("its events stop before the answer is complete")
    return assembler.completion()


def _add(assembler: Assembler, found: list[Item]) -> None:
    """Add what has been found, and forget it."""
    for chunk in chunks_of(found):
        assembler.add(chunk)
    found.clear()
