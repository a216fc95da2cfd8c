"""Synchronous federated Q-learning is K times as good with K agents: its error times sqrt(K) is a constant.

Woo, Joshi & Chi (2023), https://arxiv.org/abs/2305.10697. Random processes of 5 states and 3 actions, gamma 0.9,
one local step of size 0.1 per round, 1,000 rounds, largest error of the table.

    python -m benchmarks.fedq_law
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fused import fused
from benchmarks.measure import Figure, emit
from fedrl.aggregators import mean
from fedrl.environments import random_mdp, random_mdps
from fedrl.environments.tabular.planning import optimal_q
from fedrl.federation.federate import federate
from fedrl.learners import q_table

STATES, ACTIONS, DISCOUNT = 5, 3, 0.9


def errors(agents: int, seeds: int, rounds: int = 1000, seed: int = 0) -> np.ndarray:
    """`max |Q - Q*|` after the last round, one per seed; each seed has its own process, the same for all `agents`."""
    learner = q_table(random_mdp(STATES, ACTIONS), sampling="synchronous", learning_rate=0.1, gamma=DISCOUNT)
    run = fused(federate(learner, mean("uniform")), rounds)

    def error(index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), index)
        fleet = random_mdps(jax.random.fold_in(key, 0), agents, 0.0, STATES, ACTIONS)
        best = optimal_q(jax.tree.map(lambda leaf: leaf[0], fleet), DISCOUNT)
        return jnp.abs(run(jax.random.fold_in(key, 1), fleet)["q"] - best).max()

    return np.asarray(jax.jit(jax.vmap(error))(jnp.arange(seeds)))


def main(seeds: int = 96) -> None:
    found = {}
    print(f"{'agents':>6}  {'error':>8}  {'error * sqrt(agents)':>20}")
    for agents in (1, 4, 16, 64):
        error = errors(agents, seeds)
        found[agents], noise = error.mean() * math.sqrt(agents), error.std() * math.sqrt(agents / seeds)
        print(f"{agents:>6}  {error.mean():>8.4f}  {found[agents]:>12.4f} +- {noise:.4f}")
    spread = max(found.values()) / min(found.values()) - 1.0
    emit(Figure("federated Q, error x sqrt(K): spread over K = 1 to 64", spread, 0.1, at_least=False))


if __name__ == "__main__":
    main()
