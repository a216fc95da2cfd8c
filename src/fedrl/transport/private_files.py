"""Files that hold keys, and files beside them: written whole or not at all, and refused if others may read a key."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from fedrl.core import durable
from fedrl.core.errors import ConfigError


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, and those above it, unless they exist.

    Raises:
        ConfigError: It can't be made.
    """
    try:
        for each in (*reversed(folder.parents), folder):
            each.mkdir(mode=0o700, exist_ok=True)
    except OSError as fault:
        raise ConfigError(
            f"{folder} can't be made ({fault.strerror}). Name a folder that can be written to."
        ) from fault


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the content of a file atomically; it never exists with a looser mode than this one.

    Raises:
        ConfigError: It can't be written; the old content is kept.
    """
    try:
        durable.replace(path, content, mode)
    except OSError as fault:
        cure = "Free space on the disk or make the folder writable."
        raise ConfigError(f"{path} can't be written ({fault.strerror}). {cure}") from fault


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ConfigError: It is missing or can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ConfigError(f"{path} can't be read ({fault.strerror}). Check the path and who may read it.") from fault


def read_key(path: Path) -> bytes:
    """Return the content of a file with a key, if only its owner may read it.

    Raises:
        ConfigError: It is missing, can't be read, or others may read or write it.
    """
    try:
        with path.open("rb") as file:
            # Of the open file, so that another can't be put in its place between the check and the reading.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"{path} has mode {mode:04o}, so others than its owner may use the key. Run: chmod 600 "
                    f"{shlex.quote(str(path))}"
                )
            return file.read()
    except OSError as fault:
        raise ConfigError(f"{path} can't be read ({fault.strerror}). Check the path and who may read it.") from fault
