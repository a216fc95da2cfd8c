"""Ten heterogeneous poles talk less often: messages, bytes and iterations until all of them balance.

Protocol, fixed before measuring. The fleet is that of `examples/cartpole.toml`. An iteration of PPO is a small one, 8
instances for 32 steps, 2 epochs of 4 minibatches, so that there is something to choose; the learning rate falls to zero
over 400 iterations, which is the budget. An agent takes tau iterations between two exchanges:

    every iteration      tau = 1
    fixed                tau = 2, 4, 8
    ramp                 tau from 8 to 1 in 20 rounds
    from the loss        AdaComm, tau_1 = 8, the loss being what is missing to a return of 500
    lazy                 tau = 1, and an agent holds its update back until it outweighs what the federation moves

After every round the server's policy is played greedily, 20 episodes in the environment of each agent. A run reached
475 in the first of three rounds in a row in which the mean return of all agents is at least 475. A run that does not
get there within its budget is a miss, and counts as infinitely many messages, bytes and iterations.

Each method gets a learning rate of its own, and nothing else, from one grid: the one with the fewest misses, then the
fewest messages up, median before mean, on the tuning seeds 100 to 102. Then it is measured on seeds 10 to 19. Messages
and bytes are those of all agents, up; what is held back takes nine bytes and is no message.

    python -m benchmarks.fewer_rounds [METHOD ...]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.poles import EPISODES, HELD, TARGET, TUNING, listed, poles

AGENTS, BUDGET, EPOCHS, MINIBATCHES = 10, 400, 2, 4
RATES = (0.01, 0.016, 0.025, 0.04, 0.063)
REPORTED = tuple(range(10, 20))
METHODS = ("every iteration", "fixed 2", "fixed 4", "fixed 8", "ramp", "from the loss", "lazy")


class Cost(NamedTuple):
    """What it took to get to the target: infinitely much if a run did not."""

    messages: float
    bytes_up: float
    rounds: float
    iterations: float


NEVER = Cost(*[math.inf] * 4)


def runner(method: str, learning_rate: float) -> Callable[[int], Cost]:
    """A method with a learning rate, ready to be run with any seed."""
    import jax
    import numpy as np

    from fedrl.aggregators import mean
    from fedrl.core.federation import federate
    from fedrl.engines.blocks import simulate
    from fedrl.engines.coordination import asked, coordinated
    from fedrl.environments import cartpole
    from fedrl.experiments.evaluate import greedy_returns
    from fedrl.learners import adam, ppo
    from fedrl.selection import from_loss, ramp, steady
    from fedrl.stages import lazy

    fixed = {"every iteration": 1, "fixed 2": 2, "fixed 4": 4, "fixed 8": 8, "lazy": 1}
    workload = {"ramp": ramp(8, 1, 20), "from the loss": from_loss(8, best=500.0)}.get(method)
    workload = steady(fixed[method]) if workload is None else workload
    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=BUDGET * EPOCHS * MINIBATCHES)
    learner = ppo(cartpole(), optimizer=optimizer, steps=32, epochs=EPOCHS, minibatch_count=MINIBATCHES)
    stages = [lazy()] if method == "lazy" else []
    federation = federate(learner, mean(), *stages, local_steps=workload.most, tells=asked(workload))
    fleet = poles(learner.environment, AGENTS)
    simulation = coordinated(simulate(federation, fleet), workload=workload)

    def run(seed: int) -> Cost:
        population, row, spent, first = simulation.init(seed), 0, Cost(0, 0, 0, 0), NEVER
        while spent.iterations < BUDGET:
            population, seen = simulation.round(population)
            assert seen.iterations is not None
            messages, bytes_up = spent.messages + seen.messages_up, spent.bytes_up + seen.bytes_up
            spent = Cost(messages, bytes_up, spent.rounds + 1, seen.iterations / AGENTS)
            params = jax.tree.map(np.asarray, population.server.params)
            row = row + 1 if greedy_returns(learner, fleet, params, EPISODES, seed).mean() >= TARGET else 0
            first = spent if row == 1 else first
            if row == HELD:
                return first
        return NEVER

    return run


def tuned(method: str) -> float:
    """The best learning rate of the grid on the tuning seeds."""
    scores = {}
    for rate in RATES:
        messages = [cost.messages for cost in map(runner(method, rate), TUNING)]
        scores[rate] = (messages.count(math.inf), median(messages), sum(messages))
        print(f"  {method}, learning rate {rate}: messages {listed(messages)}", flush=True)
    return min(scores, key=lambda rate: scores[rate])


def main() -> None:
    fedrl.launch.prepare()
    for method in sys.argv[1:] or METHODS:
        rate = tuned(method)
        found = list(map(runner(method, rate), REPORTED))
        print(f"{method}, learning rate {rate}, seeds {REPORTED[0]} to {REPORTED[-1]}")
        for name, values in zip(Cost._fields, zip(*found, strict=True), strict=True):
            print(f"  {name.replace('_', ' ')} {listed(values)}; median {median(values):,.6g}", flush=True)
        missed = sum(math.isinf(cost.messages) for cost in found)
        emit(Figure(f"{method}: seeds that miss 475", missed, 0, at_least=False))


if __name__ == "__main__":
    main()
