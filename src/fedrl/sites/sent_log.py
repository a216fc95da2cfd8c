"""The log of every message that left a site: one JSON object a line, written to the disk before the message is sent.

    message --> {"n", "time", "run", "kind", "job", "fields", "bytes", "hash", "before"} --fsync--> sent

`hash` is the SHA-256 of the frames that leave. `before` is the SHA-256 of the line before, so that a line that was
changed, removed or put in is found by `read_log`. What the chain alone can't show is the loss of the last lines, or a
log that was written anew from its first line: compare the hash of the last line with one noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import RunError
from fedrl.transport.notices import as_text

FIRST = "0" * 64
"""`before` of the first line."""
NAME = "sent.jsonl"


class LogRecord(NamedTuple):
    """One message that left, as its line says.

    Attributes:
        n: Number of the line, from 1 on.
        time: Seconds since 1970.
        run: Identity of the run; "" before the first `Welcome`.
        kind: Kind of the message, such as "Sent".
        job: Number of its job; 0 for none.
        fields: Names of its fields.
        size_bytes: Bytes of all its frames.
        hash: SHA-256 of these bytes.
    """

    n: int
    time: float
    run: str
    kind: str
    job: int
    fields: tuple[str, ...]
    size_bytes: int
    hash: str


class ReadLog(NamedTuple):
    """A log that was read.

    Attributes:
        records: The records, in order, up to the first line that does not fit.
        fault: What does not fit, one sentence; "" if the chain is whole.
        last: SHA-256 of the last line that fits.
        size_bytes: Bytes of the lines that fit.
    """

    records: list[LogRecord]
    fault: str
    last: str
    size_bytes: int


def read_log(path: Path) -> ReadLog:
    """Read a log and check its chain; a last line that a crash has cut off is left out.

    Raises:
        RunError: The file can't be read.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as fault:
        raise RunError(f"{path} can't be read ({fault.strerror}). Make it readable for this user.") from fault
    found: list[LogRecord] = []
    last, size = FIRST, 0
    for line in data.split(b"\n")[:-1]:  # without a line break at its end, the last line was never complete
        record, why = _read_line(line, len(found) + 1, last)
        if record is None:
            wrong = f"Line {len(found) + 1} of {path} {why}. The log was changed after it was written, or is damaged."
            return ReadLog(found, wrong, last, size)
        found.append(record)
        last, size = hashlib.sha256(line).hexdigest(), size + len(line) + 1
    return ReadLog(found, "", last, size)


def _read_line(line: bytes, n: int, before: str) -> tuple[LogRecord | None, str]:
    try:
        data: Any = json.loads(line)
        found = LogRecord(
            int(data["n"]),
            float(data["time"]),
            str(data["run"]),
            str(data["kind"]),
            int(data["job"]),
            tuple(map(str, data["fields"])),
            int(data["bytes"]),
            str(data["hash"]),
        )
    except (ValueError, KeyError, TypeError):
        return None, "is no record"
    if data.get("before") != before:
        return None, "does not continue the line before it"
    if found.n != n:
        return None, f"has the number {found.n}"
    return found, ""


class SentLog:
    """The log of a site, to which lines are added.

    Args:
        path: Path of the file. It is made with mode 0600 if it does not exist.

    Raises:
        RunError: It can't be written, or its chain is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = read_log(path)
        if found.fault:
            raise RunError(f"{found.fault} Keep it as evidence under another name, and start again.")
        self.records = found.records
        self._count, self._last = len(found.records), found.last
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
            # A line that a crash has cut off was never complete, so its message was not sent.
            os.ftruncate(self._file, found.size_bytes)
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as fault:
            raise self._unwritable(fault) from fault

    def append(self, time: float, run: str, kind: str, job: int, fields: tuple[str, ...], frames: list[bytes]) -> None:
        """Add a line about a message, and wait until it is on the disk.

        Args:
            time: Seconds since 1970.
            run: Identity of the run.
            kind: Kind of the message.
            job: Number of its job; 0 for none.
            fields: Names of its fields.
            frames: Its frames, as they will be sent.

        Raises:
            RunError: The line can't be written; the message may not be sent then.
        """
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(frame)
        line = {
            "n": self._count + 1,
            "time": time,
            "utc": as_text(time),
            "run": run,
            "kind": kind,
            "job": job,
            "fields": list(fields),
            "bytes": sum(map(len, frames)),
            "hash": digest.hexdigest(),
            "before": self._last,
        }
        text = json.dumps(line).encode()
        try:
            before, whole, added = os.lseek(self._file, 0, os.SEEK_CUR), text + b"\n", 0
            try:
                while added < len(whole):  # a full disk may take a part and raise only at the next write
                    added += os.write(self._file, whole[added:])
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)
                os.lseek(self._file, before, os.SEEK_SET)
                raise
        except OSError as fault:
            raise self._unwritable(fault) from fault
        self._count, self._last = self._count + 1, hashlib.sha256(text).hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _unwritable(self, fault: OSError) -> RunError:
        return RunError(
            f"{self.path} can't be written to ({fault.strerror}), and nothing leaves a site without a line in its log. "
            "Free space on the disk, or make the file writable."
        )
