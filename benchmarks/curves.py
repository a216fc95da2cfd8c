"""Learning curves of PPO, ours and stable-baselines3's: the same environment, budget and settings, ten seeds each."""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit

SEEDS = 10
INSTANCES, STEPS = 8, 128
BUDGET = {"CartPole-v1": 100_000, "Acrobot-v1": 200_000}
POINTS = 8


def theirs(id: str, seed: int) -> list[list[float]]:
    """Training returns of the episodes finished in each of `POINTS` equal parts of the budget."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Finished(BaseCallback):
        parts: list[list[float]]

        def _on_step(self) -> bool:
            part = min(POINTS - 1, self.num_timesteps * POINTS // BUDGET[id])
            self.parts[part] += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            return True

    torch.set_num_threads(1)
    learner = PPO(
        "MlpPolicy",
        make_vec_env(id, n_envs=INSTANCES, seed=seed),
        n_steps=STEPS,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-3,
        seed=seed,
        device="cpu",
    )
    finished = Finished()
    finished.parts = [[] for _ in range(POINTS)]
    learner.learn(BUDGET[id], callback=finished)
    return finished.parts


def ours(id: str) -> list[list[float]]:
    """Mean training return of each seed (row) in each part of the budget (column)."""
    import jax
    import numpy as np

    from fedrl.core.learner import iterate
    from fedrl.core.stage import zeros_like
    from fedrl.core.types import LocalContext
    from fedrl.environments import acrobot, cartpole
    from fedrl.learners import adam, ppo

    environment = {"CartPole-v1": cartpole, "Acrobot-v1": acrobot}[id]()
    learner = ppo(environment, num_envs=INSTANCES, num_steps=STEPS, optimizer=adam(1e-3, max_norm=0.5))

    @jax.jit
    def run(keys: jax.Array) -> dict[str, jax.Array]:
        def one(key: jax.Array) -> dict[str, jax.Array]:
            def step(state: object, i: jax.Array) -> tuple[object, dict[str, jax.Array]]:
                params = learner.params(state)
                return iterate(learner, jax.random.fold_in(key, i), state, LocalContext(params, zeros_like(params)))

            return jax.lax.scan(step, learner.init(key, environment.params), np.arange(BUDGET[id] // learner.samples))[
                1
            ]

        return jax.vmap(one)(keys)

    metrics = run(jax.random.split(jax.random.key(1), SEEDS))
    count, total = np.asarray(metrics["episodes"]), np.asarray(metrics["episode_return"])
    parts = [(total[:, i].sum(1), count[:, i].sum(1)) for i in np.array_split(np.arange(count.shape[1]), POINTS)]
    return np.stack([t / np.maximum(c, 1) for t, c in parts], axis=1).tolist()


def main() -> None:
    fedrl.launch.configure_jax()
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import numpy as np

    from fedrl.records.statistics import interval

    for id, budget in BUDGET.items():
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(theirs, [id] * SEEDS, range(SEEDS)))
        # A part in which no episode ended has none to show: carry on the last value seen.
        peers = np.array([[np.mean(p) if p else np.nan for p in seed] for seed in parts])
        curves = np.array(ours(id))
        seen = ~np.isnan(peers).any(0)
        print(f"{id}: mean training return by part of {budget:,} steps, interquartile mean over {SEEDS} seeds [95 %]")
        gaps = []
        for part in np.flatnonzero(seen):
            mine, other = interval(curves[:, part].tolist()), interval(peers[:, part].tolist())
            gaps.append(mine.high - other.low)
            print(
                f"  {part + 1}/{POINTS}  fedrl {mine.mean:7.1f} [{mine.low:7.1f}, {mine.high:7.1f}]"
                f"   stable-baselines3 {other.mean:7.1f} [{other.low:7.1f}, {other.high:7.1f}]"
            )
        emit(Figure(f"{id}: upper end of our interval less lower end of theirs, worst part", min(gaps), 0.0))


if __name__ == "__main__":
    main()
