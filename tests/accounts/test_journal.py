"""The journal outlives its process, and is read by one other."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from one_api.accounts.journal import Journal

RECORDS = [["req_1", 1, None], ["req_2", 2, "text"], ["req_3", 3, True]]


def written(folder: Path) -> Path:
    """A journal with the records, whose process has ended."""
    journal = Journal.create(folder)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return journal.path


def test_what_a_process_left_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path)

    (journal,) = Journal.abandoned(tmp_path)
    assert journal.records() == RECORDS
    journal.remove()

    assert not path.exists()
    assert list(Journal.abandoned(tmp_path)) == []


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path)

    assert list(Journal.abandoned(tmp_path)) == []
    journal.remove()


def test_a_journal_is_not_taken_for_abandoned_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, found = fcntl.flock, list[Journal]()

    def look_and_lock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        found.extend(Journal.abandoned(tmp_path))  # as another process may at any moment
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", look_and_lock)
    journal = Journal.create(tmp_path)

    assert found == []
    assert [*tmp_path.iterdir()] == [journal.path]
    journal.remove()


def test_the_journal_of_a_killed_process_is_found(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from one_api.accounts.journal import Journal;"
        f"j = Journal.create(Path({str(tmp_path)!r})); j.append(['req_1']); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert list(Journal.abandoned(tmp_path)) == []
        process.send_signal(signal.SIGKILL)
        process.wait()

    (journal,) = Journal.abandoned(tmp_path)
    assert journal.records() == [["req_1"]]
    journal.remove()


def test_of_a_journal_that_is_cut_anywhere_all_whole_records_count(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes().rstrip(b"\0")
    ends = [len(whole) * part // len(RECORDS) for part in range(len(RECORDS) + 1)]
    found = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        (journal,) = Journal.abandoned(tmp_path)
        found.append(len(journal.records()))
        journal.close()

    assert found[0] == 0
    assert found[-1] == len(RECORDS)
    assert found == sorted(found)
    assert len(ends) == len(set(found))


def test_a_record_that_was_changed_ends_the_journal(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    data[-1] ^= 1
    path.write_bytes(data)

    (journal,) = Journal.abandoned(tmp_path)
    assert journal.records() == RECORDS[:-1]
    journal.remove()


def test_a_cleared_journal_is_empty(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path)
    for record in RECORDS:
        journal.append(record)
    journal.clear()
    assert journal.records() == []
    journal.append(RECORDS[1])

    assert journal.records() == [RECORDS[1]]
    journal.remove()


def test_a_journal_that_was_long_takes_no_more_room_than_another_once_it_is_empty(tmp_path: Path) -> None:
    journal, other = Journal.create(tmp_path), Journal.create(tmp_path)
    records = [["req", "x" * 1000, number] for number in range(2000)]
    for record in records:
        journal.append(record)
    assert journal.records() == records

    journal.clear()

    assert journal.path.stat().st_blocks == other.path.stat().st_blocks > 0
    for each in (journal, other):
        each.remove()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_an_error_and_leaves_no_part_of_the_record() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    journal = Journal(Path("/dev/full"), descriptor)

    with pytest.raises(OSError, match="No space left"):
        journal.append(RECORDS[0])
    assert (journal.size, journal.records()) == (0, [])
    journal.close()
