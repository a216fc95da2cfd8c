"""Add updates as integers modulo 2^32 on a common grid, as masks and secret shares need.

    x --round--> code = trunc(2^s x), int32 --sum modulo 2^32--> code 2^-s

Masks are uniform in this ring, so a masked update tells nothing about the update, and they cancel exactly. For the same
reason a simulation needs no masks to have the numbers of the protocol: sums of codes are what the protocol opens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Positive, PositiveDuration, Whole
from fedrl.core.summation import Summation
from fedrl.secure.encrypted import check_encryption
from fedrl.secure.vector import MOST_AGENTS

BITS = 31
"""The bits of a magnitude in an int32."""
PROTOCOLS = ("none", "masks", "additive", "ckks")
LARGEST_WEIGHT, FEWEST_BITS = 16.0, 4
"""The largest weight of an update in units of an agent's usual one, and the fewest bits after the point of weights."""


def bits_below(agents: int, largest: float) -> int:
    """Return s, the bits after the point: the most for which the sum of all agents does not overflow.

    >>> bits_below(10, 1.0)
    27
    """
    return math.ceil(BITS - math.log2(agents * largest)) - 1


@component("summation", reference="Bonawitz et al. (2017), https://doi.org/10.1145/3133956.3133982")
def ring_sum(
    agents: Count,
    largest: Positive,
    minimum: Count = 2,
    protocol: str = "none",
    phase_s: PositiveDuration = math.inf,
    verified: bool = True,
    group_size: Whole = 0,
) -> Summation:
    """Add updates modulo 2^32 on a grid, so that the server can be kept from reading more than the sum.

        code = trunc(2^s x),    s = the most bits with agents * largest * 2^s < 2^31

    An update with a larger entry is rejected by its own agent: the sum would overflow. Numbers are rounded towards
    zero, so that no norm increases, for which noise was calibrated. The error of a sum of K updates is below K 2^-s per
    entry. Weights are entries of the same vector, below 16 usual ones, rounded to the nearest on a grid of their own.
    Statistics are in it, too, and stay exact (`fedrl.secure.vector`). On the wire a number has 4 bytes, a statistic 72.

    Args:
        agents: The largest number of agents in one sum.
        largest: The largest magnitude of an entry of an update, times its weight; behind a clip, its norm.
        minimum: The fewest updates of which a sum is opened; a round, or a group, with fewer is left out.
        protocol: The messages that are exchanged: "none" in a simulation of the sums alone; "masks", those of agents
            and coordinator with double masks (`fedrl.secure.agent`); "additive", those of additive shares among two
            aggregators (`fedrl.secure.additive`); "ckks", ciphertexts under a key that the coordinator lacks
            (`fedrl.secure.encrypted`), of 7.6 bytes a number. Sums of the same agents are the same, bit for bit.
        phase_s: Seconds after which a phase of the protocol ends without the agents whose messages are missing.
        verified: Whether agents tell each other, in one more phase of "masks", which set of survivors they were shown.
            It is needed where the coordinator may deviate from the protocol.
        group_size: The fewest agents in a group, drawn anew for each version, for a rule that sees the mean of each
            group, such as `median()`; 0 for one sum of all.

    Raises:
        ConfigError: So many agents with so large entries leave no useful grid, they are too many for "ckks" or its
            package is missing, or `protocol` is another word.

    >>> ring_sum(10, largest=1.0).opens
    'sum'
    """
    check_one_of(protocol, PROTOCOLS, "protocol")
    if (protocol == "none" and phase_s != math.inf) or (protocol != "masks" and not verified):
        raise ConfigError(
            f"phase_s is {phase_s:g} and verified is {verified}, and protocol is {protocol!r}, which has no "
            f"{'phases' if verified else 'tags to leave out'}. Set protocol to 'masks', or leave them out."
        )
    if protocol == "ckks":
        check_encryption(agents)
    if not 2 <= minimum <= agents:
        raise ConfigError(
            f"minimum is {minimum} of {agents} agents. A sum of fewer than two updates hides none of them. Set it to 2 "
            f"or more, and to {agents} at most."
        )
    if group_size and not minimum <= group_size <= agents:
        raise ConfigError(
            f"group_size is {group_size}, minimum is {minimum}, and there are {agents} agents. No sum of a group would "
            f"be opened, or there is no whole group. Set it to {minimum} to {agents}, or 0 for one sum of all."
        )
    bits = bits_below(agents, largest)
    weight_bits = bits_below(agents, LARGEST_WEIGHT)
    if weight_bits < FEWEST_BITS or not -100 <= bits <= 100:
        raise ConfigError(
            f"agents is {agents} and largest is {largest:g}. Codes of 32 bits hold their sum in units "
            f"of 2^{-bits}, which is no useful grid. Use another unit of parameters, or a clip."
        )
    unit = 2.0**-bits

    def quantize(terms: jax.Array, accepted: jax.Array) -> jax.Array:
        kept = jnp.where(accepted[:, None], terms, 0.0)
        # Rounded to the nearest, many small entries could almost double the norm of an update behind its clip.
        values, weight = jnp.trunc(kept[:, :-1] * 2.0**bits), jnp.round(kept[:, -1:] * 2.0**weight_bits)
        codes = jnp.concatenate([values, weight], axis=1).astype(jnp.int32)
        return codes.sum(axis=0, keepdims=True, dtype=jnp.int32)

    def total(partials: Sequence[Any]) -> np.ndarray:
        values = added(partials).astype(np.float64) * unit
        values[-1] *= 2.0**-weight_bits / unit
        return values

    rows = exact.LANES if protocol == "none" else 1
    hiding = Summation(quantize, total, largest, LARGEST_WEIGHT, opens="sum", rows=rows, minimum=minimum, unit=unit)
    counts = agents <= MOST_AGENTS and not group_size
    hiding = replace(hiding, statistics=counts, group_size=group_size)
    return replace(hiding, protocol=protocol, phase_s=phase_s, verified=verified)


def added(partials: Sequence[Any]) -> np.ndarray:
    """Return the sum of codes in the ring, int32 `[size]`."""
    # int64 does not overflow here, and its low 32 bits are the sum in the ring.
    return np.asarray(sum((np.asarray(partial[0], np.int64) for partial in partials), np.int64(0))).astype(np.int32)
