"""Memory of processes and of the machine, as Linux tells it in /proc; elsewhere less is known.

The peak of a process is VmHWM: `ru_maxrss` of a process begins with the memory of the one that started it. Processes
that were forked share pages, so workers are counted by their proportional share.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
SPARE = 0.05
"""Fraction of the memory of the machine, or of its container, that no probe may use."""


def peak_bytes(root: Path = ROOT) -> int:
    """Return the peak resident memory of this process."""
    found = _field(root / "proc/self/status", "VmHWM:")
    if found is not None:
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def workers_bytes(root: Path = ROOT) -> int:
    """Return the present memory of all processes below this one; pages that several share count once."""
    return sum(_field(root / f"proc/{pid}/smaps_rollup", "Pss:") or 0 for pid in descendants(os.getpid(), root))


def resident_bytes(pid: int, root: Path = ROOT) -> int:
    """Return the present resident memory of a process; 0 if it is not known."""
    return _field(root / f"proc/{pid}/status", "VmRSS:") or 0


def machine_bytes(root: Path = ROOT) -> int | None:
    """Return the memory of this machine, or of its container where that has less; None if it is not known."""
    known = [_field(root / "proc/meminfo", "MemTotal:"), _number(root / "sys/fs/cgroup/memory.max")]
    return min((size for size in known if size), default=None)


def spare_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that is still free, of this machine or its container; None if it is not known."""
    free = [_field(root / "proc/meminfo", "MemAvailable:")]
    group = root / "sys/fs/cgroup"
    most, used = _number(group / "memory.max"), _number(group / "memory.current")
    if most is not None and used is not None:
        # Files that were read are kept in memory until something else needs it.
        cached = _field(group / "memory.stat", "inactive_file", unit=1) or 0
        free.append(most - used + cached)
    return min((size for size in free if size is not None), default=None)


def is_short(root: Path = ROOT) -> bool:
    """Return whether so little memory is left that the system would soon end processes."""
    whole, spare = machine_bytes(root), spare_bytes(root)
    return whole is not None and spare is not None and spare < SPARE * whole


def descendants(pid: int, root: Path = ROOT) -> Iterator[int]:
    """Yield the processes that a process has started, and those that they have."""
    try:
        threads = list((root / f"proc/{pid}/task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child, root)


def _field(path: Path, name: str, unit: int = 1024) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((unit * int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
