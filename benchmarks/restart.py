"""The second start of an experiment: from nothing to its first finished round, programs from the disk cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Figure, emit

EXPERIMENT = "cartpole"


def first_round(folder: str) -> float:
    """Seconds from starting the command to the first line of its records."""
    records = Path(folder) / "records.jsonl"
    begun = time.perf_counter()
    command = [sys.executable, "-m", "fedrl", "run", EXPERIMENT, "--quiet", "--out", folder]
    process = subprocess.Popen(command)
    while not (records.exists() and records.stat().st_size):
        if process.poll():
            raise SystemExit(f"the run ended with exit code {process.returncode} before its first round")
        time.sleep(0.01)
    taken = time.perf_counter() - begun
    process.kill()
    process.wait()
    return taken


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first_round(f"{folder}/warm")
        taken = min(first_round(f"{folder}/{i}") for i in range(3))
    emit(Figure("second start to the first finished round", taken, 5.0, "s", at_least=False))


if __name__ == "__main__":
    main()
