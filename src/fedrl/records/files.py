"""How files are written so that a crash at any moment leaves something readable, and what is said if they can't be.

content --> .NAME.draft, flushed to the disk --> NAME         the old content or the new, never a part of either
record  --> one more line at the end                          removed again if the disk took only a part of it
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import RunError
from fedrl.records.earlier import with_todays_names

FREE = "Free space on the disk or make the folder writable, then go on with fedrl run --resume."
OTHER_FILE = "Free space on the disk, make the folder writable, or name another file with --out."


def write_atomically(path: Path, content: bytes, cure: str = FREE) -> None:
    """Replace a file as a whole: whoever reads it, even after a crash, finds the old content or the new.

    What is no file, such as /dev/stdout, is written to as it is.

    Raises:
        RunError: It can't be written; the old content is still there.
    """
    with writing(path, cure):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path = path.resolve()  # a link stays a link
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


def append(path: Path, line: str) -> None:
    """Add a line to a file and hand it to the operating system, as a whole or not at all.

    Raises:
        RunError: It can't be written.
    """
    with writing(path), path.open("ab", buffering=0) as lines:
        whole, added = f"{line}\n".encode(), 0
        before = lines.seek(0, os.SEEK_END)
        try:
            while added < len(whole):  # a full disk may take a part and only then complain
                added += lines.write(whole[added:])
        except OSError:
            with contextlib.suppress(OSError):
                lines.truncate(before)
            raise


def tidy(folder: Path) -> None:
    """Remove the drafts that a killed process left in a folder."""
    for draft in folder.glob(".*.draft"):
        with contextlib.suppress(OSError):
            draft.unlink()


@contextmanager
def writing(path: Path, cure: str = FREE) -> Iterator[None]:
    """Inside the `with`, what the operating system refuses becomes one sentence."""
    try:
        yield
    except OSError as fault:
        raise unwritable(path, fault, cure) from fault


def unwritable(path: Path, fault: OSError, cure: str = FREE) -> RunError:
    """What is said when the operating system refuses to write."""
    return RunError(f"{path} can't be written to ({_reason(fault)}). {cure}")


@contextmanager
def reading(path: Path, cure: str) -> Iterator[None]:
    """Inside the `with`, what can't be read becomes one sentence; a file that is not there stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise RunError(f"{path} can't be read ({_reason(fault)}). Make it readable for this user.") from fault
    except Exception as fault:  # each format has errors of its own
        raise RunError(f"{path} is damaged ({fault}), as after a full disk or a broken copy. {cure}") from fault


class Records(NamedTuple):
    """What a file of records holds.

    Attributes:
        records: Each round of each seed of each method once, as it was written last.
        doubled: How many more lines tell of a round that a later line tells of again.
        unreadable: How many lines are no records, a torn last one left out.
        torn: Whether the last line was cut short: by a crash, after which its round is run again.
    """

    records: list[dict[str, Any]]
    doubled: int = 0
    unreadable: int = 0
    torn: bool = False

    def notes(self, torn: bool = False) -> list[str]:
        """What is wrong with the file, a sentence each; a torn last line counts only if asked for."""
        notes, unreadable = [], self.unreadable + (torn and self.torn)
        if unreadable:
            notes.append(f"{_lines(unreadable)} of records.jsonl could not be read; left out.")
        if self.doubled:
            notes.append(
                f"{_lines(self.doubled)} of records.jsonl left out: a later line tells of the same round, as when two "
                "processes wrote to one folder."
            )
        return notes


def read_records(path: Path) -> Records:
    """Read a file of records, whatever state it is in; none if there is no file.

    Raises:
        RunError: The operating system refuses.
    """
    try:
        with reading(path, "Copy it anew."):
            lines = path.read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return Records([])
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    doubled = unreadable = 0
    torn = False
    for i, line in enumerate(lines):
        try:
            record = with_todays_names(json.loads(line))
            which = (str(record["method"]), index(record["seed"]), index(record["round"]))
        except (ValueError, KeyError, TypeError):
            bad = bool(line.strip())
            torn = bad and i == len(lines) - 1
            unreadable += bad and not torn
            continue
        doubled += found.pop(which, None) is not None  # the last one also takes the last place
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
