"""The processes that serve one address: how many there are, and a way to ask each of them.

Every process listens on a Unix socket of its own, in a folder that only this user can enter; the name says which parent
started it, so gunicorn's workers find each other however many there are. Nothing is written while requests are served.
Each has a slot, the lowest number that no other one holds: one that takes the place of a process that has ended gets
its number, too.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from one_api.dialects import json
from one_api.dialects.json import JSONObject
from one_api.settings.private_files import open_private, private_folder, user_folder

try:
    import fcntl
except ImportError:  # not a Unix: there is one process
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

#: How long another process may be silent, and how long its whole answer may take, in seconds.
_ANSWER_S, _WHOLE_ANSWER_S = 3.0, 10.0
#: The most processes.
_MAX_SLOTS = 1024
#: The longest question, in bytes.
_MAX_QUESTION_BYTES = 64 * 1024
#: The longest part of an answer, and the longest answer, in bytes.
_MAX_PART_BYTES, _MAX_ANSWER_BYTES = 1024 * 1024, 128 * 1024 * 1024


class Siblings:
    """This process among those that serve the same ``scope`` (a port). Without Unix sockets it is alone."""

    def __init__(self, scope: str, folder: Path | None = None) -> None:
        """Sockets lie in ``folder``, by default one of this user in the folder for temporary files."""
        self._folder = folder or user_folder() / "processes"
        self._scope = scope
        self._server: asyncio.AbstractServer | None = None
        self._path: Path | None = None
        #: Which of the processes this is; it holds the lock of the file with that number until it ends.
        self.slot = 0
        self._slot_file: int | None = None
        #: Answers a question from another process, in one part or several; set by the part that has something to say.
        self.answer: Callable[[JSONObject], AsyncIterator[JSONObject]] = _nothing

    async def start(self) -> None:
        """Listen, on the running loop; where that cannot be done, this process stays alone."""
        if self._server is not None or not hasattr(asyncio, "start_unix_server"):
            return
        try:
            private_folder(self._folder.parent)
            private_folder(self._folder)
            self._clear()
            self._take_slot()
            for old in self._folder.glob(f"{self._group()}{self.slot}-*.sock"):
                old.unlink(missing_ok=True)  # whose it was has ended, even if another process has its id now
            path = self._folder / f"{self._group()}{self.slot}-{os.getpid()}.sock"
            # Between its name and its readiness a socket refuses, as one does that a dead process has left behind:
            # others see it when it is ready.
            made = path.with_suffix(".new")
            self._server = await asyncio.start_unix_server(self._serve, made, limit=_MAX_QUESTION_BYTES)
            self._path = made.rename(path)
        except (OSError, ValueError) as error:
            logger.warning("other processes of this gateway cannot be asked: %s", error)

    def _clear(self) -> None:
        """Remove what processes have left behind that have ended: sockets, and the slots of a parent that has."""
        for old in (*self._folder.glob("*.sock"), *self._folder.glob("*.new")):
            if not _is_alive(int(old.stem.rpartition("-")[2])):
                old.unlink(missing_ok=True)
        for old in self._folder.glob("*.slot"):
            if not _is_alive(int(old.stem.split("-")[-2])):
                old.unlink(missing_ok=True)

    def _take_slot(self) -> None:
        """Take the lowest number that is free; raises OSError when there is none."""
        for slot in range(_MAX_SLOTS):
            file = open_private(self._folder / f"{self._group()}{slot}.slot", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                self.slot, self._slot_file = slot, file
                return
        raise OSError(f"there are more than {_MAX_SLOTS} processes")

    def count(self) -> int:
        """Return how many processes there are now, this one included."""
        return len({os.getpid(), *(_slot_and_pid(path)[1] for path in self._others())})

    async def ask(self, question: JSONObject) -> list[JSONObject]:
        """Return the first part of the answers of all other processes; one that ends meanwhile has none."""
        answers = await self.ask_each(question, _ANSWER_S)
        return [next(iter(answer), {}) for answer in answers.values() if answer is not None]

    async def ask_each(self, question: JSONObject, silence_s: float) -> dict[int, list[JSONObject] | None]:
        """Return all parts of every other process's answer by its slot; None for one that fell silent for so long."""
        others = self._others()
        answers = await asyncio.gather(*(self._ask(path, question, silence_s) for path in others))
        return {
            _slot_and_pid(path)[0]: answer
            for path, answer in zip(others, answers, strict=True)
            if answer is not None or path.exists()  # else the process has ended
        }

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        if self._slot_file is not None:
            os.close(self._slot_file)
            self._slot_file = None

    def _group(self) -> str:
        return f"{self._scope}-{os.getppid()}-"

    def _others(self) -> list[Path]:
        """Return the sockets of the others; those of dead ones are removed.

        A process that does not listen has not seen to it that the folder is this user's: it is alone.
        """
        if self._path is None:
            return []
        found = []
        for path in self._folder.glob(f"{self._group()}*.sock"):
            slot, pid = _slot_and_pid(path)
            if not _is_alive(pid):
                path.unlink(missing_ok=True)
            elif slot != self.slot and pid != os.getpid():
                found.append(path)
        return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question, a part on each line and an empty line after the last, and close."""
        try:
            async with asyncio.timeout(_WHOLE_ANSWER_S):
                question = json.decode_object(await reader.readline())
                async for part in self.answer(question):
                    writer.write(json.encode(part) + b"\n")
                    await writer.drain()
                writer.write(b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # the other one has gone, or says nothing that can be read: it sees an answer without an end
        finally:
            writer.close()

    async def _ask(self, path: Path, question: JSONObject, silence_s: float) -> list[JSONObject] | None:
        try:
            async with asyncio.timeout(_WHOLE_ANSWER_S), asyncio.timeout(silence_s) as silence:
                reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_PART_BYTES)
                try:
                    writer.write(json.encode(question) + b"\n")
                    return await _read_parts(reader, silence, silence_s)
                finally:
                    writer.close()
        except ConnectionRefusedError:
            # Nothing listens there: another process has the id of the one that did.
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - one call of the system
            return None
        except (OSError, TimeoutError, ValueError):  # ValueError: not JSON, or too long
            return None


async def _nothing(_: JSONObject) -> AsyncIterator[JSONObject]:
    yield {}


def _slot_and_pid(path: Path) -> tuple[int, int]:
    """Return what the name of a process's socket ends with."""
    *_, slot, pid = path.stem.split("-")
    return int(slot), int(pid)


async def _read_parts(
    reader: asyncio.StreamReader, silence: asyncio.Timeout, silence_s: float
) -> list[JSONObject] | None:
    """Return all parts of an answer; None if it ends before its end, or is too long."""
    parts: list[JSONObject] = []
    size = 0
    while (line := await reader.readline()) != b"\n":
        size += len(line)
        if not line.endswith(b"\n") or size > _MAX_ANSWER_BYTES:
            return None
        parts.append(json.decode_object(line))
        await asyncio.sleep(0)  # the next lines may be there already: others have the loop between them
        silence.reschedule(asyncio.get_running_loop().time() + silence_s)
    return parts


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
