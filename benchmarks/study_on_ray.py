"""A study on two workers of Ray against the same study in one process: the whole command, from an empty program cache.

    python -m benchmarks.study_on_ray [PAIRS [CASE...]]

What is compared was fixed before the first measurement: the example `cartpole` (ten agents, PPO, 20 greedy episodes
for each at the end) without baselines, one seed, 100 rounds, in eight settings that differ in the learning rate, so
that they share their programs. One process has two devices and uses both cores in a round; two workers have one
device each. Starting Ray and its workers, and compiling in each of them, count. Bits of the results are compared.

The case `tabular` is of runs whose programs are small and keep one core busy: the example `gridworld` (tabular Q) with
3,000 rounds, in eight settings of its exploration. It was added after the two of PPO had been measured.

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

SETTINGS = 8
RATES = ",".join(str(0.001 * i) for i in range(1, SETTINGS + 1))
EPSILONS = "0.05,0.1,0.15,0.2,0.25,0.3,0.35,0.4"
CARTPOLE = ("cartpole", "--set", "rounds=100", "--grid", f"learner.optimizer.learning_rate={RATES}")
CASES = {
    "10 agents": (*CARTPOLE, "--set", "federation.agents=10"),
    "5 agents": (*CARTPOLE, "--set", "federation.agents=5"),
    "tabular": ("gridworld", "--set", "rounds=3000", "--grid", f"learner.epsilon={EPSILONS}"),
}
EVERY = ("--set", "baselines={}", "--seeds", "1", "--quiet")
RAY = ("--executor", "ray", "--workers", "2")
PAIRS = 3


def study(out: Path, case: str, *more: str) -> float:
    """Seconds of the command, with a program cache of its own."""
    environment = os.environ | {"XDG_CACHE_HOME": f"{out}-cache"}
    command = [sys.executable, "-m", "fedrl", "sweep", *CASES[case], *EVERY, "--out", str(out), *more]
    return seconds(lambda: subprocess.run(command, check=True, env=environment))


def same_bits(one: Path, other: Path) -> bool:
    files = sorted(one.glob("*/params.safetensors"))
    return len(files) == SETTINGS and all(
        file.read_bytes() == (other / file.relative_to(one)).read_bytes() for file in files
    )


def main() -> None:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        leave_out("Ray is not installed. Install it with: pip install 'fedrl[ray]'")
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    for case in sys.argv[2:] or CASES:
        if case not in CASES:
            raise SystemExit(f"There is no case {case!r}. Choose among {', '.join(map(repr, CASES))}.")
        ratio = median(speedup(case) for _ in range(pairs))
        emit(Figure(f"a study of eight settings, {case}, on two workers, over one process", ratio, 1.6, "x"))


def speedup(case: str) -> float:
    """How many times longer one process takes than two workers, in one pair."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        alone, together = study(one, case), study(two, case, *RAY)
        print(f"{case}: one process {alone:.1f} s, two workers {together:.1f} s", flush=True)
        if not same_bits(one, two):
            raise SystemExit("the two studies differ in their bits")
    return alone / together


if __name__ == "__main__":
    main()
