"""The command ``chat``: what it sends, and what it makes of answers."""

import json
from collections.abc import Iterator

import pytest
import requests
import responses

from one_api.commands.conversation import Conversation, NoAnswer
from one_api.settings.kinds import Secret

URL = "http://gateway.test:8000"


@pytest.fixture
def gateway() -> Iterator[responses.RequestsMock]:
    """Answers in the gateway's place."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture(params=[URL, f"{URL}/", f"{URL}/v1", "gateway.test:8000"])
def conversation(request: pytest.FixtureRequest) -> Conversation:
    return Conversation(request.param, Secret("sk-mine"))


def events(*texts: str, done: bool = True) -> str:
    """A stream with these texts."""
    chunks = [json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts]
    return "".join(f"data: {each}\n\n" for each in [*chunks, *(["[DONE]"] if done else [])])


def test_it_asks_with_the_key_and_remembers(gateway: responses.RequestsMock, conversation: Conversation) -> None:
    gateway.post(f"{URL}/v1/chat/completions", ": keep-alive\n\n" + events("Hel", "lo"))
    gateway.post(f"{URL}/v1/chat/completions", events("Yes"))

    assert list(conversation.say("m", "Hi")) == ["Hel", "lo"]
    assert list(conversation.say("m", "Sure?")) == ["Yes"]

    second = gateway.calls[1].request
    assert second.headers["authorization"] == "Bearer sk-mine"
    assert json.loads(second.body or "") == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Sure?"},
        ],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, events("Hel", done=False), "stopped before it was complete"),
        (
            200,
            events("Hel", done=False) + 'data: {"error": {"message": "it broke"}}\n\n',
            "it broke",
        ),
        (401, '{"error": {"message": "This API key is not known"}}', "is not known"),
        (502, "<html>", "answers with status 502"),
        (404, "{}", "answers with status 404"),
    ],
)
def test_what_is_not_complete_is_an_error_and_is_not_remembered(
    gateway: responses.RequestsMock, conversation: Conversation, status: int, body: str, said: str
) -> None:
    gateway.post(f"{URL}/v1/chat/completions", body, status=status)

    with pytest.raises(NoAnswer, match=said):
        list(conversation.say("m", "Hi"))

    assert conversation.messages == []


def test_models_are_listed(gateway: responses.RequestsMock, conversation: Conversation) -> None:
    gateway.get(f"{URL}/v1/models", json={"data": [{"id": "a"}, {"id": "b"}]})

    assert conversation.models() == ["a", "b"]


def test_a_gateway_that_is_not_there_is_said_so(gateway: responses.RequestsMock, conversation: Conversation) -> None:
    gateway.get(f"{URL}/v1/models", body=requests.ConnectionError("refused"))

    with pytest.raises(NoAnswer, match="start it first"):
        conversation.models()


def test_http_where_https_was_written_is_said_so(gateway: responses.RequestsMock) -> None:
    gateway.get("https://gateway.test/v1/models", requests.exceptions.SSLError("wrong version number"))

    with pytest.raises(NoAnswer, match="write http://"):
        Conversation("https://gateway.test", Secret("sk-mine")).models()


@pytest.mark.parametrize("url", ["ftp://gateway.test", "http://", "http://[::1"])
def test_what_is_no_address_is_said_so(url: str) -> None:
    with pytest.raises(NoAnswer, match=r"like http://127\.0\.0\.1:8000"):
        Conversation(url, Secret("sk-mine")).models()


def test_what_is_typed_need_not_be_utf_8(gateway: responses.RequestsMock, conversation: Conversation) -> None:
    gateway.post(f"{URL}/v1/chat/completions", events("Yes"))

    assert list(conversation.say("m", "caf\udce9")) == ["Yes"]

    assert json.loads(gateway.calls[0].request.body or "")["messages"][0]["content"] == "caf?"
