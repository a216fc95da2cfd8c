"""PPO alone on the classic tasks: five seeds side by side, greedy return of each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.measure import Figure, emit, seconds

if TYPE_CHECKING:
    from fedrl.core.learner import Learner
    from fedrl.core.learner import iterate as iteration

SEEDS = 5
EPISODES = 50


@dataclass(frozen=True)
class Task:
    """A learner, how many iterations it gets, and the return that four seeds of five must reach."""

    learner: Callable[[], Learner]
    iterations: int
    goal: float


def tasks() -> dict[str, Task]:
    from fedrl.environments import acrobot, cartpole, pendulum
    from fedrl.learners import adam, normalize, ppo

    def swing_up() -> Learner:
        learner = ppo(
            pendulum(),
            num_envs=16,
            num_steps=256,
            num_epochs=10,
            num_minibatches=32,
            gamma=0.95,
            optimizer=adam(1e-3, max_norm=0.5),
        )
        return normalize(learner, gamma=0.95)

    return {
        "CartPole": Task(lambda: ppo(cartpole()), 150, 475.0),
        "Acrobot": Task(lambda: ppo(acrobot(), num_envs=16, optimizer=adam(1e-3, max_norm=0.5)), 200, -100.0),
        "Pendulum": Task(swing_up, 100, -250.0),
    }


def train(task: Task) -> list[float]:
    """The mean greedy return of each seed after training, all seeds in one program."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedrl.core.stage import zeros_like
    from fedrl.core.types import LocalContext
    from fedrl.runs.evaluate import greedy_returns

    learner = task.learner()
    settings = learner.environment.params

    @jax.jit
    def begin(keys: jax.Array) -> object:
        return jax.vmap(learner.init, (0, None))(keys, settings)

    @jax.jit
    def iterate(keys: jax.Array, states: object) -> object:
        def one(key: jax.Array, state: object) -> object:
            params = learner.params(state)
            return iteration(learner, key, learner.adopt(state, params), LocalContext(params, zeros_like(params)))[0]

        return jax.vmap(one)(keys, states)

    keys = jax.random.split(jax.random.key(0), SEEDS)
    states = begin(keys)
    for i in range(task.iterations):
        states = iterate(jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys), states)
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (SEEDS, *jnp.shape(leaf))), settings)
    held = jax.vmap(lambda state: learner.params(learner.adopt(state, learner.params(state))))(states)
    returns = greedy_returns(learner, fleet, held, EPISODES, seed=1, stacked=True)
    return np.asarray(returns).mean(1).tolist()


def main() -> None:
    fedrl.launch.configure_jax()
    chosen = sys.argv[1:]
    for name, task in tasks().items():
        if chosen and name not in chosen:
            continue
        results: list[float] = []
        taken = seconds(lambda task=task, results=results: results.extend(train(task)))
        steps = task.iterations * task.learner().samples
        print(f"{name}: {', '.join(f'{x:.0f}' for x in results)} after {steps:,} steps each, {taken:.0f} s")
        emit(Figure(f"PPO alone, {name}: return that 4 seeds of 5 reach", sorted(results)[1], task.goal))


if __name__ == "__main__":
    main()
