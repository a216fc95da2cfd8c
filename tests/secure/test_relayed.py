"""Additive shares through a coordinator that deviates, and among agents that do: found, or nothing is learned."""

import itertools

import numpy as np
import pytest

from fedrl.core.errors import SecureSumError, TooFewAgentsError, WireError
from fedrl.secure import messages
from fedrl.secure.additive import AdditivePlan
from fedrl.secure.identity import new_identities
from fedrl.secure.relayed import (
    KINDS,
    PHASES,
    IncludedAgents,
    PartDelivery,
    PartialValues,
    PartsRelay,
    ReceivedParts,
    RelayedPeer,
    SealedParts,
    agreeing,
)

MEMBERS, SIZE = (2, 3, 5, 8), 6
VALUES = np.random.default_rng(3).integers(0, 2**32, (4, SIZE), dtype=np.uint32)
ROWS = dict(zip(MEMBERS, VALUES, strict=True))


def plan_of(minimum=2, context=b"sum"):
    return AdditivePlan(context, MEMBERS, SIZE, minimum)


def total_of(agents):
    return sum((ROWS[agent] for agent in agents), np.zeros(SIZE, np.uint32))


class Sum:
    """A sum in the middle: its parties, and what each agent is to be shown next."""

    def __init__(self, plan=None, identities=None):
        self.plan, self.identities = plan or plan_of(), identities or new_identities(MEMBERS)
        self.peers = {agent: RelayedPeer(self.identities[agent], self.plan) for agent in MEMBERS}
        self.relay, self.shown = PartsRelay(self.plan), dict.fromkeys(MEMBERS)

    def answer(self, agent, shown=None):
        peer, shown = self.peers[agent], shown or self.shown[agent]
        if shown is None:
            return peer.split(ROWS[agent])
        return peer.receive(shown) if isinstance(shown, PartDelivery) else peer.add(shown)

    def close(self, *without):
        """Let all agents but these answer in this phase, and close it."""
        for agent in self.shown:
            if agent not in without:
                self.relay.receive(agent, self.by_bytes(self.answer(agent)))
        if not self.relay.complete:
            self.shown = {agent: self.by_bytes(each) for agent, each in self.relay.close().items()}
        return self

    def by_bytes(self, message):
        return messages.decoded(messages.encoded(message, self.plan, KINDS), self.plan, KINDS)


def test_any_pattern_of_leaving_gives_the_sum_of_those_whose_parts_arrived_or_none():
    completed = 0
    for when in itertools.product((*PHASES, "stays"), repeat=4):
        leaves, there, ended = dict(zip(MEMBERS, when, strict=True)), Sum(), False
        stay = tuple(agent for agent in MEMBERS if leaves[agent] in ("sums", "stays"))
        try:
            for phase in PHASES:
                there.close(*(agent for agent in MEMBERS if leaves[agent] == phase))
            total = there.relay.total()
        except TooFewAgentsError:
            ended = True
        assert ended == (len(stay) < 2 or any(leaves[agent] == "sums" for agent in stay)), when
        if not ended:
            assert there.relay.included == stay
            np.testing.assert_array_equal(total, total_of(stay))
            completed += 1
    assert completed == 1 + 4 * 2 + 6 * 4  # all stay, or the others left in one of the first two phases


def test_what_the_coordinator_receives_says_nothing_of_a_vector():
    """The parts in boxes are not those by which it could subtract them, and a partial sum is uniform."""
    there, seen = Sum(), []
    for agent in MEMBERS:
        there.relay.receive(agent, there.answer(agent))
    sealed = there.relay._came.values()
    seeds = [seed for peer in there.peers.values() for seed in peer._peer._own._seeds.values()]
    assert len(seeds) == 12
    whole = b"".join(box for each in sealed for _, box in each.parts)
    assert not any(seed in whole for seed in seeds)
    there.shown = there.relay.close()
    there.close()
    for agent in MEMBERS:
        seen.append(there.answer(agent).values)
        there.relay.receive(agent, PartialValues(agent, seen[-1]))
    np.testing.assert_array_equal(there.relay.total(), total_of(MEMBERS))
    for count in (1, 2, 3):
        for some in itertools.combinations(range(4), count):
            assert not (sum(seen[k] for k in some) == VALUES[list(some)].sum(axis=0, dtype=np.uint32)).any()


