"""What an observer sees of a run: every frame at both ends, every version on the coordinator's disk, every fault.

Frames are read here by code of its own, from the description of the protocol. An entry is noted before its frame goes
on, and a version after it is on the disk, so the order of entries is the order of causes.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from pathlib import Path
from typing import Any

import msgpack

HEAD = struct.Struct("<4sBBBBIII")
TASK, SENT = 3, 5
"""Numbers of the kinds of messages that matter here."""


def read_frame(frame: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Return kind, fields and content of a frame; kind -1 if it is none."""
    try:
        _, _, _, kind, _, fields, _, _ = HEAD.unpack_from(frame)
        header = msgpack.unpackb(frame[HEAD.size : HEAD.size + fields])
        return kind, header, frame[HEAD.size + fields :]
    except (struct.error, ValueError, msgpack.exceptions.UnpackException):
        return -1, {}, b""


def digest(content: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


class Transcript:
    """The entries, in order, in memory and as lines of a file."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock, self.entries = path, threading.Lock(), list[dict[str, Any]]()
        self._file = path.open("w")

    def note(self, what: str, **fields: Any) -> None:
        """Add an entry."""
        with self._lock:
            entry = {"what": what, **fields}
            self.entries.append(entry)
            self._file.write(f"{json.dumps(entry)}\n")

    def frame(self, what: str, frame: bytes, **where: Any) -> None:
        """Add an entry about a frame, if it is a task or an update."""
        kind, header, content = read_frame(frame)
        if kind == TASK:
            told = {"job": header["job"], "version": header["version"], "hash": digest(content)}
            self.note(f"{what} task", **told, **where)
        elif kind == SENT:
            told = {"job": header["job"], "version": header["version"], "hash": digest(content), "frame": digest(frame)}
            self.note(f"{what} update", **told, **where)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
