"""The heterogeneous poles of the example `cartpole`, and when a run in them has reached 475.

After every round the server's policy is played greedily, 20 episodes in the environment of each agent. A run has
reached 475 in the first of three policies in a row with which the mean return of all agents is at least 475: a single
lucky one does not count, and a round in which nothing was merged makes none. A run that does not get there within its
budget is a miss, and counts as infinitely long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedrl.core.environment import Environment
    from fedrl.core.learner import Learner
    from fedrl.core.types import PyTree
    from fedrl.engines.state import Simulation

TARGET, HELD, EPISODES = 475.0, 3, 20
TUNING, REPORTED = (100, 101, 102), tuple(range(10))


class Reached(NamedTuple):
    """What it took a run to get to the target, infinitely much if it did not.

    Attributes:
        rounds: Until then.
        messages: Of all agents, up.
        bytes_up: Likewise.
        iterations: Local ones of each agent, on average; NaN if all did as they always do.
        time_s: On the virtual clock; NaN without one.
    """

    rounds: float = 0
    messages: float = 0
    bytes_up: float = 0
    iterations: float = 0
    time_s: float = 0


NEVER = Reached(*[math.inf] * 5)


def poles(environment: Environment, agents: int) -> PyTree:
    """One pole and one cart for each agent, no two alike."""
    from fedrl.environments.fleet import fleet

    return fleet(environment, agents, {"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}})


def until_balanced(
    simulation: Simulation,
    learner: Learner,
    fleet: PyTree,
    seed: int,
    *,
    rounds: float = math.inf,
    iterations: float = math.inf,
    episodes: int = EPISODES,
) -> Reached:
    """Run a seed until all poles balance, or for so many rounds, or so many local iterations of each agent."""
    import jax
    import numpy as np

    from fedrl.runs.evaluate import greedy_returns

    run_state, row, spent, first = simulation.init(seed), 0, Reached(), NEVER
    while spent.rounds < rounds and not spent.iterations >= iterations:
        run_state, seen = simulation.round(run_state)
        spent = Reached(
            spent.rounds + 1,
            spent.messages + seen.messages_up,
            spent.bytes_up + seen.bytes_up,
            math.nan if seen.iterations is None else seen.iterations / simulation.agents,
            math.nan if seen.clock_stats is None else seen.clock_stats.time_s,
        )
        if seen.weight == 0.0:
            continue
        params = jax.tree.map(np.asarray, run_state.server.params)
        row = row + 1 if greedy_returns(learner, fleet, params, episodes, seed).mean() >= TARGET else 0
        first = spent if row == 1 else first
        if row == HELD:
            return first
    return NEVER


def tuned(
    name: str,
    numbers: Sequence[float],
    runner: Callable[[float], Callable[[int], Reached]],
    seeds: Sequence[int],
    cost: str,
) -> float:
    """The number with the fewest misses over the seeds, then the least cost, median before mean."""
    scores = {}
    for number in numbers:
        costs = [getattr(run, cost) for run in map(runner(number), seeds)]
        scores[number] = (costs.count(math.inf), median(costs), sum(costs))
        print(f"  {name}, {number}: {cost} {listed(costs)}", flush=True)
    return min(scores, key=lambda number: scores[number])


def listed(values: Sequence[float]) -> str:
    """All of them, in words."""
    return ", ".join("missed" if math.isinf(value) else f"{value:,.0f}" for value in values)
