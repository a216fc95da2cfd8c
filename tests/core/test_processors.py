import os
from pathlib import Path

import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.processors import usable

TWO = "32 31 0:29 {root} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
ONE = (
    "32 31 0:29 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "33 32 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "34 32 0:31 {root} /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)
MANY = 64


def system(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    """A file system with /proc and /sys as a process in a container sees them."""
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(MANY)))


def two(quota: str, group: str = "/", root: str = "/") -> tuple[str, str, dict[str, str]]:
    return TWO.format(root=root), f"0::{group}\n", {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}


def one(quota: int, group: str = "/", root: str = "/", folder: str = "") -> tuple[str, str, dict[str, str]]:
    where = f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_"
    groups = f"5:cpuset:{group}\n4:cpuacct,cpu:{group}\n1:name=systemd:{group}\n0::/elsewhere\n"
    return ONE.format(root=root), groups, {f"{where}quota_us": f"{quota}\n", f"{where}period_us": "100000\n"}


@pytest.mark.parametrize(
    ("given", "number", "reason"),
    [
        (two("200000"), 2, "a quota of 2 CPUs in /sys/fs/cgroup/cpu.max"),
        (two("150000"), 2, "a quota of 1.5 CPUs in /sys/fs/cgroup/cpu.max"),
        (two("50000"), 1, "a quota of 0.5 CPUs in /sys/fs/cgroup/cpu.max"),
        (two("max"), MANY, "all of this machine"),
        (two("9900000"), MANY, "all of this machine"),
        (two("garbage"), MANY, "all of this machine"),
        # The path of the host, where the mount shows no more than the container's own group.
        (two("300000", "/docker/abc", "/docker/abc"), 3, "a quota of 3 CPUs in /sys/fs/cgroup/cpu.max"),
        (two("300000", "/../other"), 3, "a quota of 3 CPUs in /sys/fs/cgroup/cpu.max"),
        # Of a group above.
        (two("400000", "/system.slice/unit"), 4, "a quota of 4 CPUs in /sys/fs/cgroup/cpu.max"),
        (one(250_000), 3, "a quota of 2.5 CPUs in /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"),
        (one(-1), MANY, "all of this machine"),
        (
            one(100_000, "/docker/abc", folder="docker/abc/"),
            1,
            "a quota of 1 CPUs in /sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us",
        ),
        (
            one(100_000, "/docker/abc", "/docker/abc"),
            1,
            "a quota of 1 CPUs in /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
        ),
    ],
)
def test_a_quota_of_the_container_limits_the_cores(
    tmp_path: Path, given: tuple[str, str, dict[str, str]], number: int, reason: str
) -> None:
    found = usable(system(tmp_path, *given))
    assert (found.number, found.reason) == (number, reason)
    assert found.limited == (number < MANY)


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    mounts, groups, files = two("100000", "/a/b")
    place = system(tmp_path, mounts, groups, {**files, "sys/fs/cgroup/a/cpu.max": "200000 100000"})
    assert usable(place).number == 1
    (place / "sys/fs/cgroup/cpu.max").write_text("max 100000")
    assert usable(place).reason == "a quota of 2 CPUs in /sys/fs/cgroup/a/cpu.max"


def test_the_affinity_of_the_process_counts_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    found = usable(system(tmp_path, *two("max")))
    assert (found.number, found.reason) == (2, "the affinity of this process, of 64 in this machine")
    assert usable(tmp_path / "no proc").number == 2


def test_a_process_may_be_told_its_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRL_CORES", "3")
    assert (usable().number, usable().limited) == (3, True)
    for wrong in ("0", "many", "1.5"):
        monkeypatch.setenv("FEDRL_CORES", wrong)
        with pytest.raises(ConfigError, match=r"^FEDRL_CORES is '.+Set one, or unset it"):
            usable()
