"""An application of ordinary Flask parts, each of which the bridge must serve as Flask itself would."""

import asyncio
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from flask import Flask, Response, abort, g, request, stream_with_context
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from one_api.app import GatewayFlask
from one_api.serving.bridge import await_
from one_api.settings.sections import ServerConfig

LARGE_BYTES = 8 * 1024 * 1024
MANY_PIECES = 5000

tag: ContextVar[str] = ContextVar("tag")


class Odd(Exception):
    """Answered by a synchronous handler."""


class Even(Exception):
    """Answered by an asynchronous handler."""


class Pieces:
    """A body that says when it is closed, as WSGI wants it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        yield b"second"

    def close(self) -> None:
        """Called by the server."""
        print(f"closed {self._name}", flush=True)


class NoService:
    """What lives with the process: this application has nothing of it."""

    draining = False
    server = ServerConfig()
    connections: Callable[[], int | None] = staticmethod(lambda: None)

    def begin_reload(self, by: str) -> None:
        """Nothing to load."""

    async def start(self) -> None:
        """Nothing to start."""

    async def aclose(self) -> None:
        """Nothing to close."""


def create_app() -> Flask:
    """Return the application."""
    app = GatewayFlask(__name__)
    app.extensions["one_api"] = NoService()
    _register_hooks(app)
    _register_errors(app)
    _register_views(app)
    _register_bodies(app)
    _register_streams(app)
    return app


def _register_hooks(app: Flask) -> None:
    @app.before_request
    def note_arrival() -> None:
        g.trail = ["before"]
        tag.set(request.args.get("name", ""))

    @app.before_request
    async def note_later() -> ResponseReturnValue | None:
        await asyncio.sleep(0)
        g.trail.append("before, awaited")
        return ("refused", 403) if "refuse" in request.args else None

    @app.after_request
    def show_trail(response: Response) -> Response:
        response.headers["x-trail"] = "; ".join(g.trail)
        return response

    @app.after_request
    async def show_path(response: Response) -> Response:
        await asyncio.sleep(0)
        response.headers["x-path"] = request.path.encode("ascii", "backslashreplace").decode()
        return response

    @app.teardown_request
    def say_so(error: BaseException | None) -> None:
        if name := request.args.get("name"):
            print(f"teardown {name} after {type(error).__name__}", flush=True)


def _register_errors(app: Flask) -> None:
    @app.errorhandler(Odd)
    def answer_odd(error: Odd) -> ResponseReturnValue:
        return f"odd: {error}", 418

    @app.errorhandler(Even)
    async def answer_even(error: Even) -> ResponseReturnValue:
        await asyncio.sleep(0)
        return f"even: {error}", 421

    @app.errorhandler(HTTPException)
    def answer_http(error: HTTPException) -> ResponseReturnValue:
        return f"http: {error.name}", error.code or 500

    @app.errorhandler(Exception)
    def answer_any(error: Exception) -> ResponseReturnValue:
        return f"bug: {type(error).__name__}", 500

    @app.get("/raise/<kind>")
    def raise_sync(kind: str) -> ResponseReturnValue:
        return _fail(kind)

    @app.get("/raise-async/<kind>")
    async def raise_async(kind: str) -> ResponseReturnValue:
        await asyncio.sleep(0)
        return _fail(kind)


def _fail(kind: str) -> ResponseReturnValue:
    known: dict[str, Exception] = {"odd": Odd("one"), "even": Even("two"), "bug": ZeroDivisionError()}
    if kind in known:
        raise known[kind]
    abort(409)


def _register_views(app: Flask) -> None:
    meeting: dict[str, asyncio.Event] = {}

    @app.get("/sync")
    def sync() -> ResponseReturnValue:
        g.trail.append("view")
        return f"sync {request.args.get('name', '')}"

    @app.get("/await-in-sync")
    def await_in_sync() -> ResponseReturnValue:
        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        return str(await_(double(await_(double(int(request.args["number"]))))))

    @app.get("/await-raises")
    def await_raises() -> ResponseReturnValue:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise Odd("awaited")

        try:
            await_(fail())
        except Odd as error:
            return f"caught {error}"
        return "nothing was raised"

    @app.get("/async")
    async def asynchronous() -> ResponseReturnValue:
        await asyncio.sleep(0)
        g.trail.append("view, awaited")
        return f"async {request.args.get('name', '')} {tag.get()}"

    @app.get("/await-in-async")
    async def await_in_async() -> ResponseReturnValue:
        try:
            await_(asyncio.sleep(0))
        except RuntimeError as error:
            return str(error), 200
        return "nothing was raised", 500

    @app.get("/meet/<place>")
    async def meet(place: str) -> ResponseReturnValue:
        """Answer once two are here."""
        g.name = request.args["name"]
        there = meeting.get(place)
        if there is None:
            there = meeting[place] = asyncio.Event()
            await there.wait()
        else:
            there.set()
        await asyncio.sleep(0)
        return f"{request.args['name']} {g.name} {tag.get()}"

    @app.get("/wait/<name>")
    async def wait(name: str) -> ResponseReturnValue:
        """Wait for ever, and say when that ends."""
        print(f"waiting {name}", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print(f"let go {name}", flush=True)
        return ""

    @app.get("/environ/<path:rest>")
    def environ(rest: str) -> ResponseReturnValue:
        odd = {name: value for name, value in request.headers if name.lower().startswith("x-")}
        return {
            "path": request.path,
            "rest": rest,
            "query": request.args.to_dict(flat=False),
            "odd": odd,
            "host": request.host,
            "scheme": request.scheme,
            "remote": request.remote_addr,
        }


def _register_bodies(app: Flask) -> None:
    @app.post("/echo")
    def echo() -> ResponseReturnValue:
        return Response(request.get_data(), content_type="application/octet-stream")

    @app.post("/echo-async")
    async def echo_async() -> ResponseReturnValue:
        await asyncio.sleep(0)
        return Response(request.get_data(), content_type="application/octet-stream")

    @app.post("/json")
    async def json() -> ResponseReturnValue:
        await asyncio.sleep(0)
        return {"got": request.get_json()}

    @app.post("/form")
    async def form() -> ResponseReturnValue:
        await asyncio.sleep(0)
        return {"form": request.form.to_dict(), "file": request.files["file"].read().decode()}

    @app.post("/count")
    def count() -> ResponseReturnValue:
        """Read the body piece by piece, as an upload would be."""
        size = 0
        while piece := request.stream.read(10_000):
            size += len(piece)
        return str(size)

    @app.post("/ignore")
    def ignore() -> ResponseReturnValue:
        return "not read"

    @app.get("/empty")
    async def empty() -> ResponseReturnValue:
        return "", 204

    @app.get("/large")
    async def large() -> ResponseReturnValue:
        return bytes(range(256)) * (LARGE_BYTES // 256)

    @app.get("/cookies")
    async def cookies() -> ResponseReturnValue:
        response = Response("two")
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response


def _register_streams(app: Flask) -> None:
    @app.get("/stream")
    def stream() -> ResponseReturnValue:
        def pieces() -> Iterator[str]:
            for number in range(MANY_PIECES):
                yield f"{request.args['name']} {number} {g.trail[0]}\n"

        return Response(stream_with_context(pieces()), content_type="text/plain")

    @app.get("/stream-from-async")
    async def stream_from_async() -> ResponseReturnValue:
        await asyncio.sleep(0)

        def pieces() -> Iterator[str]:
            for number in range(3):
                await_(asyncio.sleep(0))
                yield f"{request.args['name']} {number}\n"

        return Response(stream_with_context(pieces()), content_type="text/plain")

    @app.get("/endless")
    def endless() -> ResponseReturnValue:
        def pieces() -> Iterator[str]:
            try:
                while True:
                    yield f"{request.args['name']}\n"
                    if "paced" in request.args:
                        await_(asyncio.sleep(0.001))
            finally:
                print(f"closed {request.args['name']}", flush=True)

        return Response(stream_with_context(pieces()), content_type="text/plain")

    @app.get("/breaks")
    def breaks() -> ResponseReturnValue:
        def pieces() -> Iterator[bytes]:
            yield b"one"
            yield b"two"
            raise Odd("too late for an answer")

        return Response(pieces(), content_type="text/plain")

    @app.get("/closing")
    def closing() -> ResponseReturnValue:
        name = request.args["name"]
        response = Response(Pieces(name), content_type="text/plain")
        response.call_on_close(lambda: print(f"called on close {name}", flush=True))
        return response


app = create_app()
