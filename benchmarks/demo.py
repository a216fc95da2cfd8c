"""The demo: ten agents with poles and carts of their own, five seeds, against its baselines."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Figure, emit, seconds

EXPERIMENT = "cartpole"
SEEDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fedrl", "run", EXPERIMENT, "--quiet", "--out", folder]
        command += ["--seeds", str(SEEDS)]
        taken = seconds(lambda: subprocess.run(command, check=True))
        summary = json.loads((Path(folder) / "summary.json").read_text())
        lines = [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]
    last = {line["seed"]: line["greedy"] for line in lines if line["method"] == "federated" and line.get("greedy")}
    worst = [min(greedy) for greedy in last.values()]
    independent = summary["baselines"]["independent"]["mean"]
    print(f"worst agent of each seed: {', '.join(f'{x:.0f}' for x in worst)}")
    emit(
        Figure("demo: seeds in which every agent's greedy return is at least 475", sum(w >= 475 for w in worst), SEEDS),
        Figure(
            "demo: federated return less independent, at equal steps", summary["final_return"]["mean"] - independent, 0
        ),
        Figure("demo: whole run with baselines", taken, 60, "s", at_least=False),
    )


if __name__ == "__main__":
    main()
