"""One writing process per run or study folder: it has the folder's lock, and the error of any other names it.

The lock is the operating system's (flock; on Windows msvcrt), so it ends with its process, also after a kill or a
reboot. The file `.lock` names the process for people, and is removed when the lock is released. Readers need no lock,
since files are replaced atomically.

On NFS the lock is valid for all machines (NFS 4, or 3 with its lock service). Mounted with `nolock` or `local_lock`,
and on Lustre with `localflock`, it is valid on one machine only. On a file system without locks, a file that must not
exist yet takes the lock's place; after a kill this file has to be deleted by hand, and the message says so.
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
# POSIX allows EWOULDBLOCK, EAGAIN or EACCES for a lock that another process has; Windows raises EACCES or EDEADLK.
TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@dataclass(frozen=True)
class Held:
    """The lock of a folder, valid until it is released or this process ends."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Release the lock.

        The file is removed first: otherwise another process could lock it just before, and keep a lock without a file.
        """
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
        folder: An existing folder.
        thing: "run" or "study", for the message.

    Raises:
        RunError: Another process has the lock, or the folder is not writable.
        FileNotFoundError: The folder was removed.
    """
    path = folder / LOCK
    # Opening and locking are two steps, between which the owner may delete the file: hence the loop.
    while True:
        with _refusals(folder):
            # A link in someone else's folder must not have the file truncated to which it leads.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            with _refusals(folder):
                if not _locked(descriptor):
                    raise RunError(_in_use(folder, thing, path))
                if _is(path, descriptor):  # else its owner deleted it after we had opened it: try again
                    return _signed(path, descriptor)
            os.close(descriptor)
        except BaseException as fault:
            os.close(descriptor)
            if isinstance(fault, _NoLocksError):
                return _without_locks(folder, thing)
            raise


class _NoLocksError(Exception):
    """The file system has no locks."""


def _locked(descriptor: int) -> bool:
    """Lock an open file; return False if another process has locked it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far beyond the text: a locked byte can't be read by others
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
    """Take the lock as a file that must not exist yet."""
    path = folder / SUBSTITUTE
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
    with _refusals(folder):
        try:
            return _signed(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            raise RunError(
                f"{_in_use(folder, thing, path)} If that process has ended, delete {path}: this file system has no "
                "locks that end with their process."
            ) from None


def _signed(path: Path, descriptor: int) -> Held:
    """Write the owner of the lock into its file, and return the lock."""
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
    for _ in range(20):  # the owner may have taken the lock just now, and not yet written its name
        try:
            owner: Any = json.loads(path.read_bytes())
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            break
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.01)
    return (
        f"{folder} is in use by {who}. Two processes that write one {thing} would overwrite each other's files. Wait "
        "until that process has ended, or choose another folder."
    )


@contextlib.contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn an OSError inside the `with` into a RunError; a missing folder stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise unwritable(folder, fault) from fault
