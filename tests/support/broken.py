"""An experiment in which the steps of one agent cost so much that what it learns is beyond the range of float32."""

from __future__ import annotations

import tomllib
from typing import Any

from tests.support.small import TOML

BROKEN = 1
COST = 3e38


def broken(rounds: int = 3, seeds: int = 1, **changes: Any) -> dict[str, Any]:
    """The corridor of `small`, in which agent 1 is broken, with all its baselines."""
    table = tomllib.loads(TOML.format(rounds=rounds))
    table["baselines"]["mixture"] = True
    table["learner"]["num_steps"] = 64  # enough to try everything in a round, whatever the seed
    return table | {"seeds": seeds, "fleet": {"step_cost": [0.01, COST, 0.02]}} | changes


def hopeless(rounds: int = 3, **changes: Any) -> dict[str, Any]:
    """The same without baselines, all agents broken: nothing is ever merged."""
    return broken(rounds, baselines={}, fleet={"step_cost": COST}, evaluation={"episodes": 2}, **changes)
