"""Run one seed and check it, in a process that may run others after it."""

from __future__ import annotations

import resource
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.chaos.plan import REAL_EVERY, plan_of


def is_real(seed: int) -> bool:
    """Return whether a seed has real processes."""
    return seed % REAL_EVERY == REAL_EVERY - 1


class SeedReport(NamedTuple):
    """What became of a seed."""

    seed: int
    line: str
    faults: Counter[str]
    violations: list[str]


def one(seed: int, faults: int, keep: Path) -> SeedReport:
    """Run and check a seed."""
    from fedrl.launch import configure_jax

    configure_jax()
    from tests.chaos import processes, world
    from tests.chaos.checker import check

    real = is_real(seed)
    folder = keep / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    plan = processes.real_plan(seed, faults) if real else plan_of(seed, faults)
    began, used = time.perf_counter(), _cpu_s()
    outcome = (processes if real else world).run(plan, folder)
    took_s = time.perf_counter() - began
    found = check(outcome.folder, outcome.sites, outcome.entries, outcome.tables, outcome.seed)
    ends = ", ".join(f"{count} {what}" for what, count in sorted(outcome.errors.items()) if count)
    line = (
        f"seed {seed:3} {plan.name:24} {outcome.faults.total()} of {len(plan.faults)} faults, {outcome.lives} lives of "
        f"the coordinator, {took_s:.1f} s + {time.perf_counter() - began - took_s:.1f} s of checks, "
        f"CPU {_cpu_s() - used:.1f} s: "
    )
    if not found:
        shutil.rmtree(folder)
        return SeedReport(seed, f"{line}ok", outcome.faults, found)
    told = "".join(f"\n    {each}" for each in found[:5])
    return SeedReport(
        seed, f"{line}{len(found)} VIOLATIONS, see {folder}{told}\n    ends: {ends}", outcome.faults, found
    )


def _cpu_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def called(given: tuple[int, int, Path]) -> SeedReport:
    try:
        return one(*given)
    except Exception as fault:  # a fault of the runner counts as one of the seed
        return SeedReport(given[0], f"seed {given[0]:3} FAILED: {fault!r}", Counter(), [f"failed: {fault!r}"])
