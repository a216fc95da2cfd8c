"""From updates to the mean of the server: the protocol on the grid, beside the exact sum in the clear."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.summation import Summation, exact_sum
from fedrl.secure import AdditivePlan, additive_sum, ring_sum, secure_sum, sum_plan
from fedrl.secure.ring import signed

AGENTS, SIZE = 10, 33
RNG = np.random.default_rng(11)
TERMS = (RNG.integers(-(2**20), 2**20, (AGENTS, SIZE)) * 2.0**-20).astype(np.float32)
"""Updates that lie on the grid, each with its weight at the end."""
TERMS[:, -1] = RNG.integers(1, 16, AGENTS)


def encoded(summation: Summation, agent: int) -> np.ndarray:
    return np.asarray(summation.quantize(jnp.asarray(TERMS[[agent]]), jnp.ones(1, bool)))


@pytest.mark.parametrize("leaves", [{}, {3: "masked", 8: "masked"}, {0: "shares", 1: "adverts", 9: "opening"}])
def test_the_opened_sum_is_bit_for_bit_the_exact_sum_of_those_whose_vectors_arrived(leaves):
    ring, exact = ring_sum(16, largest=1.0), exact_sum()
    codes = np.concatenate([encoded(ring, agent) for agent in range(AGENTS)])
    opened = secure_sum(codes, sum_plan(b"grid", tuple(range(AGENTS)), codes.shape[1], minimum=2), leaves)
    there = [agent for agent in range(AGENTS) if leaves.get(agent) in (None, "opening")]
    assert opened.included == tuple(there)
    plain = exact.total([encoded(exact, agent) for agent in there])
    np.testing.assert_array_equal(ring.total([signed(opened.total)[None]]), plain)


def test_additive_shares_open_the_same_sum():
    ring = ring_sum(16, largest=1.0)
    codes = np.concatenate([encoded(ring, agent) for agent in range(AGENTS)])
    members = tuple(range(AGENTS))
    masked = secure_sum(codes, sum_plan(b"grid", members, codes.shape[1])).total
    for aggregators in (0, 2):
        plan = AdditivePlan(b"grid", members, codes.shape[1], 2, aggregators)
        np.testing.assert_array_equal(additive_sum(codes, plan).total, masked)
