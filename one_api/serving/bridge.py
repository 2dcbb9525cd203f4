"""The bridge: synchronous code waits for coroutines without blocking anything.

On the worker's event loop, Flask runs inside a greenlet. ``await_`` switches out of it with an awaitable, which the
loop awaits, and switches back in with the result (the technique of SQLAlchemy's asyncio support). In a thread of a
plain WSGI server there is no such greenlet: the awaitable runs on the process's background loop, and the thread waits.
"""

import asyncio
import io
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

from flask import Request, has_request_context
from greenlet import GreenletExit, getcurrent, greenlet
from werkzeug.exceptions import RequestEntityTooLarge

from one_api.serving.current import current_request
from one_api.serving.loop import background, client_of
from one_api.serving.timeouts import Deadline

P = ParamSpec("P")
T = TypeVar("T")


#: How many greenlets that have nothing to do are kept.
_MAX_IDLE = 32


class _Bridged(greenlet):
    """A greenlet whose parent awaits what it switches out with; it runs one function after the other."""

    #: What it runs when it is switched to; with nothing to run it ends.
    function: Callable[[], Any] | None = None
    #: A coroutine runs in it, up to the first thing that it waits for.
    in_coroutine = False
    #: Its function has ended, with one of these.
    is_done = False
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        """Run one function after the other; between two of them it keeps nothing of either."""
        while self.function is not None:
            try:
                self.result = self.function()
            except GreenletExit:  # it is not used any more
                raise
            except BaseException as error:  # it belongs to the caller that waits for the function
                self.error = error
            self.function = None
            self.is_done = True
            assert self.parent is not None  # noqa: S101 - it was made with one
            self.parent.switch()

    def take_result(self) -> Any:
        """Return what the function has returned, or raise what it has raised; nothing of it is kept."""
        result, error = self.result, self.error
        self.result = self.error = self.gr_context = None
        self.is_done = False
        if error is not None:
            try:
                raise error
            finally:
                del error  # it leads back to this frame
        return result


class _Begun:
    """A coroutine that has run up to the first thing it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        """Go on from there, as ``await`` would."""
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # it belongs to the coroutine
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
        except StopIteration as finished:
            return finished.value
        finally:
            del waits_for, self._waits_for  # they may lead to the error that is raised here, and that leads to them


def begin(coroutine: Coroutine[Any, Any, T]) -> tuple[Awaitable[T] | None, Any]:
    """Run ``coroutine`` up to the first thing that it waits for.

    Returns:
        What is to be awaited for its result, or None and the result when it need not wait at all.
    """
    try:
        first = coroutine.send(None)
    except StopIteration as finished:
        return None, finished.value
    return _Begun(coroutine, first), None


async def within(limit_s: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Await ``coroutine``, at most for ``limit_s``; raises TimeoutError. What need not wait costs no timer."""
    rest, result = begin(coroutine)
    if rest is None:
        found: T = result
        return found
    with Deadline(limit_s):
        return await rest


def await_(awaitable: Coroutine[Any, Any, T], client: socket.socket | None = None) -> T:
    """Wait, in synchronous code, for ``awaitable``, and return its result.

    Args:
        awaitable: what to wait for.
        client: in a thread of a WSGI server, the connection that waits for it; the worker's loop knows its own.

    Raises:
        RuntimeError: when called in a coroutine, where ``await`` belongs.
        asyncio.CancelledError: when the client left.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # A thread of a WSGI server. Greenlet must not be used there: what it keeps for a thread has crashed the process
        # when the thread ended (greenlet 3.5.6 under `flask run`).
        return background().run(awaitable, client)
    current = getcurrent()
    if not isinstance(current, _Bridged) or current.in_coroutine:
        awaitable.close()
        raise RuntimeError("await_ was called inside a coroutine: use `await` there")
    # Much of what is awaited need not wait at all: then there is nothing to switch for.
    current.in_coroutine = True
    try:
        first = awaitable.send(None)
    except StopIteration as finished:
        found: T = finished.value
        return found
    finally:
        current.in_coroutine = False
    assert current.parent is not None  # noqa: S101 - it was made with one
    result: T = current.parent.switch(_Begun(awaitable, first))
    return result


def async_to_sync(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a coroutine function callable from synchronous code; Flask does so with every ``async def`` view.

    A request's body is read before, because a coroutine cannot wait for it in the synchronous way of Flask.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not has_request_context():
            return await_(function(*args, **kwargs))
        current = current_request()
        _read_body(current)
        return await_(function(*args, **kwargs), client_of(current.environ))

    return call


def _read_body(request: Request) -> None:
    """Read the body and keep it, also for code that reads it as a stream later."""
    if "stream" in vars(request):
        return
    limit = request.max_content_length
    whole = getattr(request.environ["wsgi.input"], "read_whole", None)
    length: str = request.environ.get("CONTENT_LENGTH", "")
    if whole is not None and limit is not None and (not length.isdecimal() or int(length) <= limit):
        # What the worker reads itself needs none of Werkzeug's guards.
        if (kept := whole(limit)) is None:
            raise RequestEntityTooLarge
        request.stream = io.BytesIO(kept)
        return
    body = request.get_data()
    # Of a body in chunks, Werkzeug reads as much as is allowed, and drops the rest without a word.
    if request.content_length is None and len(body) == request.max_content_length and request.input_stream.read(1):
        raise RequestEntityTooLarge
    request.stream = io.BytesIO(body)


class Bridge:
    """Runs synchronous functions on the tasks of one event loop, so that ``await_`` works anywhere below them."""

    def __init__(self) -> None:
        #: To make a greenlet takes system calls for its stack: those that have nothing to do are used again.
        self._idle: list[_Bridged] = []

    async def run(self, function: Callable[[], T], why_cancelled: Callable[[], BaseException]) -> T:
        """Run ``function`` on this task, and return its result.

        What is awaited is cancelled with the task; ``why_cancelled`` returns what ``function`` is to see of that.
        """
        parent = getcurrent()
        child = self._idle.pop() if self._idle else _Bridged(parent=parent)
        # Context variables set on either side are seen on the other: it is one request.
        child.gr_context = parent.gr_context
        child.function = function
        result: Any = child.switch()
        while not child.is_done:
            try:
                value = await result
            except asyncio.CancelledError:
                result = child.throw(why_cancelled())
            except BaseException as error:  # it belongs to the code that waits
                result = child.throw(error)
            else:
                result = child.switch(value)
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(child)
        else:
            child.switch()  # with nothing to run it ends; it holds itself, so nothing else would free it
        found: T = child.take_result()
        return found
