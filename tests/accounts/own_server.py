"""A PostgreSQL of a test's own, to be stopped, filled and made read-only: nobody else uses it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support import free_port, freeze

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: int(each.parent.name))
_SETTINGS = {
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "min_wal_size": "2MB",
    "max_wal_size": "4MB",
    "autovacuum": "off",
}


def binary(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; None where it is not installed."""
    return shutil.which(name, path=os.pathsep.join([*map(str, reversed(_DEBIAN)), os.environ.get("PATH", "")]))


class OwnServer:
    """A cluster in a folder; a context manager in which it runs.

    PostgreSQL refuses to run as root: then it is nobody's.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._user = "nobody" if os.geteuid() == 0 else None
        self.port = free_port()
        if self._user is not None:
            shutil.chown(folder, self._user)

    def __enter__(self) -> "OwnServer":
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--wal-segsize=1", "--no-sync")
        settings = [f"{name} = '{value}'\n" for name, value in {**_SETTINGS, "port": self.port}.items()]
        with (self._data / "postgresql.conf").open("a") as written:
            written.writelines(settings)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self.stop()

    @property
    def address(self) -> str:
        """The address of its database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Run it; returns once it takes connections."""
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w", "-t", "60", "start")

    def stop(self) -> None:
        """End it as a crash would; it may have ended before."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def freeze(self) -> None:
        """Stop every one of its processes where it is: the first one, which forks no more then, and its children."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                freeze(pid)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _processes(self) -> Iterator[int]:
        """The first process, and then those that it has forked by then; none when it does not run."""
        with contextlib.suppress(OSError):
            first = int((self._data / "postmaster.pid").read_text().split()[0])
            yield first
            yield from map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())

    def read_only(self, value: bool) -> None:
        """Let it refuse to write, in the connections that there are as well; or no longer."""
        with (self._data / "postgresql.conf").open("a") as written:
            written.write(f"default_transaction_read_only = {'on' if value else 'off'}\n")
        self._run("pg_ctl", "-D", str(self._data), "reload")

    def _run(self, name: str, *arguments: str) -> None:
        program = binary(name)
        assert program is not None
        subprocess.run(
            [program, *arguments], user=self._user, check=True, stdout=subprocess.DEVNULL, cwd=self._data.parent
        )
