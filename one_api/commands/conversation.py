"""A running gateway, asked from the command line: its models, and answers as they come."""

from collections.abc import Iterator
from typing import Any

import requests

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.dialects.sse import EventReader
from one_api.settings.kinds import Secret

#: How long a connection, and the next bytes, may take, in seconds; in silence a gateway sends a heartbeat.
_TIMEOUT_S = (5.0, 120.0)
_PIECE = 1024


class NoAnswer(Exception):
    """There is no answer, or not all of one; the message says why."""


class Conversation:
    """Asks one gateway with one key, and remembers what was said."""

    def __init__(self, url: str, key: Secret) -> None:
        """``url`` is where the gateway is, with or without ``http://`` and ``/v1``."""
        url = url if "://" in url else f"http://{url}"
        self._url = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        self._session = requests.Session()
        self._session.trust_env = False  # neither proxies nor ~/.netrc: the gateway is near
        self._session.headers["authorization"] = f"Bearer {key.reveal()}"
        self.messages: list[JSONObject] = []

    def models(self) -> list[str]:
        """Return the ids that can be asked for; raises NoAnswer."""
        try:
            with self._session.get(f"{self._url}/models", timeout=_TIMEOUT_S) as response:
                found = _checked(response)
                return [entry["id"] for entry in found["data"]]
        except requests.RequestException as error:
            raise self._silence(error) from None

    def say(self, model: str, text: str) -> Iterator[str]:
        """Yield the answer to ``text`` piece by piece; raises NoAnswer, also when it stops before it is complete."""
        asked = {"role": "user", "content": text.encode(errors="replace").decode()}  # what is typed need not be UTF-8
        body = {"model": model, "messages": [*self.messages, asked], "stream": True}
        pieces: list[str] = []
        try:
            with self._session.post(
                f"{self._url}/chat/completions",
                data=json.encode(body),
                headers={"content-type": "application/json"},
                timeout=_TIMEOUT_S,
                stream=True,
            ) as response:
                if response.status_code != 200:
                    _checked(response)
                for piece in _texts(response):
                    pieces.append(piece)
                    yield piece
        except requests.RequestException as error:
            raise self._silence(error) from None
        self.messages += [asked, {"role": "assistant", "content": "".join(pieces)}]

    def _silence(self, error: requests.RequestException) -> NoAnswer:
        cure = "start it first"
        if isinstance(error, requests.exceptions.SSLError):
            cure = "write http://, unless a proxy in front of it has a certificate that this machine trusts"
        elif isinstance(error, ValueError):  # no connection was tried
            cure = "write an address like http://127.0.0.1:8000"
        return NoAnswer(f"no gateway answers at {self._url}: {cure} ({type(error).__name__})")


def _texts(response: requests.Response) -> Iterator[str]:
    """Yield the text of a stream; one that ends without ``[DONE]`` is not complete."""
    reader = EventReader()
    for data in response.iter_content(_PIECE):
        for event in reader.feed(data):
            if event.data == b"[DONE]":
                return
            chunk = json.decode_object(event.data)
            if "error" in chunk:
                raise NoAnswer(str(chunk["error"]["message"]))
            for choice in chunk["choices"]:
                yield choice["delta"].get("content") or ""
    raise NoAnswer("the answer stopped before it was complete")


def _checked(response: requests.Response) -> Any:
    """Return the body of an answer; raises NoAnswer with what an error says."""
    try:
        found = json.decode_object(response.content)
        if response.status_code == 200:
            return found
        raise NoAnswer(str(found["error"]["message"]))
    except (json.InvalidJSON, KeyError, TypeError):
        raise NoAnswer(f"{response.url} answers with status {response.status_code}: is that the gateway?") from None
