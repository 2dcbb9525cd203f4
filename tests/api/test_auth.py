"""Who may call: keys as the routes check them."""

import json
from collections.abc import Iterator

import pytest

from tests.support import Gateway, ScriptedUpstream, build_request

from .bed import Bed, adapter, user, yaml


@pytest.fixture(scope="module")
def keyed() -> Iterator[Bed]:
    """A gateway with keys from its file, two of them with names."""
    with ScriptedUpstream() as upstream:
        keys = [{"key": "sk-first", "name": "team-a"}, {"key": "sk-second", "name": "team-b"}, {"key": "sk-third"}]
        config = yaml(api_keys=keys, adapters={"a": adapter(upstream, ["m"])})
        with Gateway(config_yaml=config) as gateway:
            yield Bed(gateway, {"a": upstream})


ROUTES = [("GET", "/v1/models"), ("GET", "/v1/models/m"), ("POST", "/v1/chat/completions")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer sk-firs", "Bearer sk-firstt", "sk-first",
        "Basic sk-first", "Token sk-first", "Bearer sk-first,sk-second", "Bearer SK-FIRST", "Bearer ключ",
        "Bearer sk-first sk-first",
    ],
)  # fmt: skip
def test_every_v1_route_is_closed_to_strangers(keyed: Bed, method: str, path: str, authorization: str | None) -> None:
    sent = authorization and authorization.encode().decode("latin-1")
    headers = {} if sent is None else {"Authorization": sent}

    answer = keyed.get(path, method=method, key=None, headers=headers)

    assert answer.status == 401
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
        "invalid_request_error", "invalid_api_key", None
    )  # fmt: skip
    assert answer.error["message"]
    assert "sk-" not in answer.body.decode()
    assert answer.header("x-request-id")
    assert answer.header("x-ratelimit-limit-requests") is None


def test_a_stranger_learns_nothing_of_a_request_that_is_wrong(keyed: Bed) -> None:
    assert keyed.post(b"not json", key="wrong").status == 401
    assert keyed.get("/v1/models/nobody-knows-it", key="wrong").status == 401


def test_a_stranger_reaches_no_upstream(keyed: Bed) -> None:
    before = len(keyed.a.requests)

    assert keyed.ask("m", key="wrong").status == 401

    assert len(keyed.a.requests) == before


@pytest.mark.parametrize(
    "authorization", ["Bearer sk-first", "bearer sk-first", "BEARER sk-second", "Bearer   sk-third  "]
)
def test_every_key_opens_whatever_the_spelling_of_the_scheme(keyed: Bed, authorization: str) -> None:
    assert keyed.get("/v1/models", key=None, headers={"Authorization": authorization}).status == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("name", ["x-api-key", "api-key", "X-API-Key"])
def test_the_headers_of_other_clients_open_every_route(keyed: Bed, method: str, path: str, name: str) -> None:
    assert keyed.get(path, method=method, key=None, headers={name: "sk-first"}).status != 401
    assert keyed.get(path, method=method, key="sk-first", headers={name: "sk-first"}).status != 401
    assert keyed.get(path, method=method, key="sk-first", headers={name: "sk-second"}).status == 401


@pytest.mark.parametrize("name", ["Content-Type", "Content-Encoding", "Accept"])
@pytest.mark.parametrize("joined", [False, True], ids=["two lines", "one line"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_header_that_is_sent_twice(keyed: Bed, name: str, joined: bool, stream: bool) -> None:
    value = {"Content-Encoding": "identity"}.get(name, "application/json")
    body = json.dumps({"model": "m", "messages": user(), "stream": stream}).encode()
    twice = [(name, f"{value}, {value}")] if joined else [(name, value)] * 2
    gateway = keyed.gateway

    request = build_request(
        "POST",
        "/v1/chat/completions",
        gateway.host,
        gateway.port,
        headers=[("X-Api-Key", "sk-first"), *twice],
        body=body,
    )

    assert keyed.send(request).status == 200


@pytest.mark.parametrize(("name", "value"), [("Authorization", "Bearer sk-first"), ("x-api-key", "sk-first")])
def test_a_key_is_sent_once(keyed: Bed, name: str, value: str) -> None:
    assert keyed.get("/v1/models", key=None, headers=[(name, value)] * 2).status == 401


@pytest.mark.parametrize("others", [["text/plain"], ["application/json; charset=latin-1"]])
def test_a_repeated_media_type_that_differs_is_refused(keyed: Bed, others: list[str]) -> None:
    types = [("Content-Type", each) for each in ["application/json", *others]]
    headers = [("Authorization", "Bearer sk-first"), *types]

    answer = keyed.get("/v1/chat/completions", method="POST", key=None, headers=headers)

    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 2", b"Content-Length: 2"],
        [b"Content-Length: 2, 2"],
        [b"Content-Length: 2", b"Content-Length: 3"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 2"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked, chunked"],
        [b"Host: a", b"Host: a"],
    ],
    ids=lambda lines: b" | ".join(lines).decode(),
)
def test_what_says_where_a_request_ends_is_sent_once(keyed: Bed, lines: list[bytes]) -> None:
    head = [b"POST /v1/chat/completions HTTP/1.1", b"Host: gateway", b"Authorization: Bearer sk-first", *lines]

    assert keyed.send(b"\r\n".join([*head, b"", b"{}"])).status == 400


def test_the_log_has_the_name_of_the_key(keyed: Bed) -> None:
    callers = [keyed.record_of(keyed.ask("m", key=key))["caller"] for key in ("sk-first", "sk-second", "sk-third")]

    assert callers[:2] == ["team-a", "team-b"]
    assert callers[2].startswith("key-")
    assert "sk-third" not in callers[2]


def test_a_stranger_has_no_name_in_the_log(keyed: Bed) -> None:
    record = keyed.record_of(keyed.ask("m", key="wrong"))

    assert (record["caller"], record["status"], record["error"], record["model"]) == (
        None,
        401,
        "invalid_api_key",
        None,
    )


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ready")])
def test_probes_need_no_key(keyed: Bed, method: str, path: str) -> None:
    assert keyed.get(path, method=method, key=None).status == 200


def test_keys_of_the_variable_are_split_and_trimmed() -> None:
    with Gateway(env={"API_KEYS": " ,one, two ,,"}) as gateway:
        bed = Bed(gateway, {})

        assert [bed.get("/v1/models", key=key).status for key in ("one", "two")] == [200, 200]
        for nothing in ("", ",", " ,one, two ,,"):
            assert bed.get("/v1/models", key=None, headers={"Authorization": f"Bearer {nothing}"}).status == 401


@pytest.mark.parametrize("keys", ["", " , ,"], ids=["empty", "commas"])
def test_without_a_key_every_call_is_refused_and_told_why(keys: str) -> None:
    with Gateway(env={"API_KEYS": keys}) as gateway:
        bed = Bed(gateway, {})
        for key in (None, "", "test-key", ","):
            answer = bed.get("/v1/models", key=None, headers={"Authorization": f"Bearer {key}"} if key else {})

            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert "API_KEYS" in answer.error["message"]
