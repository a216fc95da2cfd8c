"""The heterogeneous poles of `examples/cartpole.toml`, and when a run in them has reached 475.

After every round the server's policy is played greedily, 20 episodes in the environment of each agent. A run has
reached 475 in the first of three policies in a row with which the mean return of all agents is at least 475: a single
lucky one does not count, and a round in which nothing was merged makes none. A run that does not get there within its
budget is a miss, and counts as infinitely long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedrl.core.environment import Environment
    from fedrl.core.learner import Learner
    from fedrl.core.types import PyTree
    from fedrl.engines.simulation import Simulation

TARGET, HELD, EPISODES = 475.0, 3, 20
TUNING, REPORTED = (100, 101, 102), tuple(range(10))


class Reached(NamedTuple):
    """When a run got to the target: both infinite if it did not."""

    rounds: float
    time_s: float


NEVER = Reached(math.inf, math.inf)


def poles(environment: Environment, agents: int) -> PyTree:
    """One pole and one cart for each agent, no two alike."""
    from fedrl.environments.fleet import fleet

    return fleet(environment, agents, {"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}})


def until_balanced(simulation: Simulation, learner: Learner, fleet: PyTree, seed: int, rounds: int) -> Reached:
    """Run a seed on a virtual clock until all poles balance, or for so many rounds."""
    import jax
    import numpy as np

    from fedrl.experiments.evaluate import greedy_returns

    population, row, first = simulation.init(seed), 0, NEVER
    for number in range(1, rounds + 1):
        population, seen = simulation.round(population)
        assert seen.tick is not None
        if seen.weight == 0.0:
            continue
        params = jax.tree.map(np.asarray, population.server.params)
        row = row + 1 if greedy_returns(learner, fleet, params, EPISODES, seed).mean() >= TARGET else 0
        if row == 1:
            first = Reached(number, seen.tick.time_s)
        if row == HELD:
            return first
    return NEVER


def listed(values: Sequence[float]) -> str:
    """All of them, in words."""
    return ", ".join("missed" if math.isinf(value) else f"{value:,.0f}" for value in values)
