"""Files that are replaced as a whole: after a crash or a power failure there is the old content or the new one.

content --> .NAME.draft, on the disk --> NAME --> the folder, on the disk
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def replace(path: Path, content: bytes, mode: int | None = None, before: Callable[[], object] = lambda: None) -> None:
    """Replace the content of a file, and return when it is on the disk.

    Args:
        path: The file, in a folder that exists.
        content: Its new content.
        mode: Its permissions, whatever the umask is; it never exists with others. By default those of any new file.
        before: Called when the content is on the disk, and the file is not replaced yet.

    Raises:
        OSError: It can't be written; the old content stays.
    """
    # In the same folder: a rename is atomic only within a file system.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(draft, flags, 0o666 if mode is None else 0o600), "wb") as file:
            if mode is not None and os.name != "nt":
                os.fchmod(file.fileno(), mode)
            file.write(content)
            # Without fsync, a power failure may leave the new name with an empty file.
            file.flush()
            os.fsync(file.fileno())
        before()
        draft.replace(path)
        sync_folder(path.parent)
    # Also on Ctrl-C: a draft left behind would stay until the folder is tidied.
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names of files in a folder are on the disk; without this a power failure may undo a rename."""
    if os.name == "nt":  # a folder can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(folder: Path) -> None:
    """Remove the drafts that a killed process left in a folder."""
    for draft in folder.glob(".*.draft"):
        with contextlib.suppress(OSError):
            draft.unlink()
