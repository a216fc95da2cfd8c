"""Additive shares among agents that know each other through a coordinator alone, which can read none of them.

    agent                                    coordinator
    SealedParts    ---------------------->              of its vector, an encrypted part for each other agent
                   <----------------------  PartDelivery    the parts for it; who sent some
    ReceivedParts  ---------------------->              from whom it has a part that opens
                   <----------------------  IncludedAgents  those between which no part is missing
    PartialValues  ---------------------->              own vector - parts given away + parts received
                                                        adds: the sum

A part travels as 32 bytes in a box between two agents, under a key on which both agree by their certified keys
(`fedrl.secure.identity`); the digest of the plan is in the key and in the box, so a part of another sum does not open.
The coordinator can't open, change or exchange boxes: what does not open is missing, and agents between which parts are
missing are not in one sum (`agreeing`).

From `IncludedAgents` on all agents have to stay. Nobody has to compare who is in the sum: parts are expanded for the
agents that are in it (`AdditivePlan.key`), so those of agents that were told of different ones don't cancel, and the
coordinator has uniformly random numbers. What it can do is to tell disjoint groups of at least `minimum` agents that
the others have left, and open a sum of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure.additive import AdditivePlan, PartialSum, SplittingPeer, VectorPart, combined
from fedrl.secure.channel import Channel
from fedrl.secure.identity import Identity
from fedrl.secure.masks import KEY_BYTES
from fedrl.secure.messages import PART_BOX
from fedrl.secure.ring import as_ring
from fedrl.secure.steps import ENDED, Steps, check_turn

PHASES = ("parts", "received", "sums")
"""The phases in which agents send."""


class SealedParts(NamedTuple):
    """The parts of an agent's vector.

    Attributes:
        agent: Its number.
        parts: For each other agent, a box with its part.
    """

    agent: int
    parts: tuple[tuple[int, bytes], ...]


class PartDelivery(NamedTuple):
    """The parts for an agent.

    Attributes:
        present: All agents that sent parts.
        parts: The box from each other one of them.
    """

    present: tuple[int, ...]
    parts: tuple[tuple[int, bytes], ...]


class ReceivedParts(NamedTuple):
    """Whose parts an agent has.

    Attributes:
        agent: Its number.
        present: The agents whose boxes opened, and itself.
    """

    agent: int
    present: tuple[int, ...]


class IncludedAgents(NamedTuple):
    """The agents that are in the sum.

    Attributes:
        present: Their numbers.
    """

    present: tuple[int, ...]


class PartialValues(NamedTuple):
    """What an agent adds to the sum.

    Attributes:
        agent: Its number.
        values: uint32 `[size]`.
    """

    agent: int
    values: np.ndarray


KINDS: tuple[type[Any], ...] = (SealedParts, PartDelivery, ReceivedParts, IncludedAgents, PartialValues)


class RelayedPeer:
    """An agent in one sum by additive shares, whose messages go through a coordinator.

    Args:
        identity: Its key, and the keys of all agents.
        plan: The plan of the sum, without aggregators.

    Attributes:
        faults: Boxes that did not open and were left out, a sentence for all of them.
        included: The agents in the sum, as it was shown them; empty before that.

    Raises:
        SecureSumError: The plan doesn't invite the agent, or it has taken part in a sum with this context.
    """

    def __init__(self, identity: Identity, plan: AdditivePlan) -> None:
        self.agent = identity.agent
        if self.agent not in plan.neighbours:
            raise SecureSumError(f"Agent {self.agent} was asked for a sum to which its plan does not invite it.")
        identity.enter(plan.context)
        self.plan, self._identity, self.faults = plan, identity, list[str]()
        self.included: tuple[int, ...] = ()
        self._peer, self._channels = SplittingPeer(plan, self.agent), dict[int, Channel]()
        self._step = Steps(self.agent, "split", self._forget).take

    def _forget(self) -> None:
        self._peer, self._channels = SplittingPeer(self.plan, self.agent), {}

    def split(self, values: np.ndarray) -> SealedParts:
        """Return a box for each other agent with a random part of this agent's vector.

        Args:
            values: int32 or uint32 `[size]`.

        Raises:
            ValueError: The vector has another type or length than the plan.
            SecureSumError: The key of an agent is none.
        """
        with self._step("split", "receive"):
            parts = self._peer.split(values)
            purpose = b"part of a vector" + self.plan.digest
            self._channels = {other: self._identity.channel(other, purpose) for other in parts}
            sealed = {
                other: self._channels[other].seal(part.content, self.plan.digest) for other, part in parts.items()
            }
            return SealedParts(self.agent, tuple(sorted(sealed.items())))

    def receive(self, delivery: PartDelivery) -> ReceivedParts:
        """Return of whom this agent has a part: a box that does not open counts as none.

        Raises:
            SecureSumError: Boxes are missing, or the set of agents is not possible.
            TooFewAgentsError: Fewer agents than the minimum sent parts.
        """
        with self._step("receive", "add"):
            self._check_present(delivery.present, self.plan.members)
            expected = tuple(other for other in delivery.present if other != self.agent)
            if tuple(sender for sender, _ in delivery.parts) != expected:
                raise SecureSumError(
                    f"Agent {self.agent} was sent parts of {len(delivery.parts)} agents, and {len(expected)} others "
                    "sent some: the coordinator keeps parts back, or sends them twice."
                )
            wrong = []
            for sender, box in delivery.parts:
                plain = self._channels[sender].open(box, self.plan.digest)
                if plain is None or len(plain) != KEY_BYTES:
                    wrong.append(sender)
                else:
                    self._peer.receive(sender, VectorPart(sender, plain))
            self._channels = {}
            if wrong:
                self.faults.append(
                    f"The parts from agents {wrong} to agent {self.agent} do not open: they were replaced on the way, "
                    "or made up. They were left out."
                )
            return ReceivedParts(self.agent, self._peer.present())

    def add(self, included: IncludedAgents) -> PartialValues:
        """Return what this agent adds to the sum of these agents; from here on all of them have to stay.

        Raises:
            SecureSumError: The set of agents is not possible, or a part is missing.
            TooFewAgentsError: They are fewer than the minimum.
        """
        with self._step("add", ENDED):
            self._check_present(included.present, self._peer.present())
            found = self._peer.add(included.present)
            self._forget()
            self.included = included.present
            return PartialValues(self.agent, found.values)

    def _check_present(self, present: tuple[int, ...], possible: tuple[int, ...]) -> None:
        if not set(present) <= set(possible) or self.agent not in present:
            raise SecureSumError(
                f"Agent {self.agent} was shown a set of agents in which it is missing itself, or in which agents are "
                "whose parts it does not have: the coordinator shows an impossible set."
            )
        if len(present) < self.plan.minimum:
            raise TooFewAgentsError(
                f"{len(present)} agents are left, and the plan asks for {self.plan.minimum} in a sum: it stays hidden."
            )


def agreeing(received: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Return agents each of which has the parts of all others: without those between which most parts are missing.

    Of two agents, one of which says that the part of the other one does not open, either may be wrong. One that makes
    up its boxes, or its complaints, has many such pairs, and goes first; of a single pair the sender does.

    Args:
        received: For each agent, those whose parts it has.

    >>> agreeing({0: (0, 1, 2), 1: (0, 1), 2: (0, 1, 2)}), agreeing({0: (0, 1, 2), 1: (1,), 2: (0, 1, 2)})
    ((0, 1), (0, 2))
    """
    left = set(received)
    while left:
        broken = [(sender, holder) for holder in left for sender in left if sender not in received[holder]]
        if not broken:
            break
        counts = dict.fromkeys(left, 0.0)
        for sender, holder in broken:
            counts[sender] += 1.5
            counts[holder] += 1.0
        left.discard(max(left, key=lambda agent: (counts[agent], agent)))
    return tuple(sorted(left))


