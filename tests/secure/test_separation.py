"""A coordinator that leaves out the agents between two parts of a sparse graph, to have the sum of a part."""

import numpy as np
import pytest

from fedrl.core.errors import ConfigError, TooFewAgentsError
from fedrl.secure import SumPlan, sum_plan
from fedrl.secure.channel import agreed
from fedrl.secure.coordinator import PHASES
from fedrl.secure.graph import random_order, risk
from fedrl.secure.masks import Mask, apply_masks, derived_key
from fedrl.secure.transcript import pair_purpose
from tests.support.secure_sums import halted

AGENTS, DEGREE, MINIMUM = 30, 6, 24
GAPS, PART = (8, 9, 10, 20, 21, 22), range(11, 20)
"""Places in the order of agents: with three on either side of each gap, no neighbours are across it."""


def plan(threshold: int, verified: bool) -> SumPlan:
    members = tuple(range(AGENTS))
    return sum_plan(b"parts", members, 3, degree=DEGREE, threshold=threshold, minimum=MINIMUM, verified=verified)


def sum_of_the_part(made: SumPlan, colluding: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What a coordinator has of the part, and the sum of its vectors; agents at `colluding` places help it."""
    order = random_order(made.members, made.context)
    out = {order[place] for place in GAPS if place not in colluding}
    part, helpers = {order[place] for place in PART}, [order[place] for place in colluding]
    there, sent, keys = halted("adverts", made), np.zeros(made.size, np.uint32), {}
    for phase in PHASES if made.verified else [each for each in PHASES if each != "tags"]:
        for agent in set(there.inbox) - out:
            if phase == "masked" and agent in helpers:
                keys[agent] = there.agents[agent]._mask_key
            message = there.step(agent)
            there.coordinator.receive(agent, message)
            if phase == "masked" and agent in part:
                sent += message.values
        if phase != "opening":
            there = there._replace(inbox=there.coordinator.close())
    adverts, masks = there.coordinator._adverts, [Mask(there.coordinator._own_key(agent), False) for agent in part]
    for helper in helpers:
        for other in part & set(made.neighbours[helper]):
            secret = agreed(keys[helper], adverts[other].mask_key, "mask key")
            key = derived_key(secret, pair_purpose(made, adverts[helper], adverts[other]))
            masks.append(Mask(key, helper < other))
    apply_masks(sent, masks)
    return sent, there.values[sorted(part)].sum(axis=0, dtype=np.uint32)


def test_a_threshold_of_half_of_the_neighbours_gives_the_sum_of_a_part_and_is_refused():
    found, true = sum_of_the_part(plan(4, verified=False), ())  # nine agents, and the minimum is 24
    np.testing.assert_array_equal(found, true)
    with pytest.raises(ConfigError, match=r"neighbours on one side .* Use 5 or more, or verified=False"):
        plan(4, verified=True)
    assert risk(AGENTS, DEGREE, 4, corrupted=0.0, dropped=0.0, verified=True).separated == 1.0


@pytest.mark.parametrize("colluding", [(), (9,), (21,)])
def test_one_more_needs_a_colluding_agent_between_the_parts_on_both_sides(colluding):
    with pytest.raises(TooFewAgentsError, match=r"4 of the 7 holders of agent .* advertised, and 5 are needed"):
        sum_of_the_part(plan(5, verified=True), colluding)
    assert risk(AGENTS, DEGREE, 5, corrupted=0.0, dropped=0.3, verified=True).separated == 0.0


def test_with_colluding_agents_on_both_sides_there_is_a_sum_of_a_part_and_the_risk_counts_it():
    found, true = sum_of_the_part(plan(5, verified=True), (9, 21))
    np.testing.assert_array_equal(found, true)
    assert risk(AGENTS, DEGREE, 5, corrupted=2 / AGENTS, dropped=0.0, verified=True).separated > 0.0


@pytest.mark.parametrize("degree", [2, 4, 6, 8, 10, 12, 20, 40])
def test_the_usual_threshold_of_a_verified_sum_is_one_that_agents_on_one_side_cannot_reach(degree):
    usual = sum_plan(b"usual", tuple(range(100)), 1, degree=degree)
    assert degree // 2 + 1 < usual.threshold <= degree + 1
    complete = sum_plan(b"usual", tuple(range(degree + 1)), 1)
    assert complete.threshold <= usual.threshold
