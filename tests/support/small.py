"""The smallest experiment with everything in it: three agents learn to walk through a slippery corridor."""

from __future__ import annotations

from typing import Any

TOML = """
name = "corridor"
rounds = {rounds}
seeds = 2
checkpoint_s = 0

[environment]
name = "gridworld"
layout = "S..G"
max_steps = 20

[fleet]
slip = [0.0, 0.1, 0.2]

[learner]
name = "q_table"
num_envs = 2
num_steps = 8
learning_rate = 0.5
epsilon = 0.3

[federation]
agents = 3

[baselines]
independent = true
average_once = true
centralised = true

[evaluation]
film = false
episodes = 4
every = 3
held_out = 2
"""


TIMES = ("seconds", "agents_compute", "server_compute")


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in an order of their own, without what the clock told."""

    def plain_of(value: Any) -> Any:
        return {key: plain_of(x) for key, x in value.items() if key not in TIMES} if isinstance(value, dict) else value

    plain = [plain_of(record) for record in records]
    return sorted(plain, key=lambda record: (record["method"], record["seed"], record["round"]))
