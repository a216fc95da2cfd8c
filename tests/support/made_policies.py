"""Run folders with parameters drawn by lot, as a run would have written them: nothing is trained, so they are quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedrl.config import dump, load
from fedrl.config.build import build
from fedrl.config.coordination import has_common_policy, shapes_of
from fedrl.core.types import Params
from fedrl.records import checkpoint, folder
from fedrl.runs.policy_file import COMMON, facts_of, metadata_of

PPO: dict[str, Any] = {"name": "ppo", "network": {"name": "mlp", "hidden": [16, 16]}}
GRID = {"name": "gridworld", "layout": "S..G", "max_steps": 20}
PLANES = {"name": "gymnasium", "id": "tests.support.choices:Planes", "max_steps": 8}
CONVOLUTIONS = {"name": "conv", "channels": [3, 4], "kernel": 2, "stride": 2, "hidden": [8]}
CASES: dict[str, tuple[Any, Any]] = {
    "softmax": ("cartpole", PPO),
    "reinforce": (
        "mountain_car",
        {"name": "reinforce", "network": {"name": "mlp", "hidden": [], "activation": "relu"}},
    ),
    "gaussian": ("pendulum", {"name": "a2c", "network": {"name": "mlp", "hidden": [32, 32], "activation": "silu"}}),
    "normalised": ("pendulum", {"name": "normalize", "learner": PPO}),
    "rewards only": ("acrobot", {"name": "normalize", "observations": False, "learner": PPO}),
    "embedding": (
        "pendulum",
        {"name": "normalize", "learner": {"name": "ppo", "network": {"name": "with_embedding", "network": "mlp"}}},
    ),
    "elu": ("acrobot", {"name": "ppo", "network": {"name": "mlp", "activation": "elu"}}),
    "gelu": ("acrobot", {"name": "ppo", "network": {"name": "mlp", "activation": "gelu"}}),
    "wide": ("cartpole", {"name": "ppo", "network": {"name": "mlp", "hidden": [256, 256], "activation": "relu"}}),
    "saturated": ("cartpole", PPO),
    "clipped": ("pendulum", {"name": "normalize", "learner": PPO}),
    "wider": ("pendulum", {"name": "ppo", "network": {"name": "mlp", "hidden": [1024, 1024]}}),
    "one-hot": (GRID, PPO),
    "table": (GRID, {"name": "q_table"}),
    "personal": ("cartpole", {"name": "personal", "learner": PPO, "local": ["actor"]}),
    "bounded logits": (
        "cartpole",
        {"name": "ppo", "network": {"name": "mlp", "hidden": [16], "activation": "relu", "output_activation": "tanh"}},
    ),
    "bounded means": ("pendulum", {"name": "a2c", "network": {"name": "mlp", "output_activation": "tanh"}}),
    "planes": (PLANES, {"name": "normalize", "learner": {"name": "ppo", "network": CONVOLUTIONS}}),
    "interpolated": ("cartpole", {"name": "interpolate", "learner": PPO}),
}
"""Environment and learner of each; all have two seeds and three agents."""
CHOOSING = {"name": "gymnasium", "id": "tests.support.choices:Choosing", "max_steps": 8}
CHOICES: dict[str, tuple[Any, Any]] = {
    kind: ({**CHOOSING, "options": {"kind": kind}}, {"name": "normalize", "learner": PPO})
    for kind in ("multi_discrete", "dict")
}
"""Others, whose actions are several choices at once."""


def made_policy(path: Path, case: str, **changes: Any) -> Path:
    """Write the run folder of a case."""
    environment, learner = (CASES | CHOICES)[case]
    data = {
        "name": case,
        "seeds": 2,
        "environment": environment,
        "learner": learner,
        "federation": {"agents": 3},
        "evaluation": {"episodes": 2},
    }
    experiment = build(load({**data, **changes}))
    path.mkdir(parents=True)
    text = dump(experiment.config).encode()
    (path / folder.CONFIG).write_bytes(text)
    facts = facts_of(experiment)
    like = shapes_of(experiment.learner, acting=True)
    params: dict[str, np.ndarray] = {}
    for seed in range(2):
        random = np.random.default_rng(seed + 7)
        agents = [drawn(like, random) for _ in range(facts.agents if facts.stacked else 1)]
        if case == "saturated":
            agents[0]["actor"][-1]["weight"] *= 30.0
        if case == "clipped":
            agents[0]["learner"]["actor"]["network"][-1]["weight"] *= 8.0
        own = jax.tree.map(lambda *leaves: np.stack(leaves), *agents) if facts.stacked else agents[0]
        params |= checkpoint.named(own, f"seed{seed}")
        if facts.stacked and has_common_policy(experiment.learner, experiment.coordination):
            params |= checkpoint.named(drawn(like, random), f"{COMMON}seed{seed}")
    folder.RunFolder(path).write_params(params, metadata_of(facts))
    return path


def drawn(like: Params, random: np.random.Generator) -> Params:
    """Parameters of these shapes, of the size that trained ones have."""

    def one(path: Any, leaf: Any) -> np.ndarray:
        values = random.standard_normal(leaf.shape) / np.sqrt(leaf.shape[-1] if len(leaf.shape) > 1 else 4.0)
        return (np.abs(values) + 0.1 if "variance" in str(path[-1]) else values).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, like)
