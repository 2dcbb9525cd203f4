"""A gateway as in a hardened container: nothing can be written but the folder for temporary files, by no known user."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.clients import ask, chat
from tests.support import Gateway, ScriptedUpstream

from .tools import skip, tool

USER, WORKERS, LIMIT = 65532, 2, 50
#: In a mount namespace of its own: 64 MiB of memory at $1, all else read-only, then the program as another user.
SCRIPT = f"""\
set -e
tmp=$1; shift
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$tmp"
findmnt -rno TARGET | while read -r place; do
  case $place in "$tmp"|/proc*|/sys*|/dev|/dev/pts|/dev/mqueue) ;; *) mount -o remount,bind,ro "$place" ;; esac
done
exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all -- "$@"
"""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Two processes of it."""
    if os.geteuid() != 0:
        skip("a mount namespace needs root")
    with ScriptedUpstream(["m"]) as upstream, tempfile.TemporaryDirectory(prefix="read-only-") as folder:
        env = {"OPENAI_BASE_URL": upstream.base_url, "RATE_LIMIT_REQUESTS": str(LIMIT), "WEB_CONCURRENCY": str(WORKERS)}
        within = [tool("unshare"), "--mount", "sh", "-c", SCRIPT, "sh", folder]
        with Gateway(env={**env, "TMPDIR": folder}, within=within, ready_path="/ready") as started:
            yield started


def test_it_serves_and_its_limits_are_exact(gateway: Gateway) -> None:
    for pid in gateway.worker_pids(WORKERS):
        process = Path(f"/proc/{pid}")
        assert {*process.joinpath("status").read_text().partition("\nUid:\t")[2].split("\n")[0].split()} == {str(USER)}
        mounts = [line.split() for line in process.joinpath("mounts").read_text().splitlines()]
        writable = {place for _, place, kind, options, *_ in mounts if "rw" in options.split(",")}
        assert {place for place in writable if not place.startswith(("/proc", "/sys", "/dev"))} == {
            gateway.environment["TMPDIR"]
        }

    with ThreadPoolExecutor(20) as clients:
        statuses = Counter(clients.map(lambda _: ask(gateway, chat(gateway, "m")).status, range(4 * LIMIT)))

    assert statuses == {200: LIMIT, 429: 3 * LIMIT}
    assert "warning" not in gateway.log.lower().replace("deprecationwarning", "")
