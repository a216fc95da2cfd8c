"""Both ends of an encrypted sum: one agent after the other is asked to open it, and none opens it twice."""

import numpy as np
import pytest

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure import messages
from fedrl.secure.ckks import new_encryption_key
from fedrl.secure.encrypted import EncryptedSumPlan
from fedrl.secure.encrypted_ends import (
    KINDS,
    EncryptedSumCoordinator,
    EncryptedTotal,
    EncryptedValues,
    EncryptingAgent,
    OpenedTotal,
)
from fedrl.secure.identity import new_identities

MEMBERS, SIZE = (2, 3, 5, 8), 5
VALUES = np.random.default_rng(17).integers(-(2**28), 2**28, (4, SIZE)).astype(np.int32)
PLAN, KEY = EncryptedSumPlan(MEMBERS, SIZE, 2, b"sum"), new_encryption_key()


def by_bytes(message, plan=PLAN):
    return messages.decoded(messages.encoded(message, plan, KINDS), plan, KINDS)


def begun(key=KEY, without=()):
    """Agents that have sent their vectors, the coordinator, and who is asked to open the sum."""
    agents = {agent: EncryptingAgent(each, PLAN, key) for agent, each in new_identities(MEMBERS).items()}
    coordinator = EncryptedSumCoordinator(PLAN)
    for agent, row in zip(MEMBERS, VALUES, strict=True):
        if agent not in without:
            coordinator.receive(agent, by_bytes(agents[agent].encrypt(row)))
    return agents, coordinator, coordinator.close()


def test_the_first_agent_that_answers_opens_the_sum():
    agents, coordinator, shown = begun(without=(2,))
    assert list(shown) == [3]
    assert not coordinator.complete
    shown = coordinator.close()  # agent 3 has left
    assert list(shown) == [5]
    coordinator.receive(5, by_bytes(agents[5].open(by_bytes(shown[5]))))
    assert coordinator.complete
    assert coordinator.included == (3, 5, 8)
    np.testing.assert_array_equal(coordinator.total().view(np.int32), VALUES[1:].sum(axis=0))


def test_a_sum_that_nobody_opens_stays_hidden():
    agents, coordinator, _ = begun()
    for _ in range(3):
        coordinator.close()
    with pytest.raises(TooFewAgentsError, match="No agent has opened the encrypted sum"):
        coordinator.close()
    with pytest.raises(TooFewAgentsError, match="Encrypted vectors of 1 agents are there"):
        begun(without=(2, 3, 5))
    del agents


def test_an_agent_opens_one_sum_and_only_one_that_it_is_in():
    agents, coordinator, shown = begun()
    agents[2].open(shown[2])
    with pytest.raises(SecureSumError, match="Each step is taken once and in order"):
        agents[2].open(shown[2])
    for agent, present, said in (
        (3, (2, 5), "a sum in which its vector is not"),
        (5, (5,), "Encrypted vectors of 1 agents are there"),
        (8, (8, 9), "agents in it that were not invited"),
    ):
        with pytest.raises(SecureSumError, match=said):
            agents[agent].open(EncryptedTotal(present, shown[2].sum_ciphertexts))
    del coordinator


def test_only_the_agent_that_was_asked_opens_the_sum_and_only_once():
    _, coordinator, _ = begun()
    for sender, message, said in (
        (3, OpenedTotal(3, np.zeros(SIZE, np.uint32)), "that it was not asked for"),
        (2, OpenedTotal(3, np.zeros(SIZE, np.uint32)), "in the name of another agent"),
        (2, EncryptedValues(2, b""), "too late or too early"),
        (2, OpenedTotal(2, np.zeros(SIZE + 1, np.uint32)), "or a wrong size"),
    ):
        with pytest.raises(SecureSumError, match=said):
            coordinator.receive(sender, message)
    coordinator.receive(2, OpenedTotal(2, np.zeros(SIZE, np.uint32)))
    with pytest.raises(SecureSumError, match="a second one"):
        coordinator.receive(2, OpenedTotal(2, np.ones(SIZE, np.uint32)))


def test_messages_of_another_sum_are_none_of_this_one():
    other = EncryptedSumPlan(MEMBERS, SIZE, 2, b"another sum")
    agents, _, _ = begun()
    again = EncryptingAgent(new_identities(MEMBERS)[2], other, KEY).encrypt(VALUES[0])
    with pytest.raises(ValueError, match="of another secure sum"):
        messages.decoded(messages.encoded(again, other, KINDS), PLAN, KINDS)
    del agents
