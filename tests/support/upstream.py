"""A model provider made of paper: a TCP server on loopback that answers every request as the test has scripted it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from .actions import Script
from .connection import Connection, Signals
from .replies import completion, error, json_reply, sse, text_chunks, tokens
from .running_time import PATIENCE_S
from .seen import Seen

Answer: TypeAlias = Script | Callable[[Seen], Script]


class ScriptedUpstream:
    """An OpenAI-compatible server in a thread of its own; a context manager.

    A request is answered by the script given for its `model` with `on`, an unknown model with the text "Hello". GET
    /v1/models lists `models`, or fails when `models_status` is not 200; these requests go to `model_requests`, all
    others to `requests`. `connections` counts those accepted so far.

    Leaving the context closes every connection and raises what went wrong in the server (`errors`): malformed
    requests, scripts that raised. `send_buffer_bytes` bounds what the kernel holds for a peer that does not read.
    `default` answers an unknown model instead of the text "Hello".
    """

    def __init__(
        self, models: Sequence[str] = (), *, send_buffer_bytes: int | None = None, default: Answer | None = None
    ) -> None:
        self.models = list(models)
        self.models_status = 200
        self.requests: list[Seen] = []
        self.model_requests: list[Seen] = []
        self.errors: list[Exception] = []
        self.connections = 0
        self._send_buffer_bytes = send_buffer_bytes
        self._default: Answer = default or say_hello
        self._lists: list[Answer] = []
        self._answers: dict[str, list[Answer]] = {}
        self._openings: list[Script] = []
        self._changed = threading.Condition()
        self._serving: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)

    def on(self, model: str, *answers: Answer) -> None:
        """Answer consecutive requests for the model with these, the last one for ever.

        An answer is a script or a function from `Seen` to a script, which runs on the server's loop and must not block.
        """
        if not answers:
            raise ValueError(f"no answer given for {model!r}")
        with self._changed:
            self._answers[model] = list(answers)

    def on_models(self, *answers: Answer) -> None:
        """Answer consecutive requests for the model list with these, the last one for ever."""
        with self._changed:
            self._lists = list(answers)

    def on_connect(self, *scripts: Script) -> None:
        """Perform these at the start of the next connections, one each and once, before a request is read."""
        with self._changed:
            self._openings = list(scripts)

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def root_url(self) -> str:
        """The server's URL without a path, for dialects whose base URL has none."""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The URL to configure as an OpenAI-compatible provider's."""
        return f"{self.root_url}/v1"

    @property
    def open_connections(self) -> int:
        """How many connections are open now, idle ones included."""
        return len(self._serving)

    def wait_for(self, n: int, timeout_s: float = PATIENCE_S) -> Seen:
        """The n-th request (from 1), once it has arrived whole; raises AssertionError after the time-out."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= n, timeout_s):
                raise AssertionError(f"{len(self.requests)} of {n} requests came within {timeout_s} s")
            return self.requests[n - 1]

    def __enter__(self) -> Self:
        self._listener = _listening_socket(self._send_buffer_bytes)
        self.port: int = self._listener.getsockname()[1]
        self._thread.start()
        if not self._started.wait(PATIENCE_S):
            raise AssertionError("the scripted upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            raise AssertionError("the scripted upstream did not stop")
        if not self.errors:
            return
        if failure is None:
            raise ExceptionGroup("in the scripted upstream", self.errors)
        failure.add_note(f"In the scripted upstream: {self.errors!r}")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as failure:  # it would end in the thread's void; it is raised at exit instead
            self.errors.append(failure)

    async def _serve(self) -> None:
        self._loop, self._stop, self._signals = asyncio.get_running_loop(), asyncio.Event(), Signals()
        with self._listener:
            accepting = asyncio.create_task(self._accept())
            self._started.set()
            await asyncio.wait({accepting, asyncio.create_task(self._stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            accepting.cancel()
            tasks = [accepting, *self._serving]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._signals.aclose()
        if not accepting.cancelled():
            accepting.result()

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self.connections += 1
            task = asyncio.create_task(self._serve_one(sock, self.connections))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve_one(self, sock: socket.socket, number: int) -> None:
        with self._changed:
            opening = self._openings.pop(0) if self._openings else ()
        try:
            await Connection(sock, number, self._choose, self._signals).serve(opening)
        except Exception as failure:  # it would end in the task's void; it is raised at exit instead
            self.errors.append(failure)

    def _choose(self, seen: Seen) -> Script:
        if seen.method == "GET" and seen.path.partition("?")[0].endswith("/models"):
            with self._changed:
                self.model_requests.append(seen)
                if self._lists:
                    return _next(self._lists, seen)
            return _list_models(self.models) if self.models_status == 200 else error(self.models_status)
        with self._changed:
            self.requests.append(seen)
            self._changed.notify_all()
            return _next(self._answers.get(seen.model, [self._default]), seen)


def _next(answers: list[Answer], seen: Seen) -> Script:
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    return answer(seen) if callable(answer) else answer


def say_hello(seen: Seen) -> Script:
    """The default answer: the text "Hello", in one piece or streamed as the request asks."""
    if seen.method != "POST":
        return error(404)
    request = seen.json
    if not request.get("stream"):
        return json_reply(completion("Hello", model=seen.model))
    with_usage = (request.get("stream_options") or {}).get("include_usage")
    return sse(*text_chunks("Hel", "lo", model=seen.model, usage=tokens(9, 2) if with_usage else None))


def _list_models(ids: Sequence[str]) -> Script:
    listed = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "scripted"} for name in ids]
    return json_reply({"object": "list", "data": listed})


def _listening_socket(send_buffer_bytes: int | None) -> socket.socket:
    listener = socket.socket()
    if send_buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """The base URL of an address that never answers a connect: a listener whose accept queue is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
