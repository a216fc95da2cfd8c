"""Run every benchmark in a process of its own and print one table: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.measure import LEFT_OUT, Figure

ALL = (
    "throughput",
    "peers",
    "scale",
    "small",
    "worlds",
    "machinery",
    "events",
    "restart",
    "transport",
    "secure_sum",
    "secure_rounds",
    "encryption",
    "agent_start",
    "network_life",
    "study_on_ray",
    "privacy_ledger",
    "replay",
    "demo",
    "alone",
    "a2c",
    "lunar_lander",
    "fedq_law",
    "jin_table1",
    "curves",
    "consensus",
    "compression",
    "fewer_rounds",
    "selection",
    "worst_agent",
    "scalability",
    "asynchronous",
    "drop_out",
    "heterogeneous",
    "privacy_utility",
)


def run(name: str) -> list[Figure] | None:
    """The figures of one benchmark, None if it cannot run here; what else it prints passes through."""
    figures = []
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                figures.append(Figure(**json.loads(line)))
            else:
                print(line, end="", flush=True)
    if process.returncode not in {0, LEFT_OUT}:
        raise SystemExit(f"benchmarks.{name} failed with exit code {process.returncode}")
    return None if process.returncode == LEFT_OUT else figures


def main() -> None:
    names = sys.argv[1:] or ALL
    table = Table("benchmark", "what", "measured", "goal", "", title="fedrl benchmarks")
    for name in names:
        figures = run(name)
        if figures is None:
            table.add_row(name, "", "", "", "left out")
        for figure in figures or ():
            sign = "≥" if figure.at_least else "≤"
            goal = f"{sign} {figure.goal:,.4g} {figure.unit}"
            mark = "reached" if figure.reached else "MISSED"
            table.add_row(name, figure.what, f"{figure.value:,.4g} {figure.unit}", goal, mark)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
