"""Encrypted sums: agents share a key that the coordinator lacks; it adds ciphertexts, and an agent opens the sum.

    agent:        vector --EncryptionKey--> EncryptedVector                              one message
    coordinator:  adds ciphertexts as they arrive, with public parameters alone --> EncryptedSum
    one agent:    EncryptedSum --EncryptionKey--> integers, rounded                      to the coordinator

One agent makes the key and gives it to the others past the coordinator, or all have it in a file. Who leaves before its
vector has arrived is not in the sum; any agent that is left can open it.

The coordinator keeps to the protocol in this model: whoever opens a sum can't tell it from a single vector, so one that
sends a vector back as the sum gets it opened. For the same reason nobody who has the key may collude with it.

The noise of CKKS depends on the key, so a decrypted number with all its bits gives away information about it (Li and
Micciancio, 2021, https://doi.org/10.1007/978-3-030-77870-5_23). What is opened here is an integer that anybody could
compute from the vectors: rounding removes the noise as a whole.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import ConfigError, SecureSumError, TooFewAgentsError
from fedrl.secure import ckks
from fedrl.secure.ckks import MOST_AGENTS, EncryptionKey
from fedrl.secure.extra import check_tenseal
from fedrl.secure.ring import as_ring

ROUNDED_OFF = 0.25
"""How far from an integer a decrypted number may be, in units of the grid."""


def check_encryption(agents: int) -> None:
    """Refuse sums of more agents than the noise of encryption allows, and sums without the package.

    Raises:
        ConfigError: There are too many agents, or the package of the extra `he` is missing.
    """
    check_tenseal()
    if agents > MOST_AGENTS:
        raise ConfigError(
            f"agents is {agents}. With more than {MOST_AGENTS}, the noise of encryption may reach half a unit of the "
            "grid, and the rounded sum would be wrong. Use protocol='masks', or a tree of smaller sums."
        )


@dataclass(frozen=True)
class EncryptedSumPlan:
    """What all parties of an encrypted sum know before it begins.

    Attributes:
        members: Numbers of the invited agents, ascending.
        size: Number of entries of a vector.
        minimum: The least number of vectors in a sum that an agent opens.
        context: What makes this sum unlike every other one, where messages of several may be mixed up: `context_of`.

    Raises:
        ConfigError: Such a sum would hide nothing, has too many agents, or the package of the extra `he` is missing.
    """

    members: tuple[int, ...]
    size: int
    minimum: int
    context: bytes = b""

    def __post_init__(self) -> None:
        check_encryption(len(self.members))
        if tuple(sorted({*self.members})) != self.members:
            raise ConfigError("The members of a sum are not in ascending order, or one is there twice.")
        if not 2 <= self.minimum <= len(self.members) or self.size < 1:
            raise ConfigError(
                f"minimum is {self.minimum} of {len(self.members)} agents and size is {self.size}. A sum of fewer than "
                "two hides nothing. Use a minimum of two or more, agents at most, and one entry or more."
            )

    @property
    def largest(self) -> int:
        """The largest magnitude of an entry: with one more, the sum of all would not fit into 32 bits."""
        return (2**31 - 1) // len(self.members)

    @cached_property
    def digest(self) -> bytes:
        """The hash of the plan."""
        count = len(self.members)
        numbers = struct.pack(f"<{3 + count}I", self.size, self.minimum, count, *self.members)
        return hashlib.sha256(
            b"fedrl encrypted sum 1" + struct.pack("<I", len(self.context)) + self.context + numbers
        ).digest()

    @property
    def vector_ciphertexts_bytes(self) -> int:
        """Bytes of an encrypted vector."""
        return ckks.ciphertexts_of(self.size) * ckks.VECTOR_BYTES

    @property
    def sum_ciphertexts_bytes(self) -> int:
        """Bytes of an encrypted sum."""
        return ckks.ciphertexts_of(self.size) * ckks.SUM_BYTES

    @property
    def degree(self) -> int:
        """Number of the other agents, all of which have the same key."""
        return len(self.members) - 1

    @property
    def threshold(self) -> int:
        """Number of agents that are needed to open the sum: any one."""
        return 1

    @cached_property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """The other agents of each agent, ascending."""
        return {agent: tuple(other for other in self.members if other != agent) for agent in self.members}


class EncryptedVector(NamedTuple):
    """What an agent sends to the coordinator.

    Attributes:
        agent: Number of the agent.
        content: Ciphertexts of its vector.
    """

    agent: int
    content: bytes


class EncryptedSum(NamedTuple):
    """What the coordinator sends to the agent that opens the sum.

    Attributes:
        included: The agents whose vectors are in it, ascending.
        content: Ciphertexts of the sum.
    """

    included: tuple[int, ...]
    content: bytes


def encrypt(plan: EncryptedSumPlan, key: EncryptionKey, agent: int, values: np.ndarray) -> EncryptedVector:
    """Return an agent's vector, encrypted.

    Args:
        plan: The plan of the sum.
        key: The key of the agents.
        agent: Number of the agent.
        values: int32 or uint32 `[size]`; a uint32 stands for the int32 with the same bits.

    Raises:
        ValueError: It is no vector of 32-bit integers of this size.
        SecureSumError: An entry is so large that the sum might not fit.
    """
    entries = as_ring(values).view(np.int32)
    if entries.size != plan.size:
        raise ValueError(f"A vector has {entries.size} entries, and the sum was planned for {plan.size}.")
    if np.abs(entries.astype(np.int64)).max() > plan.largest:
        # Not by how much: the sentence goes to the coordinator.
        raise SecureSumError(
            f"The vector of agent {agent} has an entry beyond {plan.largest}, the largest of which the sum of "
            f"{len(plan.members)} agents fits into 32 bits. Use a coarser grid."
        )
    return EncryptedVector(agent, ckks.encrypted(key, entries))


class CiphertextAdder:
    """The coordinator, which has no key: it adds vectors as they arrive and keeps none of them.

    Args:
        plan: The plan of the sum.
    """

    def __init__(self, plan: EncryptedSumPlan) -> None:
        self.plan = plan
        self._total: list[Any] = []
        self._included: set[int] = set()

    def receive(self, sender: int, vector: EncryptedVector) -> None:
        """Add a vector.

        Args:
            sender: The agent from which it came, as the connection knows it.
            vector: Its message.

        Raises:
            SecureSumError: It is another agent's, the second one, or no ciphertext of this sum; nothing was added.
        """
        if vector.agent != sender or sender not in self.plan.members or sender in self._included:
            raise SecureSumError(f"Agent {sender} sent a vector that is another agent's, or a second one.")
        try:
            self._total = ckks.added(self._total, vector.content, self.plan.size)
        except SecureSumError as fault:
            raise SecureSumError(f"The vector of agent {sender} is left out. {fault}") from None
        self._included.add(sender)

    def sum(self) -> EncryptedSum:
        """Return the sum of the vectors that arrived, for an agent to open.

        Raises:
            TooFewAgentsError: They are fewer than the minimum.
        """
        _check_enough(self.plan, len(self._included))
        return EncryptedSum(tuple(sorted(self._included)), ckks.serialised(self._total))


def decrypt(plan: EncryptedSumPlan, key: EncryptionKey, total: EncryptedSum) -> np.ndarray:
    """Return the sum of the vectors, uint32 `[size]`: integers modulo 2^32, without the noise of encryption.

    Args:
        plan: The plan of the sum.
        key: The key of the agents.
        total: What the coordinator sent.

    Raises:
        TooFewAgentsError: It says itself that it is a sum of fewer vectors than the minimum.
        SecureSumError: It is no sum of such vectors, or one of them was encrypted under another key.
    """
    members = len(set(total.included) & set(plan.members))
    if members < len(total.included):
        raise SecureSumError("An encrypted sum has agents in it that were not invited, or one of them twice.")
    _check_enough(plan, members)
    numbers = ckks.decrypted(key, total.content, plan.size)
    integers = np.rint(numbers)
    off, reach = np.abs(numbers - integers).max(), np.abs(integers).max()
    if not (off <= ROUNDED_OFF and reach <= members * plan.largest):  # NaN compares false
        raise SecureSumError(
            f"What was decrypted is no sum of {members} vectors: one of them was encrypted under another key, or has "
            "larger entries. All agents have to have the same key."
        )
    return integers.astype(np.int64).astype(np.uint32)


def _check_enough(plan: EncryptedSumPlan, agents: int) -> None:
    """Refuse a sum of fewer agents than the minimum."""
    if agents < plan.minimum:
        raise TooFewAgentsError(
            f"Encrypted vectors of {agents} agents are there, and the plan asks for {plan.minimum} or more."
        )
