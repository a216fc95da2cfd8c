"""The largest step with which compressed neighbours agree, over its bound and over the default: in NumPy, of consensus.

    python -m benchmarks.choco_steps [ENTRIES [STEPS]]      by default 100 and 600: about three minutes

It is what the formulas of `fedrl.engines.topologies.step_size` were fitted to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from fedrl.topologies import complete, metropolis, ring, star, torus
from fedrl.topologies.graph import Graph
from fedrl.topologies.spectrum import slowest_and_fastest

AGENTS = 16
GRAPHS: dict[str, Graph] = {"ring": ring(), "torus": torus(), "complete": complete(), "star": star()}
Compress = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def kept(x: np.ndarray, rank: np.ndarray, fraction: float) -> np.ndarray:
    """The entries of each row with the least rank."""
    count = int(np.ceil(fraction * x.shape[1]))
    places = np.argpartition(rank, count - 1, axis=1)[:, :count]
    found = np.zeros_like(x)
    np.put_along_axis(found, places, np.take_along_axis(x, places, 1), 1)
    return found


STAGES: dict[str, Compress] = {
    "top_k(0.05)": lambda x, draws: kept(x, -np.abs(x), 0.05),
    "top_k(0.1)": lambda x, draws: kept(x, -np.abs(x), 0.1),
    "random_k(0.1)": lambda x, draws: kept(x, draws.random(x.shape), 0.1),
    "sign()": lambda x, draws: np.abs(x).mean(1, keepdims=True) * np.where(x >= 0.0, 1.0, -1.0),
}


def handed_over(stage: Compress, entries: int) -> float:
    """Delta, as `fedrl.engines.topologies.step_size.handed_over`."""
    draws = np.random.default_rng(1)
    kinds = draws.normal(size=(64, entries)), draws.uniform(-1.0, 1.0, (64, entries))
    return min(1.0 - np.square(x - stage(x, draws)).sum() / np.square(x).sum() for x in kinds)


def agrees(stage: Compress, weights: np.ndarray, gamma: float, entries: int, steps: int) -> bool:
    """Whether disagreement falls in the second half of so many steps, whatever the seed."""
    for seed in (0, 1):
        draws = np.random.default_rng(seed)
        x = draws.normal(size=(AGENTS, entries))
        copies, path = np.zeros_like(x), []
        for _ in range(steps):
            copies = copies + stage(x - copies, draws)
            x = x + gamma * (weights @ copies - copies)
            path.append(float(np.linalg.norm(x - x.mean(0))))
            if not path[-1] < 1e6:
                return False
        if not path[-1] < max(0.97 * path[steps // 2], 1e-8 * path[0]):
            return False
    return True


def largest(stage: Compress, weights: np.ndarray, entries: int, steps: int) -> float:
    """The largest step, by halving."""
    low, high = 1e-3, 2.0
    for _ in range(9):
        middle = float(np.sqrt(low * high)) if high > 4.0 * low else (low + high) / 2.0
        low, high = (middle, high) if agrees(stage, weights, middle, entries, steps) else (low, middle)
    return low


def main() -> None:
    given = [int(number) for number in sys.argv[1:]]
    entries, steps = [*given, *(100, 600)[len(given) :]]
    print(f"{entries} entries, {steps} steps: over the bound, over the default")
    for name, stage in STAGES.items():
        delta, cells = handed_over(stage, entries), []
        for graph in GRAPHS.values():
            weights = metropolis().weights(graph.adjacency(AGENTS, 0))
            slowest, fastest = slowest_and_fastest(weights)
            most = largest(stage, weights, entries, steps)
            bound = min(1.0, 2.0 * delta / (slowest + fastest))
            cells.append(f"{most / bound:6.2f} {most / min(bound, delta / ((2.0 - delta) * fastest)):5.2f}")
        print(f"{name:14}", *cells, flush=True)


if __name__ == "__main__":
    main()
