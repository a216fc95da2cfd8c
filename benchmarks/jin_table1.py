"""QAvg on heterogeneous random processes: Table 1 of Jin et al. (2022), https://arxiv.org/abs/2204.02634.

Five agents, 5 states, 5 actions, gamma 0.9. The policy greedy in the averaged table is valued on the process all
others are deviations from. The paper reports 10 (V - 0.5 / (1 - gamma)), the gain over average rewards, tenfold.

    python -m benchmarks.jin_table1
"""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.fused import fused
from benchmarks.measure import Figure, emit
from fedrl.aggregators import mean
from fedrl.core.federation import federate
from fedrl.environments import random_mdp, random_mdps
from fedrl.environments.planning import greedy, policy_return
from fedrl.learners import q_table

PUBLISHED = {0.0: (35.42, 0.05), 0.2: (35.23, 0.05), 0.4: (34.80, 0.05), 0.6: (34.14, 0.06), 0.8: (33.29, 0.06)}
"""By kappa, the mean and its standard error over 16,000 seeds."""
AGENTS, DISCOUNT = 5, 0.9


def gains(kappa: float, seeds: int, rounds: int = 60, seed: int = 0) -> np.ndarray:
    """What QAvg's policy gains over average rewards, tenfold, one per seed; the same processes for every kappa."""
    learner = q_table(random_mdp(), sampling="expected", learning_rate=1.0, discount=DISCOUNT)
    run = jax.jit(jax.vmap(fused(federate(learner, mean("uniform")), rounds)))
    keys = jax.random.split(jax.random.key(seed), seeds)
    fleets = jax.vmap(lambda key: random_mdps(key, AGENTS, kappa))(keys)
    policy = greedy(run(keys, fleets)["q"])
    centre = jax.tree.map(lambda leaf: leaf[:, 0], fleets)
    return np.asarray(10.0 * (policy_return(centre, policy, DISCOUNT) - 0.5 / (1.0 - DISCOUNT)))


def main(seeds: int = 16_000) -> None:
    began, worst = time.perf_counter(), 0.0
    print(f"{'kappa':>5}  {'published':>14}  {'here':>14}  {'difference in standard errors':>29}")
    for kappa, (published, their_error) in PUBLISHED.items():
        found = gains(kappa, seeds)
        error = found.std(ddof=1) / np.sqrt(seeds)
        distance = (found.mean() - published) / np.hypot(error, their_error)
        print(
            f"{kappa:>5}  {published:>6} +- {their_error:.2f}  {found.mean():>6.2f} +- {error:.2f}  {distance:>29.1f}"
        )
        worst = max(worst, abs(distance))
    emit(
        Figure("QAvg against Jin et al., Table 1: largest difference", worst, 2.0, "s.e.", at_least=False),
        Figure(f"QAvg, {seeds:,} seeds", time.perf_counter() - began, 60.0, "s", at_least=False),
    )


if __name__ == "__main__":
    main()