def delivered(there, agent, change):
    """A delivery to an agent with one box exchanged: `change` maps the boxes by sender."""
    shown = there.shown[agent]
    boxes = dict(shown.parts)
    return PartDelivery(shown.present, tuple(sorted((boxes | change(boxes)).items())))


@pytest.mark.parametrize(
    "change",
    [
        lambda boxes: {3: boxes[5], 5: boxes[3]},
        lambda boxes: {3: bytes(48), 5: bytes(reversed(boxes[5]))},
        lambda boxes: {3: boxes[3][:-1] + bytes([boxes[3][-1] ^ 1]), 5: boxes[8]},
    ],
    ids=["swapped", "made up", "changed"],
)
def test_boxes_that_were_exchanged_do_not_open_and_are_named(change):
    there = Sum().close()
    there.shown[2] = delivered(there, 2, change)
    there.close()
    assert there.peers[2].faults == [
        "The parts from agents [3, 5] to agent 2 do not open: they were replaced on the way, or made up. They were "
        "left out."
    ]
    assert there.relay.faults == ["Agent 2 says that the parts from agents [3, 5] do not open."]
    there.close()
    assert there.relay.included == (3, 5, 8)  # agent 2 complains of two, and each of these has one complaint
    np.testing.assert_array_equal(there.relay.total(), total_of((3, 5, 8)))


def test_a_box_for_another_agent_or_of_another_sum_or_attempt_does_not_open():
    identities = new_identities(MEMBERS)
    before, there = Sum(plan_of(context=b"attempt 1"), identities).close(), Sum(plan_of(), identities).close()
    old, mine = dict(before.shown[2].parts)[3], dict(there.shown[5].parts)[3]
    for box in (old, mine):
        again = Sum(plan_of(context=box), identities).close()
        again.shown[2] = delivered(again, 2, lambda boxes, box=box: {3: box})
        assert 3 not in again.answer(2).present


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda shown: shown._replace(parts=shown.parts[1:]), "keeps parts back, or sends them twice"),
        (lambda shown: shown._replace(parts=(shown.parts[0], *shown.parts)), "keeps parts back, or sends them twice"),
        (lambda shown: shown._replace(present=shown.present[1:]), "it is missing itself"),
        (lambda shown: PartDelivery((2,), ()), "1 agents are left, and the plan asks for 2"),
    ],
)
def test_a_delivery_with_parts_kept_back_or_sent_twice_ends_the_agents_part(change, said):
    there = Sum().close()
    with pytest.raises(SecureSumError, match=said):
        there.peers[2].receive(change(there.shown[2]))
    with pytest.raises(SecureSumError, match="Each step is taken once and in order"):
        there.peers[2].receive(there.shown[2])


def test_a_part_twice_is_no_message():
    there = Sum().close()
    shown = there.shown[2]._replace(parts=(there.shown[2].parts[0],) * 3)
    with pytest.raises(WireError, match="names agents twice or out of order"):
        there.by_bytes(shown)


def told(there, sets):
    """The partial sums of agents that are told of these sets."""
    return {agent: there.answer(agent, IncludedAgents(present)).values for agent, present in sets.items()}


def test_agents_that_are_told_of_different_sets_give_random_numbers():
    """Any two count each other in, or neither does: without the sets in the keys, the sum would be open."""
    there = Sum().close().close()
    views = {2: (2, 3, 5), 3: (2, 3, 5), 5: MEMBERS, 8: (5, 8)}
    found = told(there, views)
    for count in range(1, 5):
        for some in itertools.combinations(MEMBERS, count):
            total = sum(found[agent] for agent in some)
            for other in range(1, 5):
                assert not any((total == total_of(each)).any() for each in itertools.combinations(MEMBERS, other))


