"""Both ends of an encrypted sum, as machines that take messages and return messages.

    agent                                    coordinator
    EncryptedValues  ---------------------->             ciphertexts of its vector; added as they arrive
                     <----------------------  EncryptedTotal   of the sum, to one agent after another until one answers
    OpenedTotal      ---------------------->             the sum

The coordinator has no key, and keeps to the protocol in this model (`fedrl.secure.encrypted`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure.ckks import EncryptionKey
from fedrl.secure.encrypted import CiphertextAdder, EncryptedSum, EncryptedSumPlan, EncryptedVector, decrypt, encrypt
from fedrl.secure.identity import Identity
from fedrl.secure.ring import as_ring
from fedrl.secure.steps import ENDED, Steps, check_turn

PHASES = ("vectors", "opening")
"""The phases in which agents send."""


class EncryptedValues(NamedTuple):
    """The encrypted vector of an agent.

    Attributes:
        agent: Its number.
        vector_ciphertexts: The ciphertexts.
    """

    agent: int
    vector_ciphertexts: bytes


class EncryptedTotal(NamedTuple):
    """The encrypted sum, for an agent to open.

    Attributes:
        present: The agents whose vectors are in it.
        sum_ciphertexts: The ciphertexts.
    """

    present: tuple[int, ...]
    sum_ciphertexts: bytes


class OpenedTotal(NamedTuple):
    """The sum.

    Attributes:
        agent: Number of the agent that opened it.
        values: uint32 `[size]`.
    """

    agent: int
    values: np.ndarray


KINDS: tuple[type[Any], ...] = (EncryptedValues, EncryptedTotal, OpenedTotal)


class EncryptingAgent:
    """An agent in one encrypted sum.

    Args:
        identity: Who it is.
        plan: The plan of the sum.
        key: The key that all agents share.

    Attributes:
        faults: Nothing: what is wrong ends the agent's part.
        included: Nobody: only the agent that opens the sum is shown who is in it, and the coordinator is believed.

    Raises:
        SecureSumError: The plan doesn't invite the agent, or it has taken part in a sum with this context.
    """

    def __init__(self, identity: Identity, plan: EncryptedSumPlan, key: EncryptionKey) -> None:
        self.agent = identity.agent
        if self.agent not in plan.members:
            raise SecureSumError(f"Agent {self.agent} was asked for a sum to which its plan does not invite it.")
        identity.enter(plan.context)
        self.plan, self._key, self.faults = plan, key, list[str]()
        self.included: tuple[int, ...] = ()
        self._step = Steps(self.agent, "encrypt", lambda: None).take

    def encrypt(self, values: np.ndarray) -> EncryptedValues:
        """Return the agent's vector, encrypted.

        Args:
            values: int32 or uint32 `[size]`.

        Raises:
            ValueError: It is no vector of 32-bit integers of this size.
            SecureSumError: An entry is so large that the sum might not fit.
        """
        with self._step("encrypt", "open"):
            return EncryptedValues(self.agent, encrypt(self.plan, self._key, self.agent, values).content)

    def open(self, total: EncryptedTotal) -> OpenedTotal:
        """Return the sum, once.

        Raises:
            TooFewAgentsError: It says itself that it is a sum of fewer vectors than the minimum.
            SecureSumError: This agent is not in it, it is no sum, or a vector was encrypted under another key.
        """
        with self._step("open", ENDED):
            if self.agent not in total.present:
                raise SecureSumError(f"Agent {self.agent} was asked to open a sum in which its vector is not.")
            found = decrypt(self.plan, self._key, EncryptedSum(total.present, total.sum_ciphertexts))
            return OpenedTotal(self.agent, found)


class EncryptedSumCoordinator:
    """The coordinator of one encrypted sum.

    Args:
        plan: The plan of the sum.

    Attributes:
        phase: The phase: one of `PHASES`, or "ended".
        included: The agents whose vectors are in the sum; known once the phase "vectors" is closed.
        faults: Nothing: a vector that is none is refused when it comes.
    """

    repeatable: tuple[str, ...] = ()
    """The phases after which a sum may begin again: none, as vectors leave in the first one."""

    def __init__(self, plan: EncryptedSumPlan) -> None:
        self.plan, self.phase = plan, PHASES[0]
        self.included: tuple[int, ...] = ()
        self.faults: list[str] = []
        self._adder, self._total = CiphertextAdder(plan), EncryptedSum((), b"")
        self._asked: list[int] = []
        self._opened: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether the sum is what comes next, and no further phase."""
        return self._opened is not None

    def receive(self, sender: int, message: Any) -> None:
        """Take a message.

        Args:
            sender: The agent from which it came, as the connection knows it.
            message: The message.

        Raises:
            SecureSumError: It is not what this agent has to send now; nothing was changed.
        """
        kinds: dict[str, Any] = {"vectors": EncryptedValues, "opening": OpenedTotal}
        # Who has sent a vector is known to the adder, and who may open the sum is checked below.
        check_turn(sender, message, kinds.get(self.phase), self.phase, self.plan.members, ())
        if isinstance(message, EncryptedValues):
            self._adder.receive(sender, EncryptedVector(sender, message.vector_ciphertexts))
            return
        if sender != self._asked[-1] or self._opened is not None or as_ring(message.values).size != self.plan.size:
            raise SecureSumError(f"Agent {sender} sent a sum that it was not asked for, a second one, or a wrong size.")
        self._opened = message.values

    def close(self) -> dict[int, Any]:
        """End the phase of vectors, or give up the agent that was asked to open the sum; return who is asked next.

        Raises:
            TooFewAgentsError: Fewer vectors than the minimum arrived, or nobody is left to open the sum.
            SecureSumError: The sum is there, or has ended.
        """
        if self.phase == "ended" or self.complete:
            raise SecureSumError(f"The phase {self.phase!r} of a secure sum can't be closed: it has its sum.")
        if self.phase == "vectors":
            self.phase = "ended"
            self._total = self._adder.sum()  # raises if there are too few, and then the sum has ended
            self.phase, self.included = "opening", self._total.included
        left = [agent for agent in self.included if agent not in self._asked]
        if not left:
            self.phase = "ended"
            raise TooFewAgentsError("No agent has opened the encrypted sum: all have left, or could not.")
        self._asked.append(left[0])
        return {left[0]: EncryptedTotal(self._total.included, self._total.content)}

    def total(self, threads: int = 1) -> np.ndarray:
        """Return the sum of the vectors, uint32 `[size]`; `included` names the agents.

        Raises:
            SecureSumError: Nobody has opened it yet.
        """
        del threads  # there is nothing left to compute
        if self._opened is None:
            raise SecureSumError(f"The sum was asked for in the phase {self.phase!r}, and nobody has opened it yet.")
        self.phase = "ended"
        return self._opened.astype(np.uint32)
