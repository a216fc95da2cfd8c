"""Eight usual poles outvote two long ones on weak carts: how well does the worst agent balance, by the rule of merging?

Protocol, fixed before measuring. Eight agents have the usual pole; two have one of 6 metres (length 3) and a third of
the force. A policy good for all of them exists, but plain averaging tends to leave the two behind. The learner is that
of the example `cartpole`; the learning rate falls to zero over 60 rounds, which is the budget. Then the server's
policy is played greedily, 20 episodes in the environment of each agent. The outcome of a run is the return of its worst
agent; the mean over agents stands beside it.

Each rule gets a learning rate and its own parameter (q, gamma) from one grid, the pair with the highest return of the
worst agent, mean over the tuning seeds 100 to 104. Then it is measured on seeds 0 to 19, which nobody has tuned on.
Figures are interquartile means over seeds with 95 % bootstrap intervals; differences are taken seed by seed.

    python -m benchmarks.worst_agent
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import fedrl.launch
from benchmarks.measure import Figure, emit

if TYPE_CHECKING:
    from fedrl.core.aggregator import Aggregator

AGENTS, ODD, BUDGET, BEST = 10, 2, 60, 500.0
EPISODES, UPDATES_PER_ROUND = 20, 16
FLEET = {"length": [0.5] * (AGENTS - ODD) + [3.0] * ODD, "force": [10.0] * (AGENTS - ODD) + [3.0] * ODD}
RATES = (0.001, 0.0016, 0.0025, 0.004, 0.0063)
TUNING, REPORTED = tuple(range(100, 105)), tuple(range(20))
GRID: dict[str, tuple[float, ...]] = {
    "mean": (0.0,),
    "q-fair": (0.5, 1.0, 2.0, 4.0),
    "afl": (1e-5, 1e-4, 1e-3),
    "by diversity": (0.1,),
    "by settings": (0.1,),
}


class Outcome(NamedTuple):
    """Greedy returns at the end of a run: of the worst agent, and the mean over agents."""

    worst: float
    mean: float


def aggregator_of(rule: str, parameter: float) -> Aggregator:
    from fedrl.aggregators import afl, mean, q_ffl, weight_by_diversity, weight_by_environment

    made: dict[str, Callable[[], Aggregator]] = {
        "mean": mean,
        "q-fair": lambda: q_ffl(parameter, reference_return=BEST),
        "afl": lambda: afl(AGENTS, parameter, reference_return=BEST),
        "by diversity": lambda: weight_by_diversity(parameter),
        "by settings": lambda: weight_by_environment(list(FLEET), parameter),
    }
    return made[rule]()


def runner(rule: str, learning_rate: float, parameter: float) -> Callable[[int], Outcome]:
    """A rule with its parameters, ready to be run with any seed."""
    import jax
    import numpy as np

    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.environments.fleet import fleet
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, ppo
    from fedrl.runs.evaluate import greedy_returns

    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=BUDGET * UPDATES_PER_ROUND)
    learner = ppo(cartpole(), optimizer=optimizer)
    poles = fleet(learner.environment, AGENTS, FLEET)
    simulation = simulate(federate(learner, aggregator_of(rule, parameter)), poles)

    def run(seed: int) -> Outcome:
        run_state = simulation.init(seed)
        for _ in range(BUDGET):
            run_state, _ = simulation.round(run_state)
        params = jax.tree.map(np.asarray, run_state.server.params)
        returns = greedy_returns(learner, poles, params, EPISODES, seed).mean(axis=1)
        return Outcome(float(returns.min()), float(returns.mean()))

    return run


def tuned(rule: str) -> tuple[float, float]:
    """The best learning rate and parameter of the grid on the tuning seeds."""
    scores = {}
    for rate in RATES:
        for parameter in GRID[rule]:
            worst = [outcome.worst for outcome in map(runner(rule, rate, parameter), TUNING)]
            scores[rate, parameter] = sum(worst) / len(worst)
            print(f"  {rule} {rate} {parameter:g}: worst agent {listed(worst)}", flush=True)
    return max(scores, key=lambda pair: scores[pair])


def listed(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def main() -> None:
    fedrl.launch.configure_jax()
    from fedrl.records.statistics import interval

    found: dict[str, list[Outcome]] = {}
    for rule in GRID:
        rate, parameter = tuned(rule)
        found[rule] = list(map(runner(rule, rate, parameter), REPORTED))
        print(f"{rule}, learning rate {rate}, parameter {parameter:g}, seeds 0 to {REPORTED[-1]}")
        for what, column in zip(Outcome._fields, zip(*found[rule], strict=True), strict=True):
            middle, low, high = interval(list(column))
            print(f"  {what}: {middle:.0f} ({low:.0f} to {high:.0f}): {listed(list(column))}", flush=True)
    for rule in list(GRID)[1:]:
        rises = {}
        for what in Outcome._fields:
            pairs = zip(found[rule], found["mean"], strict=True)
            rises[what] = interval([getattr(ours, what) - getattr(theirs, what) for ours, theirs in pairs])
            middle, low, high = rises[what]
            print(f"{rule} less mean, {what}: {middle:+.0f} ({low:+.0f} to {high:+.0f})", flush=True)
        emit(Figure(f"{rule}: worst agent's return less that of mean, lower end", rises["worst"].low, 0.0))


if __name__ == "__main__":
    main()
