"""QAvg on heterogeneous random processes: Table 1 of Jin et al. (2022), https://arxiv.org/abs/2204.02634.

Five agents, 5 states, 5 actions, gamma 0.9. The policy greedy in the averaged table is valued on the process all
others are deviations from. The paper reports 10 (V - 0.5 / (1 - gamma)), the gain over average rewards, tenfold.

    python -m benchmarks.jin_table1
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fused import fused
from fedrl.aggregators import mean
from fedrl.core.federation import federate
from fedrl.environments import random_mdp, random_mdps
from fedrl.environments.planning import greedy, policy_return
from fedrl.learners import q_table

PUBLISHED = {0.0: 35.42, 0.2: 35.23, 0.4: 34.80, 0.6: 34.14, 0.8: 33.29}
AGENTS, DISCOUNT = 5, 0.9


def gains(kappas: tuple[float, ...], seeds: int, rounds: int = 150, seed: int = 0) -> np.ndarray:
    """What QAvg's policy gains over average rewards, tenfold: `[kappas, seeds]`, with the same processes in each row."""
    learner = q_table(random_mdp(), sampling="expected", learning_rate=1.0, discount=DISCOUNT)
    run = fused(federate(learner, mean("uniform")), rounds)

    def gain(kappa: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), index)
        fleet = random_mdps(key, AGENTS, kappa)
        centre = jax.tree.map(lambda leaf: leaf[0], fleet)
        value = policy_return(centre, greedy(run(key, fleet)["q"]), DISCOUNT)
        return 10.0 * (value - 0.5 / (1.0 - DISCOUNT))

    over = jax.vmap(jax.vmap(gain, (None, 0)), (0, None))
    return np.asarray(jax.jit(over)(jnp.asarray(kappas), jnp.arange(seeds)))


def main(seeds: int = 2000) -> None:
    began = time.perf_counter()
    found = gains(tuple(PUBLISHED), seeds)
    print(f"{'kappa':>5}  {'published':>9}  {'here':>6}  {'standard error':>14}  {'distance in it':>14}")
    for (kappa, published), row in zip(PUBLISHED.items(), found, strict=True):
        error = row.std(ddof=1) / np.sqrt(seeds)
        print(
            f"{kappa:>5}  {published:>9}  {row.mean():>6.2f}  {error:>14.2f}  {(row.mean() - published) / error:>14.1f}"
        )
    print(f"{seeds} seeds in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
