"""QAvg on heterogeneous random processes: Table 1 of Jin et al. (2022), https://arxiv.org/abs/2204.02634.

Five agents, 5 states, 5 actions, gamma 0.9. The policy greedy in the averaged table is valued on the process all
others are deviations from. The paper reports 10 (V - 0.5 / (1 - gamma)), the gain over average rewards, tenfold.

All cells of a table share their processes, so a draw of 16,000 that lies high lies high everywhere. That is why the
table is computed twice: on processes of our own, which tells how the paper's figures compare with the truth, and on
the paper's, drawn as its published code draws them, which leaves only the algorithm to differ.

    python -m benchmarks.jin_table1
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fused import fused
from benchmarks.measure import Figure, emit
from fedrl.aggregators import mean
from fedrl.environments import random_mdp, random_mdps
from fedrl.environments.tabular.model import TabularParams
from fedrl.environments.tabular.planning import greedy, policy_return
from fedrl.federation.federate import federate
from fedrl.learners import q_table

PUBLISHED = {0.0: (35.42, 0.05), 0.2: (35.23, 0.05), 0.4: (34.80, 0.05), 0.6: (34.14, 0.06), 0.8: (33.29, 0.06)}
"""By kappa, the mean and its standard error over 16,000 seeds."""
AGENTS, STATES, ACTIONS, DISCOUNT = 5, 5, 5, 0.9
THEIR_SEED, THEIR_PROCESSES = 101, 25

Fleets = Callable[[float], TabularParams]


def gains(kappa: float, seeds: int, rounds: int = 60, seed: int = 0) -> np.ndarray:
    """What QAvg's policy gains over average rewards, tenfold, one per seed; the same processes for every kappa."""
    return gains_on(our_fleets(seeds, seed)(kappa), rounds)


def gains_on(fleets: TabularParams, rounds: int = 60) -> np.ndarray:
    """The same on given processes, `[seeds, agents, ...]`."""
    learner = q_table(random_mdp(), sampling="expected", learning_rate=1.0, gamma=DISCOUNT)
    run = jax.jit(jax.vmap(fused(federate(learner, mean("uniform")), rounds)))
    policy = greedy(run(jax.random.split(jax.random.key(0), len(fleets.reward)), fleets)["q"])
    centre = jax.tree.map(lambda leaf: leaf[:, 0], fleets)
    return np.asarray(10.0 * (policy_return(centre, policy, DISCOUNT) - 0.5 / (1.0 - DISCOUNT)))


def our_fleets(seeds: int, seed: int = 0) -> Fleets:
    """Processes of our own: `kappa -> [seeds, agents, ...]`."""
    keys = jax.random.split(jax.random.key(seed), seeds)
    return lambda kappa: jax.vmap(lambda key: random_mdps(key, AGENTS, kappa))(keys)


def their_fleets(seeds: int) -> Fleets:
    """The paper's processes, number for number: NumPy's legacy generator, reseeded for the processes of each seed.

    The rewards of a seed come from where the processes of the one before left the generator.
    """
    rows = (STATES * ACTIONS, STATES)
    draw = np.random.RandomState(THEIR_SEED)
    numbers = draw.randint(low=0, high=1_000_000, size=seeds)
    reward = np.zeros((seeds, STATES, ACTIONS), np.float32)
    mass = np.zeros((seeds, AGENTS, *rows), np.float32)
    for i, number in enumerate(numbers):
        reward[i] = draw.uniform(size=(STATES, ACTIONS))
        draw = np.random.RandomState(number)
        support = draw.binomial(1, 0.5, size=rows)
        for row in support:
            if row.sum() in (0, STATES):
                row[draw.randint(STATES)] ^= 1
        for agent in range(THEIR_PROCESSES):
            uniform = draw.uniform(size=rows)
            if agent < AGENTS:
                mass[i, agent] = uniform * (support if agent == 0 else 1 - support)
    transition = (mass / mass.sum(-1, keepdims=True)).reshape(seeds, AGENTS, STATES, ACTIONS, STATES)
    everywhere = np.full((seeds, AGENTS, STATES), 1.0 / STATES, np.float32)
    rewards = np.repeat(reward[:, None], AGENTS, axis=1)

    def at(kappa: float) -> TabularParams:
        mixed = kappa * transition + (1.0 - kappa) * transition[:, :1]
        return TabularParams(jnp.asarray(mixed), jnp.asarray(rewards), jnp.asarray(everywhere))

    return at


def main(seeds: int = 16_000) -> None:
    ours, began, worst, apart = our_fleets(seeds), time.perf_counter(), 0.0, 0.0
    found = {kappa: gains_on(ours(kappa)) for kappa in PUBLISHED}
    seconds = time.perf_counter() - began
    theirs = their_fleets(seeds)
    print(f"{'kappa':>5}  {'published':>14}  {'our processes':>14}  {'standard errors':>15}  {'their processes':>15}")
    for kappa, (published, their_error) in PUBLISHED.items():
        error = found[kappa].std(ddof=1) / np.sqrt(seeds)
        distance = (found[kappa].mean() - published) / np.hypot(error, their_error)
        same = gains_on(theirs(kappa)).mean()
        print(
            f"{kappa:>5}  {published:>6} +- {their_error:.2f}  {found[kappa].mean():>6.2f} +- {error:.2f}  "
            f"{distance:>15.1f}  {same:>15.3f}"
        )
        worst, apart = max(worst, abs(distance)), max(apart, abs(float(same) - published))
    emit(
        Figure("QAvg against Jin et al., Table 1: largest difference", worst, 2.0, "s.e.", at_least=False),
        Figure("the same on the paper's own processes: largest difference", apart, 0.005, at_least=False),
        Figure(f"QAvg, {seeds:,} seeds", seconds, 60.0, "s", at_least=False),
    )


if __name__ == "__main__":
    main()
