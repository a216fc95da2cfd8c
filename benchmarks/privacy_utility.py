"""Return against epsilon: CartPole with 100 agents or 20 x 32 episodes, and federated Q-learning on a grid.

Protocol. Clips, rounds and learning rates were chosen on the seeds 0 to 4; all figures are of the seeds 1000 to 1009,
for tables 1000 to 1004, none left out. Every result is written as it comes, and a second start goes on where the first
one ended. Parts:

    agent        CartPole, unit agent, (epsilon, 1e-3): small and default network, noise at the server or at each agent
    trajectory   CartPole, unit trajectory, (epsilon, 1e-5), noise at the server or at each agent
    shares       both with a share of the noise at each agent, inside a hidden sum: epsilon = 8 and epsilon = 1
    q            Q-learning, unit agent, (epsilon, 1e-5): K = 10, 30, 100 x three fleets x Gaussian and Laplace noise
    penalty      R = r - lambda ||grad log pi||^2: its return, and what an attacker reads all the same
    time         a private round over one without noise

    python -m benchmarks.privacy_utility [--out FILE] [PART ...]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import fedrl.launch
from benchmarks import private_attack, private_poles, private_tables
from benchmarks.measure import Figure, emit

SEEDS = tuple(range(1000, 1010))
TABLE_SEEDS = SEEDS[:5]
PARTS = ("agent", "trajectory", "shares", "q", "penalty", "time")
EPSILONS = (1.0, 2.0, 4.0, 8.0)
PENALTIES = (0.01, 0.1)
Setting = dict[str, Any]
SHARES: dict[str, Setting] = {
    "agent": {"network": "small", "trust": "distributed", "epsilon": 8.0},
    "trajectory": {"trust": "distributed", "epsilon": 1.0},
}
"""Noise that agents add together, beside noise of a coordinator at the same epsilon."""


class Results:
    """A file of JSON lines, one for each setting and seed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def values(self, part: str, setting: Mapping[str, Any], what: str = "return") -> list[float]:
        """The values of a setting, in the order of seeds."""
        found = {line["seed"]: line[what] for line in self.lines if line["part"] == part and line["setting"] == setting}
        return [found[seed] for seed in sorted(found)]

    def add(self, part: str, setting: Mapping[str, Any], seed: int, **found: float) -> None:
        line = {"part": part, "setting": dict(setting), "seed": seed, **found}
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def agent_settings() -> Iterator[Setting]:
    for network, epsilons in (("small", (8.0, 4.0)), ("default", (8.0, 4.0)), ("small", (1.0, None, 2.0))):
        for epsilon in epsilons:
            yield {"network": network, "trust": "central", "epsilon": epsilon}
    for epsilon in (8.0, 1.0):
        yield {"network": "small", "trust": "local", "epsilon": epsilon}


def trajectory_settings() -> Iterator[Setting]:
    for epsilon in (1.0, 0.5, 0.25, None):
        yield {"trust": "central", "epsilon": epsilon}
    for epsilon in (8.0, 1.0):
        yield {"trust": "local", "epsilon": epsilon}


def q_settings() -> Iterator[Setting]:
    for agents in private_tables.AGENTS[::-1]:
        yield {"agents": agents, "epsilon": None, "trust": "central", "noise": "gaussian"}
    for noise, trust in (("gaussian", "central"), ("gaussian", "local"), ("laplace", "central"), ("laplace", "local")):
        for agents in private_tables.AGENTS[::-1]:
            for epsilon in private_tables.EPSILONS[::-1]:
                yield {"agents": agents, "epsilon": epsilon, "trust": trust, "noise": noise}


def penalty_settings() -> Iterator[Setting]:
    for strength in PENALTIES:
        yield {"network": "small", "trust": "central", "epsilon": None, "penalty": strength}


