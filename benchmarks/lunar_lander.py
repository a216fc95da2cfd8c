"""PPO alone on LunarLander-v3, through the Gymnasium adapter: the greedy return of each of five seeds, and steps/s.

python benchmarks/lunar_lander.py [--seeds 5] [--rounds 61]
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp

from fedrl.aggregators import mean
from fedrl.core.learner import Learner
from fedrl.engines.executors.host_evaluation import greedy_returns_host
from fedrl.engines.simulate import simulate
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import adam, mlp, ppo

GOAL = 200.0
EPISODES = 100


def learner() -> Learner:
    return ppo(
        gymnasium("LunarLander-v3"),
        network=mlp((64, 64)),
        optimizer=adam(1e-3, max_norm=0.5),
        num_envs=16,
        num_steps=1024,
        num_epochs=4,
        num_minibatches=64,
        gamma=0.999,
        gae_lambda=0.98,
        entropy_coef=0.01,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=61, help="of 16,384 environment steps")
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    agent = learner()
    fleet = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], agent.environment.params)
    solved = 0
    with simulate(federate(agent, mean()), fleet, workers=given.workers) as simulation:
        for seed in range(given.first, given.first + given.seeds):
            run_state, _ = simulation.round(simulation.init(seed))  # compiles, the first time
            begun = time.perf_counter()
            for _ in range(given.rounds - 1):
                run_state, _ = simulation.round(run_state)
            speed = (given.rounds - 1) * agent.samples / (time.perf_counter() - begun)
            returns = greedy_returns_host(agent, fleet, run_state.server.params, EPISODES, seed)
            solved += returns.mean() >= GOAL
            print(
                f"seed {seed}: greedy return {returns.mean():.0f} over {EPISODES} episodes (worst {returns.min():.0f}) "
                f"after {given.rounds * agent.samples:,} steps at {speed:,.0f} steps/s",
                flush=True,
            )
    print(f"{solved} of {given.seeds} seeds at {GOAL:.0f} or more")


if __name__ == "__main__":
    main()
