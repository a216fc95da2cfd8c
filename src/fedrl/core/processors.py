"""How many cores a process may use: affinity, the quotas of its container, and what its user says.

    /proc/self/mountinfo --> where control groups are mounted --+
    /proc/self/cgroup    --> the group of this process ---------+--> cpu.max (version 2), cpu.cfs_quota_us (version 1)

A container with a quota of two cores sees all cores of its machine: `os.cpu_count()` and the affinity do not tell of
the quota. With a thread for each visible core, the kernel stops all of them for most of every period. A worker process
that shares its machine with others is told its part in FEDRL_CORES.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedrl.core.errors import ConfigError

VARIABLE = "FEDRL_CORES"
"""The environment variable that limits the number of cores."""


@dataclass(frozen=True)
class Cores:
    """The cores that this process may use.

    Attributes:
        number: Their number, at least 1.
        reason: What limits it, in words.
        limited: Whether it is a quota, of which nothing but these files tells.
    """

    number: int
    reason: str
    limited: bool = False


def cores() -> int:
    """Return the number of cores that this process may use."""
    return usable().number


def usable(root: Path = Path("/")) -> Cores:
    """Return the cores that this process may use, with the reason.

    A quota is rounded to whole cores: one of 1.5 cores counts as two, whose threads wait for a quarter of the time.

    Args:
        root: The root of the file system with `/proc` and `/sys`.

    Raises:
        ConfigError: FEDRL_CORES is set, and is no number of cores.
    """
    said = os.environ.get(VARIABLE)
    if said:
        if not said.isdecimal() or int(said) < 1:
            raise ConfigError(
                f"{VARIABLE} is {said!r}. It needs to be a whole number of cores, 1 or more. Set one, or unset it."
            )
        return Cores(int(said), f"{VARIABLE} in the environment", True)
    there = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    quota, file = min(_quotas(root), default=(math.inf, ""))
    if quota < allowed:
        return Cores(max(1, math.floor(quota + 0.5)), f"a quota of {quota:g} CPUs in {file}", True)
    if allowed < there:
        return Cores(allowed, f"the affinity of this process, of {there} in this machine")
    return Cores(allowed, "all of this machine")


def _quotas(root: Path) -> Iterator[tuple[float, str]]:
    """Yield the quota of this process's control group and of each one above it, in cores, with its file."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return  # no Linux, or no /proc
    for mount in mounts:
        fields, _, about = mount.partition(" - ")
        kind, _, options = (*about.split(), "", "", "")[:3]
        if kind == "cgroup2":
            controller, quota_in = "", _maximum
        elif kind == "cgroup" and "cpu" in options.split(","):
            controller, quota_in = "cpu", _quota_over_period
        else:
            continue
        top, place = (text.encode().decode("unicode_escape") for text in fields.split()[3:5])
        group = next((path for _, controllers, path in groups if controller in controllers.split(",")), "/")
        folder = PurePosixPath(place)
        # A container sees its own group as the top of the mount, and sometimes the path of the host beside it.
        inside = PurePosixPath(group)
        if inside.is_relative_to(top) and ".." not in inside.parts:
            folder /= inside.relative_to(top)
        for level in (folder, *folder.parents):
            found = quota_in(root / str(level).lstrip("/"))
            if found is not None:
                yield found[0], f"{level}/{found[1]}"
            if level == PurePosixPath(place):
                break


def _maximum(group: Path) -> tuple[float, str] | None:
    """Return the quota of a group of version 2: "150000 100000" is 1.5 cores, "max 100000" none."""
    try:
        most, period = (group / "cpu.max").read_text().split()
        return int(most) / int(period), "cpu.max"
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_over_period(group: Path) -> tuple[float, str] | None:
    """Return the quota of a group of version 1, in microseconds of each period; -1 is none."""
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return (quota / period, "cpu.cfs_quota_us") if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
