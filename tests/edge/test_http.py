"""Requests that are no proper HTTP, or more of it than anyone needs."""

import pytest

from tests.support import Gateway, RawClient, ScriptedUpstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
JSON = HEAD + b"Content-Type: application/json\r\n"
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


def get(path: bytes, *fields: bytes) -> bytes:
    """Return a GET with these header fields."""
    return b"GET " + path + b" HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in (b"Host: x", *fields)) + b"\r\n"


KEY = b"Authorization: Bearer test-key"

#: name -> (request, status, code)
REFUSED: dict[str, tuple[bytes, int, str | None]] = {
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400, None),
    "length list": (HEAD + b"Content-Length: 5, 5\r\n\r\nabcde", 400, None),
    "length and chunks": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, None),
    "negative length": (HEAD + b"Content-Length: -5\r\n\r\n", 400, None),
    "signed length": (HEAD + b"Content-Length: +5\r\n\r\nabcde", 400, None),
    "hexadecimal length": (HEAD + b"Content-Length: 0x5\r\n\r\nabcde", 400, None),
    "length beyond all integers": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, None),
    "length over the limit": (HEAD + b"Content-Length: 40000000\r\n\r\n{", 413, "request_too_large"),
    "bad chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, None),
    "negative chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, None),
    "unknown transfer encoding": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", 400, None),
    "gzipped transfer": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, None),
    "a 101st header field": (HEAD + b"".join(b"X-%d: 1\r\n" % i for i in range(99)) + b"\r\n", 431, None),
    "header fields over 64 KiB": (HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431, None),
    "an address over 16 KiB": (get(b"/" + b"a" * 20_000), 414, None),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, None),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None),
    "HTTP/2 in words": (get(b"/health").replace(b"1.1", b"2.0"), 505, None),
    "HTTP/0.9 in words": (get(b"/health").replace(b"1.1", b"0.9"), 505, None),
    "chunks before there were any": (
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        None,
    ),
    "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400, None),
    "two Hosts": (get(b"/health", b"Host: y"), 400, None),
    "a Host with spaces": (b"GET /health HTTP/1.1\r\nHost: a b/\\@:x\r\n\r\n", 400, None),
    "a Host with a path": (b"GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, None),
    "a Host with a word for its port": (b"GET /health HTTP/1.1\r\nHost: localhost:x\r\n\r\n", 400, None),
    "a folded header": (get(b"/health", b"X: a\r\n b"), 400, None),
    "a header without colon": (get(b"/health", b"X"), 400, None),
    "NUL in a header": (get(b"/health", b"X: a\x00b"), 400, None),
    "a space before the colon": (get(b"/health", b"X : a"), 400, None),
    "a bare LF in a header": (get(b"/health", b"X: a\nb"), 400, None),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "an unknown method": (b"FROB /health HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    "a path outside ASCII": (get("/v1/модели".encode()), 400, None),
    "a gzipped body": (JSON + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + BODY, 415, "unsupported_media_type"),
    "text": (HEAD + b"Content-Type: text/plain\r\n" + LENGTH + b"\r\n" + BODY, 415, "unsupported_media_type"),
    "a form": (
        HEAD + b"Content-Type: multipart/form-data; boundary=x\r\n" + LENGTH + b"\r\n" + BODY,
        415,
        "unsupported_media_type",
    ),
    "another charset": (
        HEAD + b"Content-Type: application/json; charset=utf-16\r\n" + LENGTH + b"\r\n" + BODY,
        415,
        "unsupported_media_type",
    ),
    "no key": (get(b"/v1/models"), 401, "invalid_api_key"),
    "a key outside ASCII": (get(b"/v1/models", b"Authorization: Bearer \xff\xfe"), 401, "invalid_api_key"),
    "two keys": (get(b"/v1/models", KEY, KEY), 401, "invalid_api_key"),
    "another scheme": (get(b"/v1/models", b"Authorization: Basic dGVzdC1rZXk="), 401, "invalid_api_key"),
    "an empty key": (get(b"/v1/models", b"Authorization: Bearer "), 401, "invalid_api_key"),
    "an unknown path": (get(b"/nope"), 404, "unknown_url"),
    "a doubled slash": (get(b"//v1//models", KEY), 404, "unknown_url"),
    "dots in a model id": (get(b"/v1/models/../../etc/passwd", KEY), 404, "model_not_found"),
    "broken percent-encoding": (get(b"/v1/models/%zz%ff%00", KEY), 404, "model_not_found"),
    "a wrong method": (b"DELETE /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_our_format_and_reaches_no_upstream(
    name: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    request, status, code = REFUSED[name]
    before = len(upstream.requests)
    with RawClient(gateway.host, gateway.port) as client:
        client.send(request)
        response = client.read_response()
    assert (response.status, response.json["error"]["code"]) == (status, code), response.body
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert len(upstream.requests) == before


@pytest.mark.parametrize(
    "name", ["two lengths", "unknown transfer encoding", "a 101st header field", "bad chunk size", "text"]
)
@pytest.mark.parametrize("path", [b"/v1/messages", b"/v1/messages/count_tokens?beta=true"])
def test_it_is_refused_in_the_form_of_the_door(path: bytes, name: str, gateway: Gateway) -> None:
    request, status, _ = REFUSED[name]
    with RawClient(gateway.host, gateway.port) as client:
        client.send(request.replace(b"/v1/chat/completions", path))
        response = client.read_response()
    assert (response.status, response.json["type"]) == (status, "error"), response.body
    assert response.json["error"]["type"] == "invalid_request_error"
    assert response.json["error"]["message"]


ACCEPTED = {
    "HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
    "an absolute address": get(b"http://elsewhere/health"),
    "an upgrade that can be ignored": get(b"/health", b"Connection: Upgrade", b"Upgrade: h2c"),
    "an upgrade with a body": JSON + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
    "a web socket": get(b"/health", b"Connection: Upgrade", b"Upgrade: websocket"),
    "hop-by-hop headers": get(b"/health", b"Connection: x-secret", b"X-Secret: 1", b"TE: trailers", b"Trailer: x"),
    "header names with underscores": get(b"/health", b"Content_Length: 9"),
    "no content type": HEAD + LENGTH + b"\r\n" + BODY,
    "a charset": HEAD + b"Content-Type: application/json; charset=UTF-8\r\n" + LENGTH + b"\r\n" + BODY,
    "chunks": JSON + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "trailers": JSON + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_odd_but_legal_is_answered(name: str, gateway: Gateway) -> None:
    with RawClient(gateway.host, gateway.port) as client:
        client.send(ACCEPTED[name])
        assert client.read_response().status == 200


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(gateway: Gateway) -> None:
    with RawClient(gateway.host, gateway.port) as client:
        client.send(JSON + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert client.read_head().status == 100
        client.send(BODY)
        assert client.read_response().status == 200


def test_a_client_that_never_goes_on_after_100_continue_is_cut(gateway: Gateway) -> None:
    with RawClient(gateway.host, gateway.port) as client:
        client.send(JSON + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert client.read_head().status == 100
        assert client.read_response().status == 408


def test_a_body_cut_short_reaches_no_upstream(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    before = len(upstream.requests)
    records = len(gateway.call_records())
    with RawClient(gateway.host, gateway.port) as client:
        client.send(JSON + LENGTH + b"\r\n" + BODY[:-5])
    gateway.call_records(at_least=records + 1)
    assert len(upstream.requests) == before


def test_a_large_body_is_refused_to_a_client_that_sends_it_all(gateway: Gateway) -> None:
    size = 33 * 1024 * 1024
    with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
        client.send(JSON + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(33):
            client.send(b" " * 1024 * 1024)
        response = client.read_response()
    assert (response.status, response.json["error"]["code"]) == (413, "request_too_large")


def test_chunks_without_end_are_refused_at_the_limit(gateway: Gateway) -> None:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
        client.send(JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(34):
            client.send(piece)
        response = client.read_response()
    assert (response.status, response.json["error"]["code"]) == (413, "request_too_large")


def test_requests_of_one_packet_are_answered_in_order(gateway: Gateway) -> None:
    with RawClient(gateway.host, gateway.port) as client:
        client.send(get(b"/health") + get(b"/nope") + get(b"/health"))
        assert [client.read_response().status for _ in range(3)] == [200, 404, 200]
