"""Worlds: IPPO and MAPPO on cooperative navigation in a federation of ten, steps of players per second.

Also the same world with its three players as agents (`common_world`), next to one agent whose network has parameters of
each player.

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
    from fedrl.environments import common_world, navigation
    from fedrl.federation.federate import federate
    from fedrl.learners import mappo, mlp, per_player, ppo

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
    apart = federate(ppo(world, network=per_player(mlp(), 3), num_envs=16, num_steps=50), mean())
    common = federate(ppo(common_world(world), num_envs=16, num_steps=50), mean())
    several = {
        "one agent": simulate(apart, alike(world, 1)),
        "three agents": simulate(common, alike(world, 3)),
    }
    rates |= {name: [] for name in several}
    for _ in range(PAIRS):
        for name, simulation in several.items():
            rates[name].append(16 * 50 * 3 * ROUNDS / typical(Running(simulation, ROUNDS)))
    players = median(three / one for one, three in zip(rates["one agent"], rates["three agents"], strict=True))
    emit(
        Figure("IPPO, navigation, K = 10", median(rates["IPPO"]), 200_000, "player steps/s"),
        Figure("MAPPO over IPPO", ratio, 0.9, "x"),
        Figure("three players as agents", median(rates["three agents"]), 50_000, "player steps/s"),
        Figure("as agents over per_player", players, 0.5, "x"),
    )


if __name__ == "__main__":
    main()
