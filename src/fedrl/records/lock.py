"""One process per folder: whoever writes to a run or study folder holds its lock, and the next one is told who does.

The lock is the operating system's (flock; on Windows msvcrt), so it ends with its process, however that ends: after
a kill or a reboot nothing is left that blocks. The file `.lock` says for people who holds it, and is gone when nobody
does. Readers need no lock, since files are replaced as a whole.

On NFS the lock reaches other machines (NFS 4, or 3 with its lock service). Mounted with `nolock` or `local_lock`, and
on Lustre with `localflock`, it is known to one machine only. A file system that has no locks at all gets a file that
must not exist yet instead; after a kill that one has to be deleted by hand, and the message says so.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrl.core.errors import RunError
from fedrl.records.files import unwritable

LOCK = ".lock"
SUBSTITUTE = ".lock.held"
TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@dataclass(frozen=True)
class Held:
    """The lock of a folder, held until it is released or this process ends."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Give it back; the file goes first, so that nobody is left holding a lock that has no file."""
        windows = sys.platform == "win32"  # an open file can't be deleted there
        with contextlib.suppress(OSError):
            if not windows:
                self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        with contextlib.suppress(OSError):
            if windows:
                self.path.unlink(missing_ok=True)


def hold(folder: Path, thing: str = "run") -> Held:
    """Take the lock of a folder.

    Args:
        folder: Which; it exists.
        thing: What is in it, for the message.

    Raises:
        RunError: Another process holds it, or the folder can't be written to.
        FileNotFoundError: The folder is gone.
    """
    path = folder / LOCK
    while True:
        with _refusals(folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with _refusals(folder):
                if not _locked(descriptor):
                    raise RunError(_in_use(folder, thing, path))
                if _is(path, descriptor):  # else deleted by the one before, after we had opened it
                    return _signed(path, descriptor)
            os.close(descriptor)
        except BaseException as fault:
            os.close(descriptor)
            if isinstance(fault, _NoLocksError):
                return _without_locks(folder, thing)
            raise


class _NoLocksError(Exception):
    """The file system knows no locks."""


def _locked(descriptor: int) -> bool:
    """Lock an open file, unless somebody else has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far from what is read: a locked byte can't be
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if fault.errno in TAKEN:
            return False
        if fault.errno in NO_LOCKS:
            raise _NoLocksError from fault
        raise
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _without_locks(folder: Path, thing: str) -> Held:
    """The lock as a file that must not exist yet."""
    path = folder / SUBSTITUTE
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
    with _refusals(folder):
        try:
            return _signed(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            raise RunError(
                f"{_in_use(folder, thing, path)} If that process is gone, delete {path}: this file system has no locks "
                "that end with their process."
            ) from None


def _signed(path: Path, descriptor: int) -> Held:
    """Say who holds the lock."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    held = Held(path, descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, (json.dumps(owner) + "\n").encode())
    except OSError:
        held.path.unlink(missing_ok=True)
        raise
    return held


def _in_use(folder: Path, thing: str, path: Path) -> str:
    who = "another process"
    for _ in range(20):  # it may have taken the lock this very moment, and not yet said who it is
        try:
            owner: Any = json.loads(path.read_bytes())
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            break
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.01)
    return (
        f"{folder} is in use by {who}, and two processes would mix up the files of one {thing}. Wait until that one "
        "has ended, or choose another folder."
    )


@contextlib.contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Inside the `with`, what the operating system refuses becomes a sentence; that the folder is gone does not."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise unwritable(folder, fault) from fault
