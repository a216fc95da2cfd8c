"""Worlds: IPPO and MAPPO on cooperative navigation in a federation of ten, steps of players per second.

Three players, 16 copies of 50 steps a local iteration, networks of two layers of 64, four epochs of four minibatches.
"""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit, typical

AGENTS, ROUNDS, PAIRS = 10, 5, 3


def main() -> None:
    fedrl.launch.configure_jax()
    from statistics import median

    from benchmarks.workload import Running, alike
    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.environments import navigation
    from fedrl.federation.federate import federate
    from fedrl.learners import mappo, ppo

    world = navigation(players=3)
    rates: dict[str, list[float]] = {"IPPO": [], "MAPPO": []}
    learners = {"IPPO": ppo, "MAPPO": mappo}
    simulations = {
        name: simulate(federate(make(world, num_envs=16, num_steps=50), mean()), alike(world, AGENTS))
        for name, make in learners.items()
    }
    samples = 16 * 50 * 3 * AGENTS * ROUNDS
    for _ in range(PAIRS):  # in turns, so that a busy machine is busy for both
        for name, simulation in simulations.items():
            rates[name].append(samples / typical(Running(simulation, ROUNDS)))
    ratio = median(central / shared for shared, central in zip(rates["IPPO"], rates["MAPPO"], strict=True))
    emit(
        Figure("IPPO, navigation, K = 10", median(rates["IPPO"]), 200_000, "player steps/s"),
        Figure("MAPPO over IPPO", ratio, 0.9, "x"),
    )


if __name__ == "__main__":
    main()
