"""The enrolment table: which names may take part, the number of each, and which certificates are revoked.

    fedrl certs issue, sign, renew, revoke  -->  enrolment.json  -->  a coordinator, again and again

The table is one JSON file, replaced atomically. A coordinator reads it again when it has changed, so names are added
and revoked without restarting it. A certificate is admitted only if its serial number stands in the table under its
name: neither a revoked certificate nor one that the table has never heard of is enough, whoever signed it.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import ConfigError
from fedrl.transport.private_files import make_folder, read_file, write_private

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CURE = "Restore enrolment.json from a backup, or issue the certificates again in a new folder."


class Enrolled(NamedTuple):
    """What the table has of a name.

    Attributes:
        seat: Its number in the federation. It stays that of the name also when all its certificates are revoked.
        serials: Serial numbers of its certificates that are admitted, in hexadecimal.
        revoked: Serial numbers of those that were revoked, and when.
    """

    seat: int
    serials: tuple[str, ...]
    revoked: dict[str, str]


Table = dict[str, Enrolled]


class Enrolment:
    """The enrolment table in a file, read again whenever the file has changed.

    Args:
        path: The file; the table is empty as long as there is none.

    Raises:
        ConfigError: The file is no enrolment table.

    >>> import tempfile
    >>> table = Enrolment(Path(tempfile.mkdtemp()) / "enrolment.json")
    >>> table.add("site-1", serial=77), table.allowed("site-1", 77), table.allowed("site-1", 78)
    (0, True, False)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._table: Table = {}
        self.table()

    def table(self) -> Table:
        """Return the table as it is now.

        Raises:
            ConfigError: The file is damaged, or can't be read.
        """
        seen = _signature(self.path)
        if seen != self._seen:
            self._table = {} if seen is None else _parsed(self.path)
            self._seen = seen
        return self._table

    def allowed(self, name: str, serial: int) -> bool:
        """Return whether a certificate may take part; no one may if the file can't be read."""
        return not self.refusal(name, serial)

    def refusal(self, name: str, serial: int) -> str:
        """Return why a certificate may not take part, a sentence for its owner; "" if it may."""
        try:
            entry = self.table().get(name)
        except ConfigError:
            # What is wrong with the file is no business of an agent; `table` tells the coordinator.
            return "The enrolment table of the coordinator can't be read. Ask the coordinator's operator."
        if entry is None:
            return f"The name {name!r} is not enrolled. Ask the coordinator's operator for a certificate."
        if hex_of(serial) in entry.revoked:
            when = entry.revoked[hex_of(serial)]
            return f"The certificate of {name!r} was revoked at {when}. Ask the coordinator's operator for a new one."
        if hex_of(serial) not in entry.serials:
            return (
                f"The certificate of {name!r} with serial number {hex_of(serial)} is not enrolled. The coordinator's "
                "operator has to copy the newest enrolment.json to the coordinator."
            )
        return ""

    def seat(self, name: str) -> int:
        """Return the number of a name.

        Raises:
            ConfigError: It is not enrolled.
        """
        entry = self.table().get(name)
        if entry is None:
            raise ConfigError(f"{name!r} is not enrolled in {self.path}. Run: fedrl certs issue {name}")
        return entry.seat

    def add(self, name: str, serial: int) -> int:
        """Admit a certificate of a name, which gets the lowest number that no name has had, and return its number.

        Raises:
            ConfigError: The file is damaged, or can't be written.
        """
        with self._changing() as table:
            old = table.get(name) or Enrolled(max((each.seat for each in table.values()), default=-1) + 1, (), {})
            table[name] = old._replace(serials=(*old.serials, hex_of(serial)))
            return table[name].seat

    def revoke(self, name: str) -> tuple[str, ...]:
        """Revoke all certificates of a name, and return their serial numbers.

        Raises:
            ConfigError: The name is not enrolled, or has no certificate left that is admitted.
        """
        with self._changing() as table:
            entry = table.get(name)
            if entry is None or not entry.serials:
                found = "is not enrolled" if entry is None else "has no certificate that is not revoked"
                raise ConfigError(f"{name!r} {found} in {self.path}. `fedrl certs list` shows all names.")
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            table[name] = Enrolled(entry.seat, (), {**entry.revoked, **dict.fromkeys(entry.serials, now)})
            return entry.serials

    @contextmanager
    def _changing(self) -> Iterator[Table]:
        """Change the table while no other process does."""
        make_folder(self.path.parent)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            table = dict(self.table())
            yield table
            agents = {name: entry._asdict() for name, entry in table.items()}
            content = json.dumps({"format": FORMAT, "agents": agents}, indent=2)
            write_private(self.path, f"{content}\n".encode())
        finally:
            os.close(folder)


def hex_of(serial: int) -> str:
    """Return a serial number as the table has it.

    >>> hex_of(255)
    'ff'
    """
    return f"{serial:x}"


def check_name(name: str) -> str:
    """Return a name, if certificates may have it.

    Raises:
        ConfigError: It has other characters than letters, digits, dots, dashes and underscores, or more than 64.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't be the name of a certificate. It has to be 1 to 64 letters, digits, '.', '-' and '_', "
            "beginning with a letter or digit."
        )
    return name


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ConfigError(f"{path} can't be read ({fault.strerror}). Make it readable for this user.") from fault
    return found.st_ino, found.st_mtime_ns, found.st_size


def _parsed(path: Path) -> Table:
    content = read_file(path)
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise ConfigError(
                f"{path} has format {found['format']!r}, and this version of fedrl reads {FORMAT}. Install the newer "
                "version of fedrl that wrote it."
            )
        table = {str(name): _entry(entry) for name, entry in found["agents"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        if isinstance(fault, ConfigError):
            raise
        raise ConfigError(f"{path} is no enrolment table ({type(fault).__name__}: {fault}). {CURE}") from fault
    seats = [entry.seat for entry in table.values()]
    if len(set(seats)) != len(seats):
        raise ConfigError(f"{path} gives one number to two names. {CURE}")
    return table


def _entry(entry: Any) -> Enrolled:
    if not isinstance(entry["seat"], int) or entry["seat"] < 0:
        raise ValueError(f"seat {entry['seat']!r}")
    serials, revoked = entry["serials"], entry["revoked"]
    if not isinstance(serials, list) or not all(isinstance(each, str) for each in (*serials, *revoked.values())):
        raise ValueError("serial numbers have to be texts")
    return Enrolled(entry["seat"], tuple(serials), dict(revoked))
