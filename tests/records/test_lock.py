"""One process per folder: the next one is told who holds it, and nothing that a dead process leaves is in the way."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedrl.core.errors import RunError
from fedrl.records import lock
from fedrl.records.lock import hold

HOLDER = """
import sys, time
from pathlib import Path
from fedrl.records.lock import hold
held = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_process_is_told_who_is_the_first_and_a_killed_one_is_forgotten(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(RunError) as rejected:
                hold(tmp_path)
        finally:
            other.send_signal(signal.SIGKILL)
    assert f"{tmp_path} is in use by process {other.pid} on {socket.gethostname()} since 2" in str(rejected.value)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == other.pid
    hold(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_one_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    first = hold(tmp_path)
    with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
        hold(tmp_path)
    assert (tmp_path / ".lock").exists()
    first.release()
    hold(tmp_path).release()


def test_a_lock_whose_file_was_deleted_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before releases between our opening of the file and our locking it; a third has made a new one."""
    late = hold(tmp_path)
    calls = []

    def locked(descriptor: int) -> bool:
        if not calls:
            late.release()
        calls.append(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    monkeypatch.setattr(lock, "_locked", locked)
    held = hold(tmp_path)
    assert len(calls) == 2
    assert os.path.samestat((tmp_path / ".lock").stat(), os.fstat(held.descriptor))
    held.release()


def test_without_locks_of_the_file_system_a_file_takes_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = hold(tmp_path)
    with pytest.raises(
        RunError, match=rf"in use by process {os.getpid()} .* If that process has ended, delete {tmp_path}"
    ):
        hold(tmp_path)
    held.release()
    hold(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(RunError, match=rf"^{tmp_path} can't be written to \({os.strerror(number)}\)\. Free space"):
            hold(tmp_path)
