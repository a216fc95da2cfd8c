"""Writing of files such that a crash at any moment leaves them readable, and errors if they can't be written or read.

content --> .NAME.draft, flushed to the disk --> NAME         the old content or the new, never a part of either
record  --> one more line at the end                          removed again if the disk took only a part of it
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core import durable
from fedrl.core.errors import RunError
from fedrl.records.earlier import with_todays_names

FREE = "Free space on the disk or make the folder writable, then continue with fedrl run --resume."
OTHER_FILE = "Free space on the disk, make the folder writable, or name another file with --out."


def write_atomically(path: Path, content: bytes, cure: str = FREE, before: Callable[[], object] = lambda: None) -> None:
    """Replace the content of a file: after a crash or a power failure there is the old content or the new one.

    A path that is no regular file, such as /dev/stdout, is written to directly. A link that leads out of its folder is
    replaced by the file: a run folder may be someone else's, and its links may lead anywhere. `before` is called when
    the content is on the disk, and the file is not replaced yet.

    Raises:
        RunError: The file can't be written; the old content is kept.
    """
    with writing(path, cure):
        if path.exists() and not path.is_file():
            before()
            path.write_bytes(content)
            return
        target = path.resolve()
        if target.parent == path.parent.resolve():
            path = target  # replacing a symbolic link would detach it from its target
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, content, before=before)


def append(path: Path, line: str) -> None:
    """Append a line to a file and pass it to the operating system, as a whole or not at all.

    Raises:
        RunError: The line can't be written.
    """
    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise RunError(f"{path} is a link to {path.resolve()}, outside its folder, and is not written to. Remove it.")
    with writing(path), path.open("ab", buffering=0) as lines:
        whole, added = f"{line}\n".encode(), 0
        before = lines.seek(0, os.SEEK_END)
        try:
            while added < len(whole):  # a full disk may write a part and raise only at the next write
                added += lines.write(whole[added:])
        except OSError:
            with contextlib.suppress(OSError):
                lines.truncate(before)
            raise


@contextmanager
def writing(path: Path, cure: str = FREE) -> Iterator[None]:
    """Turn an OSError inside the `with` into a RunError of one sentence."""
    try:
        yield
    except OSError as fault:
        # The system's own words are kept: "No space left on device" says more than any paraphrase.
        raise unwritable(path, fault, cure) from fault


def unwritable(path: Path, fault: OSError, cure: str = FREE) -> RunError:
    """Return the error for a path to which the operating system can't write."""
    return RunError(f"{path} can't be written to ({_reason(fault)}). {cure}")


@contextmanager
def reading(path: Path, cure: str) -> Iterator[None]:
    """Turn errors of reading inside the `with` into a RunError; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise RunError(f"{path} can't be read ({_reason(fault)}). Make it readable for this user.") from fault
    except Exception as fault:  # each format has errors of its own
        raise RunError(f"{path} is damaged ({fault}), as after a full disk or a broken copy. {cure}") from fault


class Records(NamedTuple):
    """The content of a file of records.

    Attributes:
        records: The last record of each round of each seed of each method.
        doubled: Number of lines about a round of which a later line has the record, too.
        unreadable: Number of lines that are no records, without a torn last line.
        torn: Whether the last line was cut off by a crash; its round is run again on resuming.
    """

    records: list[dict[str, Any]]
    doubled: int = 0
    unreadable: int = 0
    torn: bool = False

    def notes(self, torn: bool = False) -> list[str]:
        """Return a sentence for each defect of the file; a torn last line counts only if `torn`."""
        notes, unreadable = [], self.unreadable + (torn and self.torn)
        if unreadable:
            notes.append(f"{_lines(unreadable)} of records.jsonl could not be read; left out.")
        if self.doubled:
            notes.append(
                f"{_lines(self.doubled)} of records.jsonl left out: a later line is about the same round, as when two "
                "processes wrote to one folder."
            )
        return notes


def read_records(path: Path) -> Records:
    """Read a file of records, skipping damaged lines; no records if there is no file.

    Raises:
        RunError: The operating system can't read the file.
    """
    try:
        with reading(path, "Copy it again."):
            lines = path.read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return Records([])
    # Bad bytes were replaced above, so that damage costs only its own line.
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    doubled = unreadable = 0
    torn = False
    for i, line in enumerate(lines):
        try:
            record = with_todays_names(json.loads(line))
            which = (str(record["method"]), index(record["seed"]), index(record["round"]))
        except (ValueError, KeyError, TypeError):
            # A crash can only cut the last line; any other bad line is damage, and worth a note.
            bad = bool(line.strip())
            torn = bad and i == len(lines) - 1
            unreadable += bad and not torn
            continue
        doubled += found.pop(which, None) is not None  # so that the last record also takes the last place
        found[which] = record
    return Records(list(found.values()), doubled, unreadable, torn)


def read_json(path: Path, cure: str) -> dict[str, Any] | None:
    """Read a table from a JSON file; None if there is no file.

    Raises:
        RunError: The file is damaged.
    """
    try:
        with reading(path, cure):
            return dict(with_todays_names(json.loads(path.read_bytes())))
    except FileNotFoundError:
        return None


def _reason(fault: OSError) -> str:
    return fault.strerror or str(fault)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