def measure_poles(part: str, settings: Iterator[Setting], runner: Callable[[Setting], Any], results: Results) -> None:
    for setting in settings:
        done = {line["seed"] for line in results.lines if line["part"] == part and line["setting"] == setting}
        run = None
        for seed in SEEDS:
            if seed in done:
                continue
            run = runner(setting) if run is None else run
            begun, cpu = time.perf_counter(), time.process_time()
            found = run(seed)
            spent = {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
            results.add(part, setting, seed, **found, **{name: round(x, 1) for name, x in spent.items()})
        show(part, setting, results.values(part, setting))


def measure_tables(results: Results) -> None:
    for setting in q_settings():
        missing = [
            name
            for name in private_tables.SLIPS
            if len(results.values("q", setting | {"slips": name})) < len(TABLE_SEEDS)
        ]
        for name, values in (private_tables.values(setting, missing, TABLE_SEEDS) if missing else {}).items():
            for seed, value in zip(TABLE_SEEDS, values, strict=True):
                results.add("q", setting | {"slips": name}, seed, **{"return": value})
        for name in private_tables.SLIPS:
            show("q", setting | {"slips": name}, results.values("q", setting | {"slips": name}), 3)


def fraction(results: Results, setting: Setting) -> list[float]:
    """The fraction of the non-private value by seed, where a table of zeros has 0."""
    plain = {"agents": setting["agents"], "epsilon": None, "trust": "central", "noise": "gaussian"}
    best = results.values("q", plain | {"slips": setting["slips"]})
    zero = private_tables.zero_value(setting["agents"], setting["slips"])
    found = results.values("q", setting)
    return [(value - zero) / (top - zero) for value, top in zip(found, best, strict=False)]


def show(part: str, setting: Mapping[str, Any], values: list[float], digits: int = 0) -> None:
    words = ", ".join(f"{name} {value}" for name, value in setting.items())
    listed = ", ".join(f"{value:.{digits}f}" for value in values)
    print(f"{part}: {words}: median {median(values):.{digits}f} ({listed})", flush=True)


def goals(parts: list[str], results: Results) -> None:
    """Print the figures that have a goal."""
    if "agent" in parts:
        for network, epsilon, goal in (("small", 8.0, 475.0), ("default", 8.0, 440.0), ("default", 4.0, 430.0)):
            values = results.values("agent", {"network": network, "trust": "central", "epsilon": epsilon})
            emit(Figure(f"CartPole, agent level, {network} network, epsilon {epsilon:g}", median(values), goal))
    if "trajectory" in parts:
        values = results.values("trajectory", {"trust": "central", "epsilon": 1.0})
        emit(Figure("CartPole, trajectory level, epsilon 1", median(values), 440.0))
    if "q" in parts:
        setting = {"agents": 100, "epsilon": 8.0, "trust": "central", "noise": "gaussian"}
        for name in private_tables.SLIPS:
            values = fraction(results, setting | {"slips": name})
            emit(Figure(f"Q-learning, K = 100, epsilon 8, {name} floors: fraction of the value", median(values), 0.9))


def main(arguments: list[str]) -> None:
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else Path("privacy_utility.jsonl")
    parts = [name for name in arguments if name in PARTS] or list(PARTS)
    fedrl.launch.configure_jax()
    results = Results(out)
    print(f"seeds: {', '.join(map(str, SEEDS))}; results: {out}", flush=True)
    if "agent" in parts:
        measure_poles("agent", agent_settings(), private_poles.agent_level, results)
    if "trajectory" in parts:
        measure_poles("trajectory", trajectory_settings(), private_poles.trajectory_level, results)
    if "shares" in parts:
        measure_poles("agent", iter([SHARES["agent"]]), private_poles.agent_level, results)
        measure_poles("trajectory", iter([SHARES["trajectory"]]), private_poles.trajectory_level, results)
    if "q" in parts:
        measure_tables(results)
    if "penalty" in parts:
        measure_poles("penalty", penalty_settings(), private_poles.agent_level, results)
        for what, error in private_attack.errors().items():
            print(f"penalty: error of observations recovered from a gradient, {what}: {error:.3g}", flush=True)
    goals(parts, results)
    if "time" in parts:
        emit(
            Figure(
                "Q-learning, time of a private run over one without noise", private_tables.time_ratio(), 1.1, "x", False
            )
        )


if __name__ == "__main__":
    main(sys.argv[1:])
