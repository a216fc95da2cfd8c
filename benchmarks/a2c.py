"""A2C alone: CartPole with the defaults, and LunarLander-v3 beside stable-baselines3's A2C with rl-zoo's settings.

Protocol, fixed before measuring; settings were chosen on the seeds 100 and above.

CartPole: the defaults, seeds 0 to 4, 500,000 steps each. After every 25,000 the policy plays 50 greedy episodes; the
result of a seed is the mean of the last five evaluations.

LunarLander: seeds 0 to 2, 1,000,000 steps each, then 100 greedy episodes with the last policy. Ours has the defaults
within `normalize`, the discount of theirs, an entropy bonus of 0.02, and a learning rate that falls to zero as theirs
does. Theirs has the settings of rl-baselines3-zoo, `hyperparams/a2c.yml`, LunarLander-v2, with the budget of this
benchmark, not 200,000.

    python -m benchmarks.a2c [cartpole] [ours] [theirs] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.measure import Figure, emit, seconds

if TYPE_CHECKING:
    from fedrl.core.learner import Learner

PARTS = ("cartpole", "ours", "theirs")
BALANCING, EVALUATIONS, LAST = 500_000, 20, 5
LANDING, DISCOUNT, SAMPLES = 1_000_000, 0.995, 40


def proportional_to_speed(seeds: list[int]) -> list[float]:
    """The mean greedy return of each seed over the last evaluations, all seeds in one program."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedrl.core.learner import iterate
    from fedrl.core.stage import zeros_like
    from fedrl.core.types import LocalContext
    from fedrl.environments import cartpole
    from fedrl.learners import a2c
    from fedrl.runs.evaluate import greedy_returns

    learner = a2c(cartpole())
    settings = learner.environment.params

    @jax.jit
    def train(keys: jax.Array, states: object) -> object:
        def one(key: jax.Array, state: object) -> object:
            def step(state: object, each: jax.Array) -> tuple[object, None]:
                params = learner.params(state)
                return iterate(learner, each, state, LocalContext(params, zeros_like(params)))[0], None

            return jax.lax.scan(step, state, jax.random.split(key, BALANCING // EVALUATIONS // learner.samples))[0]

        return jax.vmap(one)(keys, states)

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    states = jax.jit(jax.vmap(learner.init, (0, None)))(keys, settings)
    fleet = jax.tree.map(lambda leaf: np.full(len(seeds), leaf, np.float32), settings)
    returns = []
    for i in range(EVALUATIONS):
        states = train(jax.vmap(jax.random.fold_in, (0, None))(keys, i), states)
        returns.append(greedy_returns(learner, fleet, learner.params(states), 50, seed=i, stacked=True).mean(1))
    for seed, curve in zip(seeds, np.transpose(returns), strict=True):
        print(f"  seed {seed}: {', '.join(f'{x:.0f}' for x in curve)}")
    return np.mean(returns[-LAST:], 0).tolist()


def lander() -> Learner:
    from fedrl.environments.adapters import gymnasium
    from fedrl.learners import a2c, adam, normalize

    optimizer = adam(7e-4, max_norm=0.5, decay_steps=LANDING // SAMPLES)
    learner = a2c(gymnasium("LunarLander-v3"), optimizer=optimizer, gamma=DISCOUNT, entropy_coef=0.02)
    assert learner.samples == SAMPLES
    return normalize(learner, gamma=DISCOUNT)


def ours(seeds: list[int]) -> list[float]:
    """The mean greedy return of each seed after training in the host engine."""
    import jax
    import jax.numpy as jnp

    from fedrl.aggregators import mean
    from fedrl.engines.executors.host_evaluation import greedy_returns_host
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate

    learner, local = lander(), 25
    fleet = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], learner.environment.params)
    results = []
    with simulate(federate(learner, mean(), local_steps=local), fleet, workers=1) as simulation:
        for seed in seeds:
            run_state = simulation.init(seed)
            for _ in range(LANDING // SAMPLES // local):
                run_state, _ = simulation.round(run_state)
            returns = greedy_returns_host(learner, fleet, run_state.server.params, 100, 10_000 + seed)
            results.append(float(returns.mean()))
            print(f"  fedrl, seed {seed}: {returns.mean():.0f} (worst episode {returns.min():.0f})", flush=True)
    return results


def theirs(seeds: list[int]) -> list[float]:
    """The same of stable-baselines3."""
    import numpy as np
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    results = []
    for seed in seeds:
        learner = A2C(
            "MlpPolicy",
            make_vec_env("LunarLander-v3", n_envs=8, seed=seed),
            n_steps=5,
            gamma=DISCOUNT,
            learning_rate=lambda left: 0.00083 * left,
            ent_coef=1e-5,
            seed=seed,
            device="cpu",
        )
        learner.learn(LANDING)
        judges = make_vec_env("LunarLander-v3", n_envs=10, seed=10_000 + seed)
        returns, _ = evaluate_policy(learner, judges, n_eval_episodes=100, return_episode_rewards=True)
        results.append(float(np.mean(returns)))
        print(f"  stable-baselines3, seed {seed}: {results[-1]:.0f} (worst episode {np.min(returns):.0f})", flush=True)
    return results


def told(name: str, results: list[float], taken: float) -> None:
    print(f"{name}: {', '.join(f'{x:.0f}' for x in results)}; {taken:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="of cartpole, ours, theirs; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 to 4 for CartPole, 0 to 2 for LunarLander")
    given = parser.parse_args()
    if not set(given.parts) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, not {' '.join(given.parts)}")
    fedrl.launch.configure_jax()
    work = {"cartpole": (proportional_to_speed, 5), "ours": (ours, 3), "theirs": (theirs, 3)}
    results: dict[str, list[float]] = {}
    for part in given.parts or PARTS:
        train, count = work[part]
        found: list[float] = []
        seeds = given.seeds or list(range(count))
        taken = seconds(lambda train=train, seeds=seeds, found=found: found.extend(train(seeds)))
        told(part, found, taken)
        results[part] = found
    if "cartpole" in results:
        emit(Figure("A2C alone, CartPole: return that 4 seeds of 5 hold", sorted(results["cartpole"])[-4:][0], 475.0))
    if {"ours", "theirs"} <= set(results):
        gap = sum(results["ours"]) / len(results["ours"]) - sum(results["theirs"]) / len(results["theirs"])
        emit(Figure("A2C, LunarLander-v3: mean return less stable-baselines3's", gap, 0.0))


if __name__ == "__main__":
    main()
