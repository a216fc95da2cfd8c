"""A study on two workers of Ray against the same study in one process: the whole command, from an empty program cache.

    python -m benchmarks.study_on_ray [PAIRS]

What is compared was fixed before the first measurement: the example `cartpole` (ten agents, PPO, 20 greedy episodes
for each at the end) without baselines, one seed, 100 rounds, in eight settings that differ in the learning rate, so
that they share their programs. One process has two devices and uses both cores in a round; two workers have one
device each. Starting Ray and its workers, and compiling in each of them, count. Bits of the results are compared.

The case of five agents was added after a first pair of ten, on a machine that was busy with other work, had taken 287 s
in one process and 276 s on two workers: five agents are one block, so a run of them has work for one device alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, emit, leave_out, seconds

RATES = (0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008)
STUDY = (
    "cartpole",
    *("--set", "baselines={}", "--set", "rounds=100", "--seeds", "1"),
    *("--grid", f"learner.optimizer.learning_rate={','.join(map(str, RATES))}"),
)
AGENTS = (10, 5)
RAY = ("--executor", "ray", "--workers", "2")
PAIRS = 3


def study(out: Path, agents: int, *more: str) -> float:
    """Seconds of the command, with a program cache of its own."""
    environment = os.environ | {"XDG_CACHE_HOME": f"{out}-cache"}
    command = [sys.executable, "-m", "fedrl", "sweep", *STUDY, "--quiet", "--out", str(out), *more]
    command += ["--set", f"federation.agents={agents}"]
    return seconds(lambda: subprocess.run(command, check=True, env=environment))


def same_bits(one: Path, other: Path) -> bool:
    files = sorted(one.glob("*/params.safetensors"))
    return len(files) == len(RATES) and all(
        file.read_bytes() == (other / file.relative_to(one)).read_bytes() for file in files
    )


def main() -> None:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        leave_out("Ray is not installed. Install it with: pip install 'fedrl[ray]'")
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    for agents in AGENTS:
        ratio = median(speedup(agents) for _ in range(pairs))
        emit(Figure(f"a study of eight settings of {agents} agents on two workers, over one process", ratio, 1.6, "x"))


def speedup(agents: int) -> float:
    """How many times longer one process takes than two workers, in one pair."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        alone, together = study(one, agents), study(two, agents, *RAY)
        print(f"{agents} agents: one process {alone:.1f} s, two workers {together:.1f} s", flush=True)
        if not same_bits(one, two):
            raise SystemExit("the two studies differ in their bits")
    return alone / together


if __name__ == "__main__":
    main()
