"""Seven ways to learn on carts that have little in common, each tuned with the same budget.

Protocol, fixed before measuring. Eight carts, 16 local iterations of PPO between two exchanges, plain gradient descent
in all methods, because SCAFFOLD's correction takes it for granted. Two fleets:

    unlike   poles from 0.2 to 1.5 m (half length), forces from 4 to 16 N; 4 rounds, before anything has settled:
             one policy can serve all, and the question is who gets there sooner
    opposed  poles from 0.2 to 1.5 m; the motors of the last two carts are wired the other way round; 12 rounds, after
             which returns hardly change: no policy serves all, and the question is who ends where

A return is greedy, the mean of 20 episodes in the agent's own environment, after the last round. All methods take as
many environment steps: one that fine-tunes has so many rounds fewer. Each method on each fleet gets the best of six
settings by the return of the seeds 100 and 101, the mean over agents; the first in the grid if several are equal. Then
it runs with the seeds 0 to 9. Reported are the interquartile mean over seeds of the mean over agents and of the worst
agent, with 95 % bootstrap intervals; and of each personalised method, the agent that gains least over FedAvg on
average, its gain paired by seed.

    python -m benchmarks.heterogeneous [unlike | opposed] [METHOD ...]
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fedrl
from benchmarks.measure import Figure, emit
from fedrl.records.folder import RunFolder
from fedrl.records.statistics import interval

AGENTS, LOCAL_STEPS, GRADIENT_STEPS = 8, 16, 16
TUNING, REPORTED = [100, 101], list(range(10))
RATES, FEW_RATES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08), (0.02, 0.04, 0.08)
FLEETS: Mapping[str, tuple[int, dict[str, Any]]] = {
    "unlike": (4, {"length": {"range": [0.2, 1.5]}, "force": {"range": [4.0, 16.0]}}),
    "opposed": (12, {"length": {"range": [0.2, 1.5]}, "force": [10.0] * 6 + [-10.0] * 2}),
}
GRIDS: Mapping[str, dict[str, Sequence[float]]] = {
    "FedAvg": {"rate": RATES},
    "FedProx": {"rate": FEW_RATES, "pull": (0.1, 1.0)},
    "SCAFFOLD": {"rate": RATES},
    "personal head": {"rate": RATES},
    "interpolate": {"rate": FEW_RATES, "share": (0.3, 0.7)},
    "fine-tuned": {"rate": FEW_RATES, "rounds": (1, 2)},
    "independent": {"rate": RATES},
}
PERSONALISED = ("personal head", "interpolate", "fine-tuned")


def experiment(fleet: str, method: str, setting: Mapping[str, float], seeds: list[int]) -> dict[str, Any]:
    """A method with its setting as the table of an experiment."""
    rounds, differing = FLEETS[fleet]
    rate, alone = setting["rate"], int(setting.get("rounds", 0))
    sgd: dict[str, Any] = {"name": "sgd", "learning_rate": rate}
    optimizer, stages = [sgd], []
    if method == "FedProx":
        optimizer = [{"name": "fedprox", "strength": setting["pull"]}, sgd]
    if method == "SCAFFOLD":
        optimizer = [{"name": "add_correction"}, sgd]
        variates = {"learning_rate": rate, "gradient_steps": GRADIENT_STEPS}
        stages = [{"name": "scaffold", **variates}]
    learner: dict[str, Any] = {"name": "ppo", "optimizer": optimizer}
    if method == "personal head":
        learner = {"name": "personal", "local": ["actor/-1"], "learner": learner}
    if method == "interpolate":
        learner = {"name": "interpolate", "share": setting["share"], "learner": learner}
    return {
        "name": method,
        "rounds": rounds - alone,
        "seeds": seeds,
        "environment": {"name": "cartpole"},
        "fleet": differing,
        "learner": learner,
        "federation": {"agents": AGENTS, "local_steps": LOCAL_STEPS, "stages": stages},
        "baselines": {"independent": method == "independent"},
        "evaluation": {"episodes": 20, "fine_tune": alone * LOCAL_STEPS},
    }


def returns(fleet: str, method: str, setting: Mapping[str, float], seeds: list[int]) -> np.ndarray:
    """Final greedy returns `[seeds, agents]`."""
    told = {"independent": "independent", "fine-tuned": "fine_tuned"}.get(method, "federated")
    with tempfile.TemporaryDirectory() as folder:
        fedrl.run(experiment(fleet, method, setting, seeds), Path(folder) / "run", verbose=0)
        records = RunFolder(Path(folder) / "run").records()
    last = {r["seed"]: r["greedy"] for r in records if r["method"] == told and r.get("greedy")}
    return np.array([last[seed] for seed in seeds], float)


def tuned(fleet: str, method: str) -> dict[str, float]:
    """The setting that returns most on seeds that are not reported."""
    grid = GRIDS[method]
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    scores = [float(returns(fleet, method, setting, TUNING).mean()) for setting in settings]
    for setting, score in zip(settings, scores, strict=True):
        print(f"  {shown(setting)}: {score:.1f}", flush=True)
    return settings[int(np.argmax(scores))]


def shown(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def ranged(values: np.ndarray) -> str:
    mean, low, high = interval(values)
    return f"{mean:.0f} ({low:.0f} to {high:.0f})"


def measure(fleet: str, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Tune and run methods, print what came out, and return their returns `[seeds, agents]`."""
    found = {}
    for method in methods:
        print(f"{fleet}, {method}")
        best = tuned(fleet, method)
        table = found[method] = returns(fleet, method, best, REPORTED)
        print(f"  chosen: {shown(best)}; mean {ranged(table.mean(1))}, worst agent {ranged(table.min(1))}")
        print(f"  seeds {', '.join(f'{value:.0f}' for value in table.mean(1))}")
        print(f"  agents {', '.join(f'{value:.0f}' for value in table.mean(0))}", flush=True)
    for method in PERSONALISED:
        if {method, "FedAvg"} <= set(found):
            gains = found[method] - found["FedAvg"]
            least = int(gains.mean(0).argmin())
            print(f"{fleet}, {method}: agent {least} gains least over FedAvg, {ranged(gains[:, least])}", flush=True)
    return found


def main() -> None:
    fedrl.configure_jax()
    fleets = [name for name in sys.argv[1:] if name in FLEETS] or list(FLEETS)
    methods = [name for name in sys.argv[1:] if name in GRIDS] or list(GRIDS)
    for fleet in fleets:
        found = {name: interval(table.mean(1)).mean for name, table in measure(fleet, methods).items()}
        if set(GRIDS) <= set(found):
            emit(
                Figure(f"{fleet}: SCAFFOLD less FedAvg", found["SCAFFOLD"] - found["FedAvg"], 0.0),
                Figure(f"{fleet}: FedProx less FedAvg", found["FedProx"] - found["FedAvg"], 0.0),
                Figure(f"{fleet}: personal head less FedAvg", found["personal head"] - found["FedAvg"], 0.0),
                Figure(f"{fleet}: personal head less independent", found["personal head"] - found["independent"], 0.0),
            )


if __name__ == "__main__":
    main()
