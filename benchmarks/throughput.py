"""Federated PPO, ten agents, against stable-baselines3's PPO on the same work in one process."""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit, leave_out, seconds

ROUNDS = 40
AGENTS = 10


def peer() -> object:
    """stable-baselines3 on the standard work; its vectorised environment steps eight CartPoles in this process."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(2)
    return PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8),
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        learning_rate=2.5e-3,
        device="cpu",
    )


def main() -> None:
    fedrl.launch.configure_jax()
    from statistics import median

    from benchmarks.workload import SAMPLES, federation_of

    try:
        learner = peer()
    except ImportError:
        leave_out("stable-baselines3 is not installed. Install it: pip install --group bench")
    federation = federation_of(AGENTS, ROUNDS)
    federation()
    learner.learn(SAMPLES)  # type: ignore[attr-defined]
    ours, theirs = [], []
    for _ in range(5):
        ours.append(ROUNDS * AGENTS * SAMPLES / seconds(federation))
        theirs.append(16 * SAMPLES / seconds(lambda: learner.learn(16 * SAMPLES)))  # type: ignore[attr-defined]
    print(f"federated PPO, K = {AGENTS}: {median(ours):,.0f} steps/s; stable-baselines3: {median(theirs):,.0f}")
    speedup = median(a / b for a, b in zip(ours, theirs, strict=True))
    emit(Figure("federated PPO, K = 10, over stable-baselines3 PPO", speedup, 40.0, "x"))


if __name__ == "__main__":
    main()
