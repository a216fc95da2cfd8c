"""Keys are derived, never threaded: arrival order cannot change randomness.

run key --fold_in(version)--> round key --fold_in(agent)--> agent key
run key --fold_in(REPEATED)--fold_in(again)--> in place of the run key, for an agent that hears a version again

run key --fold_in(version)--fold_in(DOWN)--> the server's, for what it sends

REPEATED is no version, so such an agent shares its key with nobody else in any round.
"""

from __future__ import annotations

from enum import IntEnum

import jax

from fedrl.core.types import Key

RULE = 0xFFFF_FFFE
"""The number under which an aggregator draws; no agent has it."""
DOWN = 0xFFFF_FFFD
"""The number under which a server encodes what it sends; no agent has it."""
REPEATED = 0xFFFFFFFF
"""Below the run key, a number that is no version: those are int32, from 0 on."""


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


def down_key(key: Key, version: jax.Array | int) -> Key:
    """The key by which a server encodes what it sends after this version.

    >>> key = jax.random.key(0)
    >>> bool((jax.random.key_data(down_key(key, 3)) == jax.random.key_data(rule_key(key, 3))).any())
    False
    """
    return agent_key(key, version, DOWN)


def repeated_key(key: Key, again: jax.Array | int) -> Key:
    """The key in place of the run's for an agent that trains on a version it has trained on before.

    Args:
        key: The key of the run.
        again: How often the agent was sent this version before, from 1 on; scalar int32.

    >>> key, version, agent = jax.random.key(0), jax.numpy.int32(3), jax.numpy.int32(0)
    >>> anew, before = agent_key(repeated_key(key, 1), version, agent), agent_key(key, version, agent)
    >>> bool((jax.random.key_data(anew) == jax.random.key_data(before)).any())
    False
    """
    return jax.random.fold_in(jax.random.fold_in(key, REPEATED), again)