def test_groups_that_are_told_that_the_others_have_left_have_sums_of_the_minimum_or_more():
    """What a coordinator that deviates can do; `minimum` bounds it."""
    there = Sum().close().close()
    found = told(there, {2: (2, 3), 3: (2, 3), 5: (5, 8), 8: (5, 8)})
    np.testing.assert_array_equal(found[2] + found[3], total_of((2, 3)))
    np.testing.assert_array_equal(found[5] + found[8], total_of((5, 8)))
    there = Sum(plan_of(minimum=3)).close().close()
    for agent in MEMBERS:
        with pytest.raises(TooFewAgentsError, match="2 agents are left, and the plan asks for 3"):
            there.answer(agent, IncludedAgents((2, 3) if agent < 5 else (5, 8)))


def test_an_agent_adds_once_and_only_with_itself_and_with_parts_that_it_has():
    there = Sum().close().close()
    there.answer(2)
    with pytest.raises(SecureSumError, match="Each step is taken once and in order"):
        there.answer(2, IncludedAgents((2, 3)))
    for agent, wrong in ((3, (2, 5)), (5, (2, 5, 9)), (8, (8, 8))):
        with pytest.raises(SecureSumError, match=r"impossible set|does not have"):
            there.answer(agent, IncludedAgents(wrong))
    with pytest.raises(SecureSumError, match="take part twice in one sum"):
        RelayedPeer(there.identities[2], there.plan)


def test_an_agent_that_makes_up_its_parts_is_left_out_and_the_sum_is_that_of_the_others():
    there = Sum()
    for agent in MEMBERS:
        sealed = there.answer(agent)
        if agent == 5:
            sealed = SealedParts(5, tuple((other, bytes(48)) for other, _ in sealed.parts))
        there.relay.receive(agent, sealed)
    there.shown = there.relay.close()
    there.close().close()
    assert there.relay.included == (2, 3, 8)
    assert len(there.relay.faults) == 3
    np.testing.assert_array_equal(there.relay.total(), total_of((2, 3, 8)))


def test_an_agent_that_says_of_all_others_that_nothing_came_is_left_out_alone():
    there = Sum().close()
    for agent in MEMBERS:
        found = there.answer(agent)
        there.relay.receive(agent, ReceivedParts(3, (3,)) if agent == 3 else found)
    there.shown = there.relay.close()
    there.close()
    assert there.relay.included == (2, 5, 8)
    np.testing.assert_array_equal(there.relay.total(), total_of((2, 5, 8)))


def test_agents_in_a_sum_have_the_parts_of_all_others_whoever_lies():
    rng = np.random.default_rng(5)
    for _ in range(200):
        received = {k: tuple(sorted({k, *np.flatnonzero(rng.random(6) < 0.8).tolist()})) for k in range(6)}
        left = agreeing(received)
        assert all(set(left) <= set(received[agent]) for agent in left)
        # Not needlessly few: whoever was left out could not come back without a missing part.
        assert (
            not any(
                all(agent in received[other] and other in received[agent] for other in left)
                for agent in set(received) - set(left)
            )
            or len(left) >= 2
        )


@pytest.mark.parametrize(
    ("sender", "message", "said"),
    [
        (2, ReceivedParts(2, (2,)), "too late or too early"),
        (2, SealedParts(3, ()), "in the name of another agent"),
        (9, SealedParts(9, ()), "is not in the sum"),
        (2, SealedParts(2, ((3, bytes(48)),)), "not one of 48 bytes for each other agent"),
        (2, SealedParts(2, ((3, bytes(48)), (5, bytes(48)), (8, bytes(47)))), "not one of 48 bytes"),
    ],
)
def test_a_message_that_is_not_due_is_refused(sender, message, said):
    relay = PartsRelay(plan_of())
    with pytest.raises(SecureSumError, match=said):
        relay.receive(sender, message)
    there = Sum().close()
    with pytest.raises(SecureSumError, match="says that it has parts of agents that sent none, or not its own"):
        there.relay.receive(2, ReceivedParts(2, (3, 5)))
    there.relay.receive(2, ReceivedParts(2, (2, 3)))
    with pytest.raises(SecureSumError, match="Agent 2 sent a second ReceivedParts; the first one counts"):
        there.relay.receive(2, ReceivedParts(2, (2,)))
