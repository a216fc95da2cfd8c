"""The protocols by which agents at other sites add, behind one seam: what a plan is, and what each end does.

    name --PROTOCOLS--> NetworkProtocol     plan: context, members, ... -> plan
                                            fresh: agent -> keys, drawn when a job is done
                                            agent: identity, plan, key, fresh -> AgentEnd  messages in, messages out
                                            coordinator: plan -> CoordinatorEnd            likewise
                                            kinds, largest_reply, largest_request

A further protocol is its plan, both ends, and an entry here: what is compared, sent again, noted on disk and dropped
does not depend on it (`fedrl.sites.summing`, `fedrl.network.summing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fedrl.core.errors import SecureSumError
from fedrl.secure import encrypted_ends, messages, relayed
from fedrl.secure.additive import AdditivePlan
from fedrl.secure.agent import SumAgent
from fedrl.secure.ckks import SUM_BYTES, VECTOR_BYTES, EncryptionKey, ciphertexts_of
from fedrl.secure.coordinator import SumCoordinator
from fedrl.secure.encrypted import EncryptedSumPlan
from fedrl.secure.fresh_keys import FreshKeys
from fedrl.secure.graph import default_degree
from fedrl.secure.identity import Identity
from fedrl.secure.messages import BOX, COUNT, HASH, HEAD, KEY_PARTS, PART_BOX, AnyPlan
from fedrl.secure.plan import SumPlan, sum_plan
from fedrl.secure.ring import WORD

NetworkPlan: TypeAlias = SumPlan | AdditivePlan | EncryptedSumPlan


@runtime_checkable
class AgentEnd(Protocol):
    """An agent in one sum."""

    plan: Any
    faults: list[str]
    """What was wrong in messages and did not end its part, a sentence each."""

    @property
    def included(self) -> tuple[int, ...]:
        """The agents whose vectors are in the sum, as it was shown them; empty before that."""

    def begin(self, values: np.ndarray) -> Any:
        """Return its answer to an invitation."""

    def answer(self, shown: Any, values: np.ndarray) -> Any:
        """Return its answer to a later message of the coordinator."""


@runtime_checkable
class CoordinatorEnd(Protocol):
    """The coordinator of one sum.

    Attributes:
        repeatable: The phases after which a sum may begin again: nothing has left that depends on a vector.
    """

    repeatable: tuple[str, ...]
    phase: str
    included: tuple[int, ...]
    faults: list[str]

    @property
    def complete(self) -> bool:
        """Whether the sum is what comes next, and no further phase."""

    def receive(self, sender: int, message: Any) -> None:
        """Take a message of an agent."""

    def close(self) -> dict[int, Any]:
        """End a phase, and return what agents have to be sent."""

    def total(self, threads: int = 1) -> np.ndarray:
        """Return the sum."""


@dataclass(frozen=True)
class NetworkProtocol:
    """A protocol that goes over a network.

    Attributes:
        plan: `(context, members, size, minimum, verified) -> plan`.
        agent: `(identity, plan, key, fresh) -> AgentEnd`; the key is that of encrypted sums, None for other protocols;
            `fresh` are the keys that the agent has advertised, None for none.
        coordinator: `plan -> CoordinatorEnd`.
        kinds: The kinds of its messages.
        vectors: Those with which something leaves that depends on a vector: one of a version, noted on disk before.
        near: `agents -> ` the largest number of others whose keys an agent needs.
        largest: `(entries, agents) -> ` the largest message of an agent and to an agent, in bytes.
        has_key: Whether agents share a key that the coordinator lacks.
        advertises: Whether agents draw keys before they are invited, so that the first phase is over with the message
            that a job is done: `FreshKeys`.
    """

    plan: Callable[[bytes, tuple[int, ...], int, int, bool], NetworkPlan]
    agent: Callable[[Identity, Any, EncryptionKey | None, FreshKeys | None], AgentEnd]
    coordinator: Callable[[Any], CoordinatorEnd]
    kinds: tuple[type[Any], ...]
    vectors: type[Any]
    near: Callable[[int], int]
    largest: Callable[[int, int], tuple[int, int]]
    has_key: bool = False
    advertises: bool = False

    def encoded(self, message: Any, plan: AnyPlan) -> bytes:
        """Return a message as bytes."""
        return messages.encoded(message, plan, self.kinds)

    def decoded(self, data: bytes, plan: AnyPlan) -> Any:
        """Return the message of these bytes.

        Raises:
            WireError: They are no message, or one of another sum.
        """
        return messages.decoded(data, plan, self.kinds)


class StepsByMessage:
    """An agent's end whose step follows from the kind of message that it is shown.

    Args:
        machine: The machine, with its plan and faults.
        begin: `values -> message`.
        steps: `(shown, values) -> message`, by the kind of message.
    """

    def __init__(
        self,
        machine: Any,
        begin: Callable[[np.ndarray], Any],
        steps: dict[type[Any], Callable[[Any, np.ndarray], Any]],
    ) -> None:
        self.plan, self.faults, self.begin, self._steps = machine.plan, machine.faults, begin, steps
        self._machine = machine

    @property
    def included(self) -> tuple[int, ...]:
        """The agents whose vectors are in the sum, as the machine was shown them; empty before that."""
        found: tuple[int, ...] = self._machine.included
        return found

    def answer(self, shown: Any, values: np.ndarray) -> Any:
        """Return the answer to a message of the coordinator.

        Raises:
            SecureSumError: It is one that only agents send, or the machine refuses it.
        """
        if type(shown) not in self._steps:
            raise SecureSumError(f"The coordinator sent a {type(shown).__name__}, which only agents send.")
        return self._steps[type(shown)](shown, values)


def _masking(identity: Identity, plan: SumPlan, key: EncryptionKey | None, fresh: FreshKeys | None) -> AgentEnd:
    del key
    machine = SumAgent(identity, plan, keys=fresh)
    survivors = machine.agree if plan.verified else machine.open
    steps: dict[type[Any], Callable[[Any, np.ndarray], Any]] = {
        messages.AdvertList: lambda shown, values: machine.share(shown),
        messages.Delivery: machine.mask,
        messages.SurvivorList: lambda shown, values: survivors(shown),
        messages.TagList: lambda shown, values: machine.open(shown),
    }
    return StepsByMessage(machine, lambda values: machine.advert(), steps)


def _splitting(identity: Identity, plan: AdditivePlan, key: EncryptionKey | None, fresh: FreshKeys | None) -> AgentEnd:
    del key, fresh
    machine = relayed.RelayedPeer(identity, plan)
    steps: dict[type[Any], Callable[[Any, np.ndarray], Any]] = {
        relayed.PartDelivery: lambda shown, values: machine.receive(shown),
        relayed.IncludedAgents: lambda shown, values: machine.add(shown),
    }
    return StepsByMessage(machine, machine.split, steps)


def _encrypting(
    identity: Identity, plan: EncryptedSumPlan, key: EncryptionKey | None, fresh: FreshKeys | None
) -> AgentEnd:
    del fresh
    assert key is not None  # an agent without it is not built
    machine = encrypted_ends.EncryptingAgent(identity, plan, key)
    steps: dict[type[Any], Callable[[Any, np.ndarray], Any]] = {
        encrypted_ends.EncryptedTotal: lambda shown, values: machine.open(shown)
    }
    return StepsByMessage(machine, machine.encrypt, steps)


def _others(agents: int) -> int:
    return max(agents - 1, 1)


def _near(agents: int) -> int:
    return default_degree(max(agents, 2))


def _largest_of_masks(entries: int, agents: int) -> tuple[int, int]:
    near, members = _near(agents), -(-agents // 8)
    shares = HEAD.size + 3 * COUNT.size + near * (COUNT.size + BOX) + (near + 1) * (COUNT.size + 2 * HASH)
    adverts = HEAD.size + 2 * COUNT.size + members + near * (COUNT.size + sum(KEY_PARTS))
    return max(HEAD.size + COUNT.size + entries * WORD.itemsize, shares), adverts


def _largest_of_parts(entries: int, agents: int) -> tuple[int, int]:
    parts = HEAD.size + 2 * COUNT.size + _others(agents) * (COUNT.size + PART_BOX)
    return max(HEAD.size + COUNT.size + entries * WORD.itemsize, parts), parts + -(-agents // 8)


def _largest_of_ciphertexts(entries: int, agents: int) -> tuple[int, int]:
    head, count = HEAD.size + COUNT.size + -(-agents // 8), ciphertexts_of(entries)
    return head + count * VECTOR_BYTES, head + count * SUM_BYTES


PROTOCOLS = {
    "masks": NetworkProtocol(
        lambda context, members, size, minimum, verified: sum_plan(
            context, members, size, minimum=minimum, verified=verified
        ),
        _masking,
        SumCoordinator,
        messages.KINDS,
        messages.MaskedValues,
        _near,
        _largest_of_masks,
        advertises=True,
    ),
    "additive": NetworkProtocol(
        lambda context, members, size, minimum, verified: AdditivePlan(context, members, size, minimum),
        _splitting,
        relayed.PartsRelay,
        relayed.KINDS,
        relayed.PartialValues,
        _others,
        _largest_of_parts,
    ),
    "ckks": NetworkProtocol(
        lambda context, members, size, minimum, verified: EncryptedSumPlan(members, size, minimum, context),
        _encrypting,
        encrypted_ends.EncryptedSumCoordinator,
        encrypted_ends.KINDS,
        encrypted_ends.EncryptedValues,
        _others,
        _largest_of_ciphertexts,
        has_key=True,
    ),
}
"""The protocols that go over a network, by the names of `fedrl.secure.grid.ring_sum`."""
