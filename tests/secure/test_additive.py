import itertools
from collections import Counter

import numpy as np
import pytest

from fedrl.core.errors import ConfigError, SecureSumError, TooFewAgentsError
from fedrl.secure import AdditivePlan, additive_sum
from fedrl.secure.additive import PartAdder, PartialSum, Splitter, SplittingPeer, VectorPart, combined
from fedrl.secure.drive_additive import ADDITIVE_PHASES

MEMBERS, SIZE = (2, 3, 5, 8), 6
VALUES = np.random.default_rng(3).integers(0, 2**32, (4, SIZE), dtype=np.uint32)


def plan(aggregators: int, minimum: int = 2, context: bytes = b"sum") -> AdditivePlan:
    return AdditivePlan(context, MEMBERS, SIZE, minimum, aggregators)


def total_of(agents: tuple[int, ...]) -> list[int]:
    return VALUES[[MEMBERS.index(agent) for agent in agents]].sum(axis=0, dtype=np.uint32).tolist()


@pytest.mark.parametrize("aggregators", [0, 2, 3, 5])
def test_any_pattern_of_leaving_gives_the_sum_of_those_whose_parts_arrived_or_none(aggregators):
    tally = Counter()
    for when in itertools.product((*ADDITIVE_PHASES, "stays"), repeat=4):
        leaves = {agent: phase for agent, phase in zip(MEMBERS, when, strict=True) if phase != "stays"}
        included = tuple(agent for agent in MEMBERS if leaves.get(agent) not in ADDITIVE_PHASES[:2])
        has_to_stay = aggregators == 0 and "sums" in leaves.values()
        try:
            opened = additive_sum(VALUES, plan(aggregators), leaves)
        except TooFewAgentsError:
            assert has_to_stay or len(included) < 2, when
            tally["aborted"] += 1
        else:
            assert not has_to_stay, when
            assert opened.included == included
            assert opened.total.tolist() == total_of(included)
            tally["completed"] += 1
    print(f"{aggregators} aggregators: {tally['completed']} completed, {tally['aborted']} aborted")
    assert tally["completed"] == (6 * 4 + 4 * 2 + 1 if aggregators == 0 else 11 * 16)


def test_among_agents_a_vector_leaves_once():
    costs = additive_sum(VALUES, plan(0)).costs
    assert costs["parts"].up_bytes == 4 * 3 * (4 + 32)
    assert costs["sums"].up_bytes == 4 * (4 + 4 * SIZE)


def adders(aggregators: int = 2) -> list[PartAdder]:
    found = [PartAdder(plan(aggregators), party) for party in range(aggregators)]
    for agent, row in zip(MEMBERS, VALUES, strict=True):
        for party, part in Splitter(plan(aggregators), agent).split(row).items():
            found[party].receive(agent, part)
    return found


def test_an_aggregator_adds_once():
    one, _ = adders()
    one.add(MEMBERS)
    with pytest.raises(SecureSumError, match="asked for a second sum: two of them differ by single vectors"):
        one.add(MEMBERS[1:])


def test_the_sum_of_fewer_than_the_minimum_stays_hidden():
    adder = PartAdder(plan(2, minimum=3), 0)
    for agent, row in zip(MEMBERS, VALUES, strict=True):
        adder.receive(agent, Splitter(plan(2, minimum=3), agent).split(row)[0])
    with pytest.raises(TooFewAgentsError, match="A sum of 2 agents was asked for, and the plan asks for 3 or more"):
        adder.add(MEMBERS[:2])
    with pytest.raises(SecureSumError, match="parts of agents whose parts it does not have"):
        adder.add((*MEMBERS, 9))


def test_an_aggregator_that_leaves_ends_the_sum():
    one, other = adders()
    with pytest.raises(TooFewAgentsError, match="Sums of 1 parties came, and all 2 are needed"):
        combined(plan(2), [one.add(MEMBERS)])
    with pytest.raises(SecureSumError, match="parts of different agents"):
        combined(plan(2), [PartialSum(0, MEMBERS, VALUES[0]), other.add(MEMBERS[1:])])


def test_a_part_of_another_agent_or_length_or_a_second_one_is_rejected():
    adder = PartAdder(plan(2), 1)
    part = Splitter(plan(2), 2).split(VALUES[0])[1]
    with pytest.raises(SecureSumError, match="another agent's"):
        adder.receive(3, part)
    with pytest.raises(SecureSumError, match="part of 31 bytes, and it has to be 32"):
        adder.receive(2, VectorPart(2, bytes(31)))
    adder.receive(2, part)
    with pytest.raises(SecureSumError, match="a second one"):
        adder.receive(2, part)


def test_an_agent_splits_one_vector():
    splitter = Splitter(plan(2), 2)
    splitter.split(VALUES[0])
    with pytest.raises(SecureSumError, match="second vector"):
        splitter.split(VALUES[1])
    peer = SplittingPeer(plan(0), 2)
    peer.split(VALUES[0])
    with pytest.raises(SecureSumError, match="second vector"):
        peer.split(VALUES[1])


def test_parts_of_another_sum_give_no_vector():
    """A part is expanded for one agent, one party and one sum."""
    other = plan(2, context=b"another sum")
    found = [PartAdder(plan(2), 0), PartAdder(other, 1)]
    for agent, row in zip(MEMBERS, VALUES, strict=True):
        for party, part in Splitter(plan(2), agent).split(row).items():
            found[party].receive(agent, part)
    assert combined(plan(2), [each.add(MEMBERS) for each in found]).tolist() != total_of(MEMBERS)


@pytest.mark.parametrize(
    "wrong", [{"aggregators": 1}, {"minimum": 1}, {"minimum": 5}, {"members": (2, 1)}, {"size": 0}]
)
def test_a_plan_that_hides_nothing_is_rejected(wrong):
    with pytest.raises(ConfigError, match=r"Use two or more|ascending"):
        AdditivePlan(**({"context": b"", "members": MEMBERS, "size": 3, "minimum": 2, "aggregators": 2} | wrong))
