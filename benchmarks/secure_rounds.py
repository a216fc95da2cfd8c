"""What a hidden sum adds to a round of training: CartPole, ten agents, the policy of 4,611 parameters.

The plain sum, sums on the grid without messages, and each protocol with all its parties in this process take rounds in
turns, so that whatever else the machine does falls on all of them. Compilation is not counted.
"""

from __future__ import annotations

import time
from statistics import median

import jax

from benchmarks.measure import Figure, emit
from fedrl.aggregators import mean
from fedrl.core.summation import Summation, exact_sum
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import ppo
from fedrl.secure import ring_sum

AGENTS, ROUNDS = 10, 45
GOALS = {"grid": 1.1, "masks": 25.0}


def main() -> None:
    environment = cartpole()
    learner, agents = ppo(environment), fleet(environment, AGENTS)
    sums: dict[str, Summation] = {
        "plain": exact_sum(),
        "grid": ring_sum(AGENTS, 8.0),
        "masks": ring_sum(AGENTS, 8.0, protocol="masks"),
        "masks, not verified": ring_sum(AGENTS, 8.0, protocol="masks", verified=False),
        "additive": ring_sum(AGENTS, 8.0, protocol="additive"),
        "ckks": ring_sum(AGENTS, 8.0, protocol="ckks"),
    }
    simulations = {
        name: simulate(federate(learner, mean("uniform"), summation=summation), agents)
        for name, summation in sums.items()
    }
    states = {name: simulation.init(0) for name, simulation in simulations.items()}
    size = sum(leaf.size for leaf in jax.tree.leaves(states["plain"].server.params))
    wall: dict[str, list[float]] = {name: [] for name in sums}
    cpu: dict[str, list[float]] = {name: [] for name in sums}
    for turn in range(2 + ROUNDS):
        for name, simulation in simulations.items():
            began, busy = time.perf_counter(), time.process_time()
            states[name], _ = simulation.round(states[name])
            if turn >= 2:
                wall[name].append(1e3 * (time.perf_counter() - began))
                cpu[name].append(1e3 * (time.process_time() - busy))
    print(f"{AGENTS} agents, {size:,} parameters, median of {ROUNDS} rounds in turns")
    for name in sums:
        more = [mine - plain for mine, plain in zip(cpu[name], cpu["plain"], strict=True)]
        ratio = median(mine / plain for mine, plain in zip(wall[name], wall["plain"], strict=True))
        print(
            f"    {name:20s} {median(wall[name]):6.1f} ms, {median(cpu[name]):6.1f} ms of the processor; "
            f"{ratio:.2f} x the plain round, {median(more):+.1f} ms of the processor",
            flush=True,
        )
        if name == "grid":
            emit(Figure("a round on the grid over the plain one", ratio, GOALS[name], "x", at_least=False))
        if name == "masks":
            emit(Figure("the whole protocol, beside the round", median(more), GOALS[name], "ms", at_least=False))


if __name__ == "__main__":
    main()
