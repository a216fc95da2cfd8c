"""Keys are derived, never threaded: arrival order cannot change randomness.

run key --fold_in(version)--> round key --fold_in(agent)--> agent key
"""

from __future__ import annotations

from enum import IntEnum

import jax

from fedrl.core.types import Key

RULE = 0xFFFF_FFFE
"""The number under which an aggregator draws; no agent has it."""


class Purpose(IntEnum):
    """What a key of a run is for; each purpose has its own stream."""

    SERVER = 0
    AGENTS = 1
    TRAINING = 2
    EVALUATION = 3
    FLEET = 4
    TUNING = 5


def run_key(seed: int, purpose: Purpose) -> Key:
    """The key of one purpose in the run with this seed."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def agent_key(key: Key, version: jax.Array | int, agent: jax.Array | int) -> Key:
    """The key of one agent in one round, the same whoever derives it, whenever."""
    return jax.random.fold_in(jax.random.fold_in(key, version), agent)


@jax.jit
def rule_key(key: Key, version: jax.Array | int) -> Key:
    """The key by which an aggregator draws in one round."""
    return agent_key(key, version, RULE)
