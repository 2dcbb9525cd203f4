"""A collector of traces: it takes OTLP over HTTP, and keeps the spans. Another one accepts and never answers."""

import contextlib
import gzip
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Exported:
    """One span; ids in hexadecimal digits, times in Unix seconds."""

    name: str
    #: 2 is that of a server, 3 that of a client.
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    started: float
    ended: float
    attributes: dict[str, Any]
    links: list[str]
    resource: dict[str, Any]


@dataclass
class Collector:
    """What has come to `url`, and how to wait for it."""

    url: str
    spans: list[Exported] = field(default_factory=list)
    #: Of each export, by names in lower case.
    headers: list[dict[str, str]] = field(default_factory=list)

    def wait_for(self, wanted: Callable[[list[Exported]], bool], what: str, timeout_s: float = 15.0) -> list[Exported]:
        """The spans, once they are as wanted."""
        deadline = time.monotonic() + timeout_s
        while not wanted(self.spans):
            assert time.monotonic() < deadline, f"waited for {what}; there are {self.spans}"
            time.sleep(0.02)
        return list(self.spans)

    def of_request(self, request_id: str) -> tuple[Exported, list[Exported]]:
        """The span of a request, and those of its attempts in the order of their start."""

        def is_there(spans: list[Exported]) -> bool:
            return any(span.attributes.get("one_api.request_id") == request_id for span in spans)

        spans = self.wait_for(is_there, f"the trace of {request_id}")
        (server,) = [span for span in spans if span.attributes.get("one_api.request_id") == request_id]
        attempts = [span for span in spans if span.parent_id == server.span_id and span.trace_id == server.trace_id]
        return server, sorted(attempts, key=lambda span: span.started)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.spans.extend(_spans(body))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def silent_collector() -> Iterator[str]:
    """The address of one that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def odd_collector(head: bytes, piece: bytes = b"") -> Iterator[tuple[str, threading.Event]]:
    """The address of one that answers every export with a head, and then with a piece again and again.

    The event is set when its client has hung up on that.
    """
    hung_up = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            try:
                self.request.sendall(head)
                while piece:
                    self.request.sendall(piece)
            except OSError:
                hung_up.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", hung_up
        finally:
            server.shutdown()
            thread.join()


def _spans(body: bytes) -> Iterator[Exported]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Exported(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    _attributes(span.attributes),
                    [link.trace_id.hex() for link in span.links],
                    resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
