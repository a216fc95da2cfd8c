"""Draw random numbers by a hash of an agent and a counter instead of a sequential generator.

    (seed, purpose, agent, count) --splitmix64--> a number in (0, 1)

The number of an agent depends neither on the number of agents nor on the order of draws, and a whole array is drawn in
one call. The mixing function is that of splitmix64: Steele, Lea & Flood (2014),
https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Float64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """The purpose of a draw; each purpose has its own stream."""

    STEP = 0
    UP = 1
    DOWN = 2
    LATENCY = 3
    JOIN = 4
    STAY = 5
    DROP_OUT = 6
    TURN = 7
    JITTER = 8  # and 9: a normal number takes two
    HANG = 10
    HANG_S = 11
    RESTART = 12
    MALFORMED = 13
    DUPLICATE = 14
    COPY = 15
    DELAY = 16
    PHASE = 17


def uniform(
    seed: int, purpose: int, agents: np.ndarray, counts: np.ndarray | int = 0
) -> Float64[np.ndarray, " agents"]:
    """Return one number in (0, 1) for each agent and its count, float64 `[agents]`.

    >>> of_two, of_three = (uniform(0, Purpose.TURN, np.arange(agents)) for agents in (2, 3))
    >>> (of_two == of_three[:2]).all()
    np.True_
    """
    mixed = np.full(np.shape(agents), np.uint64(seed))
    # Overflow is meant: splitmix64 computes modulo 2^64.
    with np.errstate(over="ignore"):
        for part in (purpose, agents, counts):
            # One is added to each part, as `_mix(0)` is 0 and zeros would leave a seed of 0 unmixed.
            mixed = _mix(mixed + GOLDEN * (np.asarray(part).astype(np.uint64) + np.uint64(1)))
    # The upper 52 bits plus a half: neither 0 nor 1, so that logarithms of the number are finite.
    return ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def exponential(
    seed: int, purpose: int, agents: np.ndarray, counts: np.ndarray | int = 0
) -> Float64[np.ndarray, " agents"]:
    """Return exponentially distributed numbers with mean one, `[agents]`."""
    return -np.log(uniform(seed, purpose, agents, counts))


def normal(seed: int, purpose: int, agents: np.ndarray, counts: np.ndarray | int = 0) -> Float64[np.ndarray, " agents"]:
    """Return standard normal numbers (Box & Muller), `[agents]`; they use the streams `purpose` and `purpose + 1`."""
    radius = np.sqrt(-2.0 * np.log(uniform(seed, purpose, agents, counts)))
    return radius * np.cos(2.0 * np.pi * uniform(seed, purpose + 1, agents, counts))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return np.asarray(x ^ (x >> np.uint64(31)))