class PartsRelay:
    """The coordinator of one sum by additive shares among agents: it passes boxes on, and adds what agents add.

    Args:
        plan: The plan of the sum, without aggregators.

    Attributes:
        phase: The phase: one of `PHASES`, or "ended".
        included: The agents whose vectors are in the sum; known once the phase "received" is closed.
        faults: Parts that were missing, a sentence each.
    """

    repeatable: tuple[str, ...] = PHASES[:2]
    """The phases after which a sum may begin again: nothing has left that depends on a vector."""

    def __init__(self, plan: AdditivePlan) -> None:
        self.plan, self.phase = plan, PHASES[0]
        self.included: tuple[int, ...] = ()
        self.faults: list[str] = []
        self._present = plan.members
        self._came: dict[int, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether the sum is what comes next, and no further phase."""
        return self.phase == "sums"

    def receive(self, sender: int, message: Any) -> None:
        """Take a message.

        Args:
            sender: The agent from which it came, as the connection knows it.
            message: The message.

        Raises:
            SecureSumError: It is not what this agent has to send now; nothing was changed.
        """
        kinds: dict[str, Any] = {"parts": SealedParts, "received": ReceivedParts, "sums": PartialValues}
        check_turn(sender, message, kinds.get(self.phase), self.phase, self._present, self._came)
        if isinstance(message, SealedParts):
            self._check_parts(message)
        elif isinstance(message, PartialValues):
            if as_ring(message.values).size != self.plan.size:
                raise SecureSumError(f"Agent {sender} sent a vector of another size than the sum has.")
        elif not {sender} <= {*message.present} <= {*self._present}:
            raise SecureSumError(f"Agent {sender} says that it has parts of agents that sent none, or not its own.")
        self._came[sender] = message

    def _check_parts(self, message: SealedParts) -> None:
        senders, sizes = [other for other, _ in message.parts], {len(box) for _, box in message.parts}
        if senders != [*self.plan.neighbours[message.agent]] or sizes != {PART_BOX}:
            raise SecureSumError(
                f"Agent {message.agent} sent {len(message.parts)} parts, which are not one of {PART_BOX} bytes for "
                "each other agent."
            )

    def close(self) -> dict[int, Any]:
        """End a phase, and return what each agent that is left has to be sent.

        Raises:
            TooFewAgentsError: Fewer agents than the minimum are left. The sum has ended.
            SecureSumError: This phase is ended by `total`, or the sum has ended.
        """
        closings: dict[str, Callable[[dict[int, Any]], dict[int, Any]]] = {
            "parts": self._close_parts,
            "received": self._close_received,
        }
        if self.phase not in closings:
            raise SecureSumError(f"The phase {self.phase!r} of a secure sum can't be closed: after it comes the sum.")
        came, self._came = self._came, {}
        return closings[self.phase](came)

    def _close_parts(self, came: dict[int, SealedParts]) -> dict[int, Any]:
        present = self._enough(tuple(sorted(came)))
        self.phase, boxes = "received", {sender: dict(sealed.parts) for sender, sealed in came.items()}
        return {
            agent: PartDelivery(present, tuple((other, boxes[other][agent]) for other in present if other != agent))
            for agent in present
        }

    def _close_received(self, came: dict[int, ReceivedParts]) -> dict[int, Any]:
        received = {agent: message.present for agent, message in came.items()}
        for agent, there in sorted(received.items()):
            missing = sorted(set(received) - set(there))
            if missing:
                self.faults.append(f"Agent {agent} says that the parts from agents {missing} do not open.")
        included = self._enough(agreeing(received))
        self.included, self.phase = included, "sums"
        return {agent: IncludedAgents(included) for agent in included}

    def _enough(self, present: tuple[int, ...]) -> tuple[int, ...]:
        if len(present) < self.plan.minimum:
            phase, self.phase = self.phase, "ended"
            raise TooFewAgentsError(
                f"{len(present)} agents are left after the phase {phase!r}, and {self.plan.minimum} are needed: the "
                "sum stays hidden. Wait longer, or invite more agents."
            )
        self._present = present
        return present

    def total(self, threads: int = 1) -> np.ndarray:
        """Return the sum of the vectors, uint32 `[size]`, modulo 2^32; `included` names the agents.

        Raises:
            TooFewAgentsError: An agent has left since it was known who is in the sum.
            SecureSumError: It is not the phase "sums".
        """
        del threads  # adding takes less time than to divide it
        if self.phase != "sums":
            raise SecureSumError(f"The sum was asked for in the phase {self.phase!r}, and is there after 'sums'.")
        self.phase = "ended"
        sums = [PartialSum(agent, self.included, each.values) for agent, each in sorted(self._came.items())]
        return combined(self.plan, sums)
