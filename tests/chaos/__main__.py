"""Run federations while everything goes wrong, and check each of them.

    python -m tests.chaos [--seeds 50] [--faults 60] [--first 0] [--workers 2] [--keep DIR]

A line for each seed as it ends, and a summary at the end. Every tenth seed has real processes, the others agents of one
process. What is kept of a seed with a violation is the folder that its line names; the same seed has the same plan. The
exit code is 1 if there was a violation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.seeds import SeedReport, called, is_real


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    keep = Path(tempfile.mkdtemp(prefix="chaos-")) if given.keep is None else given.keep.resolve()
    seeds = range(given.first, given.first + given.seeds)
    # Those with real processes take longest, so they begin first.
    ordered = sorted(seeds, key=lambda seed: (not is_real(seed), seed))
    began, total, bad = time.perf_counter(), Counter[str](), list[SeedReport]()
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for report in pool.imap_unordered(called, [(seed, given.faults, keep) for seed in ordered]):
            print(report.line, flush=True)
            total += report.faults
            bad += [report] if report.violations else []
    print("\nfaults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(total.items())))
    wrong = sum(len(report.violations) for report in bad)
    print(
        f"{given.seeds} seeds, {total.total()} faults, {wrong} violations in {len(bad)} seeds, "
        f"{time.perf_counter() - began:.0f} s with {given.workers} workers"
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
