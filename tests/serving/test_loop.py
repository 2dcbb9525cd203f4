"""The background loop of a process, where threads serve, and the connections that its threads look after."""

import fcntl
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from one_api.serving.loop import peer_left
from tests.support.launcher import REPOSITORY

#: Beyond what select() can take.
HIGH_DESCRIPTOR = 1100

#: Prints how many loops there are when many threads ask for theirs at the same moment, the first time.
CROWD = """
import threading
from one_api.serving.loop import background

def ask() -> None:
    together.wait()
    loops.add(background())

loops, together = set(), threading.Barrier(16)
threads = [threading.Thread(target=ask) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(loops))
"""


def test_threads_that_come_at_once_share_one_loop() -> None:
    """Sessions and locks belong to the loop that made them."""
    answer = subprocess.run([sys.executable, "-c", CROWD], cwd=REPOSITORY, capture_output=True, timeout=20, check=True)
    assert answer.stdout == b"1\n"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH_DESCRIPTOR), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("lowest", [0, HIGH_DESCRIPTOR], ids=["low descriptor", "high descriptor"])
def test_a_peer_is_there_until_it_leaves(many_descriptors: None, lowest: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD, lowest)) as connection:
        assert not peer_left(connection)
        theirs.send(b"more")
        assert not peer_left(connection)
        assert connection.recv(10) == b"more"
        theirs.close()
        assert peer_left(connection)
        ours.close()
        connection.close()
        assert peer_left(connection)
