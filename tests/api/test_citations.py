"""Sources that stand beside an answer, as Perplexity and xAI send them, at each door."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Script, completion, json_reply, sse, text_chunks

from .bed import Body, user
from .messages_bed import MessagesBed, message_events, running_messages_bed

TEXT = "Good[1] day[2][1]."
FOUND: Body = {
    "citations": ["https://a.x/1", "https://b.x/2", "https://c.x/3"],
    "search_results": [
        {"title": "A", "url": "https://a.x/1", "date": "2026-01-01"},
        {"title": "B", "url": "https://b.x/2"},
        {"url": "https://c.x/3"},
    ],
}
#: Where the text refers to them, in order; to the third one it does not.
CITED = [
    (4, 7, "https://a.x/1", "A"), (11, 14, "https://b.x/2", "B"), (14, 17, "https://a.x/1", "A"),
    (18, 18, "https://c.x/3", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def doors() -> Iterator[MessagesBed]:
    with running_messages_bed() as running:
        yield running


def perplexity(*, stream: bool) -> Script:
    """An answer, or a stream in which each chunk has all of it so far beside what is new."""
    if not stream:
        return json_reply(completion(TEXT) | FOUND)
    chunks, so_far = [], ""
    for piece in ("Good[1]", " day[2]", "[1].", ""):
        so_far += piece
        choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "message": {"content": so_far}}
        choice["finish_reason"] = None if piece else "stop"
        chunks.append({"id": "p", "object": "chat.completion.chunk", "choices": [choice], **FOUND})
    return sse(*chunks, done=False)


def asked(doors: MessagesBed, path: str, script: Script, *, stream: bool) -> Any:
    """The answer at a door."""
    model = doors.model()
    doors.o.on(model, script)
    said: Body = {"input": "Hi"} if path == "/v1/responses" else {"messages": user(), "max_tokens": 9}
    answer = doors.post_to(path, {"model": model, "stream": stream, **said})
    assert answer.status == 200, answer.body
    return answer


def test_chat_has_them_as_annotations_and_as_they_came(doors: MessagesBed, stream: bool) -> None:
    answer = asked(doors, "/v1/chat/completions", perplexity(stream=stream), stream=stream)

    given = [delta.get("annotations") for delta in answer.deltas] if stream else [
        answer.json["choices"][0]["message"]["annotations"]
    ]  # fmt: skip
    (annotations,) = filter(None, given)
    assert {each["type"] for each in annotations} == {"url_citation"}
    cited = [each["url_citation"] for each in annotations]
    assert [(each["start_index"], each["end_index"], each["url"], each["title"]) for each in cited] == CITED
    assert all(answer.chunks[-1][name] == FOUND[name] if stream else answer.json[name] == FOUND[name] for name in FOUND)


def test_responses_have_them_as_annotations(doors: MessagesBed, stream: bool) -> None:
    answer = asked(doors, "/v1/responses", perplexity(stream=stream), stream=stream)

    last = json.loads(answer.events[-1].partition("data: ")[2])["response"] if stream else answer.json
    cited = last["output"][-1]["content"][0]["annotations"]
    assert [(each["start_index"], each["end_index"], each["url"], each["title"]) for each in cited] == CITED


def test_messages_have_them_as_citations(doors: MessagesBed, stream: bool) -> None:
    answer = asked(doors, "/v1/messages", perplexity(stream=stream), stream=stream)

    deltas = [each["delta"] for each in message_events(answer) if "delta" in each] if stream else []
    cited = [each["citation"] for each in deltas if "citation" in each] or answer.json["content"][0]["citations"]
    assert [(each["url"], each["title"]) for each in cited] == [(url, title) for _, _, url, title in CITED]


def test_addresses_in_the_last_chunk_alone_are_sources(doors: MessagesBed) -> None:
    *chunks, last = text_chunks("Good", " day")

    answer = asked(doors, "/v1/chat/completions", sse(*chunks, last | {"citations": ["https://a.x/1"]}), stream=True)

    (annotations,) = filter(None, (delta.get("annotations") for delta in answer.deltas))
    assert [each["url_citation"]["url"] for each in annotations] == ["https://a.x/1"]


def test_annotations_of_the_upstreams_own_stay(doors: MessagesBed, stream: bool) -> None:
    own = [
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 4, "url": "https://o.x", "title": "O"}}
    ]
    opening, piece, ending = text_chunks("Good")
    piece["choices"][0]["delta"]["annotations"] = own
    script = sse(opening, piece, ending | FOUND) if stream else json_reply(completion("Good", annotations=own) | FOUND)

    answer = asked(doors, "/v1/chat/completions", script, stream=stream)

    given = [delta.get("annotations") for delta in answer.deltas] if stream else [
        answer.json["choices"][0]["message"]["annotations"]
    ]  # fmt: skip
    assert list(filter(None, given)) == [own]


@pytest.mark.parametrize(
    "found", [{"citations": []}, {"citations": None, "search_results": [None, 7]}, {"citations": {}}]
)
def test_what_names_no_source_is_none(doors: MessagesBed, found: Body, stream: bool) -> None:
    *chunks, last = text_chunks("Good")
    script = sse(*chunks, last | found) if stream else json_reply(completion("Good") | found)

    answer = asked(doors, "/v1/chat/completions", script, stream=stream)

    assert b"annotations" not in answer.body
