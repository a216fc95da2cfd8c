"""Run folders made up for tests: ten agents with poles of their own learn at believable speeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.records.statistics import interval

CONFIG = """# resolved
name = {name}
rounds = {rounds}
seeds = [{seeds}]

[federation]
local_steps = 4
payload = "delta"
aggregator = {{ kind = "mean", weighting = "samples" }}

[[federation.stages]]
kind = "quantise"
bits = 8

[learner]
kind = "ppo"
clip = {clip}
gamma = 0.99 # gamma
hidden = [64, 64]

[environment]
kind = "cartpole"
length = {{ low = 0.3, high = 1.2 }}
"""
CITATIONS = [
    "McMahan et al. (2017), https://arxiv.org/abs/1602.05629",
    "Schulman et al. (2017), https://arxiv.org/abs/1707.06347",
    "Barto, Sutton & Anderson (1983), https://doi.org/10.1109/TSMC.1983.6313077",
]
SPEED = {"federated": 1.0, "independent": 0.45, "centralised": 1.15, "average_once": 0.45}


def make_run(
    folder: Path,
    *,
    name: str = "CartPole, ten poles",
    methods: tuple[str, ...] = ("federated", "independent", "centralised"),
    seeds: int = 5,
    rounds: int = 60,
    agents: int = 10,
    speed: float = 1.0,
    clip: float = 0.2,
) -> Path:
    """Write a whole run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(name) + rounds)
    records = [
        record
        for method in methods
        for seed in range(seeds)
        for record in rounds_of(method, seed, rounds, agents, speed * SPEED.get(method, 1.0), draw)
    ]
    text = CONFIG.format(name=json.dumps(name), rounds=rounds, seeds=", ".join(map(str, range(seeds))), clip=clip)
    (folder / "config.toml").write_text(text)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "summary.json").write_text(json.dumps(summary(name, records, methods, seeds, rounds, agents), indent=2))
    return folder


def rounds_of(
    method: str, seed: int, rounds: int, agents: int, speed: float, draw: np.random.Generator
) -> list[dict[str, Any]]:
    ease = np.linspace(0.85, 1.1, agents)
    luck = speed * math.exp(0.15 * draw.normal())
    found: list[dict[str, Any]] = []
    for i in range(1, rounds + 1):
        level = 500 / (1 + np.exp(-(10 * luck * ease * i / rounds - 4)))
        each = np.clip(level + (5 + 0.08 * level) * draw.normal(size=agents), 8, 500)
        record: dict[str, Any] = {
            "seed": seed,
            "method": method,
            "round": i,
            "environment_steps": i * agents * 1024,
            "return": None if i == 2 and seed == 0 else float(each.mean()),
            "agents": [None if i == 1 and k == 0 else float(x) for k, x in enumerate(each)],
            "episodes": int(agents * 1024 / max(level.mean(), 9)),
            "loss": float("nan") if i == 1 else 1.0 / i,
            "bytes_up": agents * 36_876 if method == "federated" else 0,
            "bytes_down": agents * 36_880 if method == "federated" else 0,
            "messages_up": agents if method == "federated" else 0,
            "messages_down": agents if method == "federated" else 0,
            "rejected": 0,
            "seconds": 0.012,
        }
        if method == "average_once":
            record |= {"return": None, "agents": [None] * agents, "episodes": 0, "loss": None}
        if i == rounds:
            record["greedy"] = [float(x) for x in np.clip(level * (0.99 + 0.02 * draw.normal(size=agents)), 0, 500)]
        if method != "average_once" or i == rounds:
            found.append(record)
    return found


def summary(
    name: str, records: list[dict[str, Any]], methods: tuple[str, ...], seeds: int, rounds: int, agents: int
) -> dict[str, Any]:
    greedy = {m: np.array([r["greedy"] for r in records if r["method"] == m and "greedy" in r]) for m in methods}
    finals = {m: interval(table.mean(1)).as_range() for m, table in greedy.items()}

    def listed(method: str) -> list[dict[str, Any]]:
        return [{"id": k, "return": float(greedy[method][:, k].mean())} for k in range(agents)]

    poles = [
        {"gravity": 9.8, "cart_mass": round(1.0 + 0.05 * k, 3), "length": float(np.float32(0.3 + 0.1 * k))}
        for k in range(agents)
    ]
    return {
        "name": name,
        "final_return": finals["federated"],
        "agents": [agent | {"env_params": pole} for agent, pole in zip(listed("federated"), poles, strict=True)],
        "baselines": {m: finals[m] for m in methods if m != "federated"},
        "baseline_agents": {m: listed(m) for m in methods if m != "federated"},
        "held_out": {"mean": 481.2, "low": 470.0, "high": 492.5},
        "rounds": rounds,
        "seeds": list(range(seeds)),
        "environment_steps": rounds * agents * 1024 * seeds * len(methods),
        "steps_per_second": 868_000.0,
        "compile_s": 4.31,
        "wall_s": 14.7,
        "bytes_up": rounds * agents * 36_876,
        "bytes_down": rounds * agents * 36_880,
        "messages_up": rounds * agents - 2,
        "messages_down": rounds * agents,
        "epsilon": None,
        "versions": {"python": "3.11.7", "fedrl": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6", "optax": "0.2.8"},
        "revision": "179c14d0a3b1",
        "citations": CITATIONS,
    }
