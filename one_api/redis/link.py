"""The connection to Redis: commands of one moment are sent together, with a short deadline and a circuit breaker.

A Redis that is dead, slow or frozen delays a few requests by its deadline, and then none, until a probe succeeds.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import redis.asyncio
from redis.exceptions import NoScriptError, ResponseError

from one_api.bounded import once_a_minute
from one_api.breaker import Breaker
from one_api.redis.problems import Problem, concerns_one_key, problem_of
from one_api.redis.script import Script

T = TypeVar("T")
#: Sends commands together, and returns their answers; an exception stands for a missing answer.
SendPipeline: TypeAlias = Callable[[list[tuple[Any, ...]]], Awaitable[list[Any]]]

#: The deadline of a connect, in seconds, and of a trip that needs one; of every trip if its own is longer.
_CONNECT_S = 0.25
#: Commands that one trip takes.
_TRIP = 64
#: After a deadline, so many turns of the loop are still given to an answer that has arrived already.
_LAST_LOOKS = 5
#: A late answer is waited for in the background, for so many seconds.
_MAX_LATE_S = 2.0
#: So many failures within so many seconds are too many, also when others succeed between them.
_UNRELIABLE_FAILURES, _UNRELIABLE_S = 3, 60.0
#: How long after it has refused a command something counts as wrong with Redis, in seconds.
_REFUSING_S = 60.0


class RedisUnavailable(Exception):
    """Redis gave no answer in time, or none that can be used.

    ``late`` is where the answer may still come, or None when there will be none.
    """

    def __init__(self, late: asyncio.Future[Any] | None = None) -> None:
        super().__init__()
        self.late = late


class RedisRefusal(RedisUnavailable):
    """Redis works and refuses this one command."""


class RedisLink:
    """Sends commands to one Redis.

    Args:
        url: where it is.
        logger: where it is logged when Redis fails, and when it works again.
        call_s: the deadline of one trip, in seconds.
        without: what is done meanwhile, for the log.
        forgiving: a command that Redis refuses is that command's failure, not Redis's.
        recovered: called at the first contact, and at the first one after any failure, before anything else is sent.
        scripts: those that are run.
        patient: trips have all their time although Redis owes an answer: a short stumble is to lose nothing.
        breaker: the one to use, for a clock other than the usual one.
    """

    def __init__(
        self,
        url: str,
        logger: logging.Logger,
        call_s: float,
        *,
        without: str,
        forgiving: bool,
        recovered: Callable[[SendPipeline], Awaitable[None]] | None = None,
        scripts: Sequence[Script] = (),
        patient: bool = False,
        breaker: Breaker | None = None,
    ) -> None:
        self._call_s = call_s
        self._connect_s = max(call_s, _CONNECT_S)
        self._client = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=self._connect_s, socket_timeout=None, retry=None, max_connections=4
        )
        self._logger = logger
        self._without = without
        self._forgiving = forgiving
        self._patient = patient
        self._recovered = recovered
        #: Is ``recovered`` to be called before the next trip?
        self._suspect = recovered is not None
        self._scripts = {script.digest: script for script in scripts}
        #: A connection was used before: no time for making one need be allowed.
        self._connected = False
        self._breaker = breaker or Breaker()
        #: Commands that wait for the next trip; each trip takes all that are there.
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._pump: asyncio.Task[None] | None = None
        #: What was wrong at the last failure; at the last refusal, and when that was.
        self._problem: Problem | None = None
        self._refusal: Problem | None = None
        self._refused_at = -math.inf
        #: When calls failed lately, and those whose answers are still waited for.
        self._failed_at: deque[float] = deque(maxlen=_UNRELIABLE_FAILURES)
        self._late: set[asyncio.Task[None]] = set()

    @property
    def is_down(self) -> bool:
        """Return whether Redis failed several times in a row, up to the last time."""
        return self._breaker.is_open

    @property
    def problem(self) -> str | None:
        """Return what is wrong with Redis while it is down, or refuses commands; None when nothing is."""
        refusing = self._refusal if time.monotonic() - self._refused_at < _REFUSING_S else None
        wrong = self._problem if self.is_down else refusing
        return None if wrong is None else wrong.what

    @property
    def unreliable(self) -> bool:
        """Return whether several calls of the last minute had no answer in time, though others had."""
        failed = self._failed_at
        return len(failed) == _UNRELIABLE_FAILURES and time.monotonic() - failed[0] < _UNRELIABLE_S

    async def ask(self, *command: Any) -> Any:
        """Return what Redis answers to one command.

        Raises:
            RedisUnavailable: when there is no answer.
            RedisRefusal: when it refuses; only where the link is forgiving.
        """
        if self._breaker.is_open and not self._breaker.admits():
            raise RedisUnavailable
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._travel())
        found = await answer
        if isinstance(found, ResponseError):
            self._note_refusal(found)
            raise RedisRefusal
        if isinstance(found, Exception):
            raise found if isinstance(found, RedisUnavailable) else RedisUnavailable
        return found

    def _note_refusal(self, error: ResponseError) -> None:
        """Note that a command was refused; of the error only its class is logged: its text may hold what was sent."""
        refusal, kind = problem_of(error), type(error).__name__
        if not concerns_one_key(error):
            self._refusal, self._refused_at = refusal, time.monotonic()
        once_a_minute(self._logger.warning, "%s (%s): %s", refusal.what, kind, self._without)

    async def ask_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Return what Redis answers to several commands; an exception stands for a missing answer."""
        return list(await asyncio.gather(*(self.ask(*command) for command in commands), return_exceptions=True))

    async def run(self, script: Script, names: Sequence[str], *arguments: Any) -> Any:
        """Return what a script answers; raises as ``ask`` does."""
        return await self.ask(*script.command(names, *arguments))

    async def _travel(self) -> None:
        """Send commands until none waits. A caller that has left does not hold up the others."""
        while self._waiting:
            trip, self._waiting = self._waiting[:_TRIP], self._waiting[_TRIP:]
            answers = await self._trip([command for command, _ in trip])
            for (_, waiting), answer in zip(trip, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)
            if self._breaker.is_open:
                for _, waiting in self._waiting:
                    if not waiting.done():
                        waiting.set_result(RedisUnavailable())
                self._waiting.clear()

    async def _trip(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, and return their answers; an exception for each that has none."""
        was_open = self._breaker.is_open
        try:
            if self._suspect and self._recovered is not None:
                await self._recovered(self._send_in_time)
                self._suspect = False
        except Exception as error:  # whatever it is, Redis cannot be relied on
            self._fail(error)
            return [RedisUnavailable() for _ in commands]
        sending = asyncio.ensure_future(self._send(commands))
        try:
            answers = await _within(self._limit_s(), sending)
            self._connected = True
            if problem := next((answer for answer in answers if self._counts_as_failure(answer)), None):
                raise problem
        except Exception as error:  # the client's parser raises anything; else the callers would wait for ever
            self._fail(error)
            return self._wait_on(sending, len(commands))
        self._breaker.succeeded()
        if was_open:
            self._failed_at.clear()
            self._logger.warning("Redis answers again: until now, %s", self._without)
        return answers

    async def _send_in_time(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands before others are; raises when there are no answers in time."""
        sending = asyncio.ensure_future(self._send(commands))
        try:
            answers = await _within(self._limit_s(), sending)
        finally:
            sending.cancel()
        self._connected = True
        return answers

    def _limit_s(self) -> float:
        """Return how long the next trip may take. While Redis owes an answer it may be frozen: less each time.

        A probe has all the time that a new connection needs.
        """
        if self._late and self._breaker.failures and not self._breaker.is_open and not self._patient:
            return self._call_s / (1 << self._breaker.failures)
        return self._call_s if self._connected else self._connect_s

    def _fail(self, error: Exception) -> None:
        """Note a failure, and log when it is one too many."""
        was_open, was_unreliable = self._breaker.is_open, self.unreliable
        self._breaker.failed()
        before, self._problem = self._problem, problem_of(error)
        self._failed_at.append(time.monotonic())
        self._connected = False
        self._suspect = self._recovered is not None
        if self._breaker.is_open and not (was_open and self._problem == before):
            what, fix, kind = self._problem.what, self._problem.fix, type(error).__name__
            self._logger.warning("%s (%s): %s. %s", what, kind, self._without, fix)
        elif self.unreliable and not was_unreliable and not was_open:
            self._logger.warning("Redis often answers late (%s): then, %s", type(error).__name__, self._without)

    def _wait_on(self, sending: asyncio.Future[list[Any]], count: int) -> list[Any]:
        """Return a failure for each command; where answers may still come, with a future for each."""
        if sending.done():
            return [RedisUnavailable() for _ in range(count)]
        late: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in range(count)]
        task = asyncio.create_task(_deliver(sending, late))
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return [RedisUnavailable(each) for each in late]

    def _counts_as_failure(self, answer: Any) -> bool:
        return isinstance(answer, Exception) and not (self._forgiving and isinstance(answer, ResponseError))

    async def _send(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together; scripts that Redis has not seen are sent again, with their text."""
        answers = await self._execute(commands)
        unseen = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unseen:
            again = [self._scripts[commands[place][1]].evaluation(commands[place]) for place in unseen]
            for place, answer in zip(unseen, await self._execute(again), strict=True):
                answers[place] = answer
        return answers

    async def _execute(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pump is not None:
            await self._pump
        for task in tuple(self._late):
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._client.aclose()


async def _deliver(sending: asyncio.Future[list[Any]], late: list[asyncio.Future[Any]]) -> None:
    """Hand late answers on, None for each when there are none."""
    answers: list[Any] = [None] * len(late)
    try:
        async with asyncio.timeout(_MAX_LATE_S):
            answers = await sending
    except Exception:  # noqa: S110 - as good as no answer; the call that it belongs to has failed already
        pass
    finally:
        for future, answer in zip(late, answers, strict=True):
            if not future.done():
                future.set_result(answer)


async def _within(limit_s: float, call: asyncio.Future[T]) -> T:
    """Await ``call`` for so long. An answer that is there counts, even if this process was too busy to look in time.

    Raises:
        TimeoutError: when there is none; the call goes on.
    """
    try:
        done, _ = await asyncio.wait({call}, timeout=limit_s)
    except asyncio.CancelledError:
        call.cancel()
        raise
    for _ in range(_LAST_LOOKS):
        if not done:
            await asyncio.sleep(0)
            done = {call} if call.done() else set()
    if not done:
        raise TimeoutError
    return call.result()
