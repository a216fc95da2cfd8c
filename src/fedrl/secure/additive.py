"""Additive secret sharing: a vector in uniformly random parts that add up to it, one for each party that adds.

    agent:   parts 1..n-1 uniformly random, part n = vector - their sum  modulo 2^32    one part to each party
    party:   adds the parts that it received; its sum says nothing without the other n - 1
    anyone:  sum of the n sums = sum of the vectors

Parties are two or more aggregators, of which one must not collude with the others, or the agents themselves. A random
part travels as the 32 bytes from which both ends compute it; so among agents, each of which keeps its last part, a
vector leaves an agent once. There are no shares of secrets, and so no threshold:

| who leaves | among aggregators | among agents |
|---|---|---|
| an agent before all of its parts have arrived | it is left out | it is left out |
| an agent after that | its vector is in the sum | it has to stay once the set is fixed; else the sum is given up |
| an aggregator | the sum is given up | |

Connections have to be encrypted and authenticated, with nobody between the ends: who sees all parts sees the vector.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fedrl.core.errors import ConfigError, SecureSumError, TooFewAgentsError
from fedrl.secure.extra import check_cryptography
from fedrl.secure.masks import KEY_BYTES, Mask, apply_masks, derived_key
from fedrl.secure.ring import WORD, add, as_ring


@dataclass(frozen=True)
class AdditivePlan:
    """What all parties of a sum by additive shares know before it begins.

    Attributes:
        context: What makes this sum unlike every other one: `fedrl.secure.plan.context_of`.
        members: Numbers of the invited agents, ascending.
        size: Number of entries of a vector.
        minimum: The least number of vectors in a sum.
        aggregators: Number of aggregators that add, numbered from 0; 0: the agents themselves do.
    """

    context: bytes
    members: tuple[int, ...]
    size: int
    minimum: int
    aggregators: int = 0

    def __post_init__(self) -> None:
        check_cryptography()
        if tuple(sorted({*self.members})) != self.members:
            raise ConfigError("The members of a sum are not in ascending order, or one is there twice.")
        if self.aggregators == 1 or self.aggregators < 0 or not 2 <= self.minimum <= len(self.members) or self.size < 1:
            raise ConfigError(
                f"aggregators is {self.aggregators} and minimum is {self.minimum} of {len(self.members)} agents. One "
                "aggregator reads every vector, and a sum of fewer than two hides nothing. Use two or more, or 0 for "
                "the agents themselves, and a minimum of two or more."
            )

    @cached_property
    def digest(self) -> bytes:
        """The hash of the plan."""
        numbers = struct.pack(
            f"<{4 + len(self.members)}I",
            *(self.size, self.minimum, self.aggregators, len(self.members)),
            *self.members,
        )
        return hashlib.sha256(
            b"fedrl additive sum 1" + struct.pack("<I", len(self.context)) + self.context + numbers
        ).digest()

    @property
    def degree(self) -> int:
        """Number of the other agents: each sends every other one a part."""
        return len(self.members) - 1

    @property
    def threshold(self) -> int:
        """Number of sums that are needed: those of all, as there are no shares of secrets."""
        return len(self.members)

    @cached_property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """The other agents of each agent, ascending."""
        return {agent: tuple(other for other in self.members if other != agent) for agent in self.members}

    def key(self, seed: bytes, agent: int, party: int, included: Sequence[int] = ()) -> bytes:
        """Return the key of a random part.

        Args:
            seed: The 32 bytes that both ends have.
            agent: Whose vector it is a part of.
            party: For whom it is.
            included: Among agents, those in the sum. Two that were told of different ones compute different parts,
                which don't cancel: who tells them so gets uniformly random numbers.
        """
        numbers = struct.pack(f"<{2 + len(included)}I", agent, party, *included)
        return derived_key(seed, b"part" + self.digest + numbers)


class VectorPart(NamedTuple):
    """One part of an agent's vector.

    Attributes:
        agent: Number of the agent.
        content: 32 bytes from which a random part is computed, or a part itself, 4 bytes an entry.
    """

    agent: int
    content: bytes


class PartialSum(NamedTuple):
    """What a party publishes.

    Attributes:
        party: Number of the aggregator, or of the agent that adds.
        included: The agents whose parts are in it, ascending.
        values: uint32 `[size]`: uniformly random to whoever lacks one of the other sums.
    """

    party: int
    included: tuple[int, ...]
    values: np.ndarray


class OwnVector:
    """The vector of an agent, and the random parts of it that are given away.

    Args:
        plan: The plan of the sum.
        agent: Number of the agent.
    """

    def __init__(self, plan: AdditivePlan, agent: int) -> None:
        self.plan, self.agent = plan, agent
        self._values: np.ndarray | None = None
        self._seeds: dict[int, bytes] = {}

    @property
    def there(self) -> bool:
        """Whether the vector has been split."""
        return self._values is not None

    def split(self, values: np.ndarray, parties: Iterable[int]) -> dict[int, VectorPart]:
        """Take the vector, once, and return a random part of 32 bytes for each of these parties.

        Args:
            values: int32 or uint32 `[size]`.
            parties: Numbers of the parties.

        Raises:
            ValueError: The vector has another type or length than the plan.
            SecureSumError: There is a vector already.
        """
        values = as_ring(values)
        if values.size != self.plan.size:
            raise ValueError(f"A vector has {values.size} entries, and the sum was planned for {self.plan.size}.")
        if self.there:
            raise SecureSumError(f"Agent {self.agent} was asked to split a second vector in one sum.")
        self._values = values.copy()
        self._seeds = {party: os.urandom(KEY_BYTES) for party in parties}
        return {party: VectorPart(self.agent, seed) for party, seed in self._seeds.items()}

    def rest(self, parties: Iterable[int]) -> np.ndarray:
        """Return what is left of the vector without the random parts of these parties: its last part.

        Raises:
            SecureSumError: There is no vector yet.
        """
        if self._values is None:
            raise SecureSumError(f"Agent {self.agent} was asked to add before it had split its own vector.")
        rest, there = self._values.copy(), tuple(parties)
        bound = () if self.plan.aggregators else there
        given = [party for party in there if party in self._seeds]
        apply_masks(rest, [Mask(self.plan.key(self._seeds[party], self.agent, party, bound), False) for party in given])
        return rest


class Splitter:
    """An agent that splits its vector among aggregators.

    Args:
        plan: The plan of the sum.
        agent: Its number.
    """

    def __init__(self, plan: AdditivePlan, agent: int) -> None:
        self.plan, self.agent = plan, agent
        self._own = OwnVector(plan, agent)

    def split(self, values: np.ndarray) -> dict[int, VectorPart]:
        """Return a part for each aggregator: a vector for one, in turns over agents, and 32 bytes for each other one.

        Args:
            values: int32 or uint32 `[size]`.

        Raises:
            ValueError: The vector has another type or length than the plan.
            SecureSumError: It has split a vector before.
        """
        parties = range(self.plan.aggregators)
        home = self.plan.members.index(self.agent) % self.plan.aggregators
        parts = self._own.split(values, [party for party in parties if party != home])
        parts[home] = VectorPart(self.agent, self._own.rest(parties).astype(WORD).tobytes())
        return {party: parts[party] for party in parties}


class PartAdder:
    """An aggregator, or the half of an agent that adds.

    Args:
        plan: The plan of the sum.
        party: Its number.
    """

    def __init__(self, plan: AdditivePlan, party: int) -> None:
        self.plan, self.party = plan, party
        self._contents: dict[int, bytes] = {}
        self._done = False

    def receive(self, sender: int, part: VectorPart) -> None:
        """Take a part.

        Args:
            sender: The agent from which it came, as the connection knows it.
            part: The part.

        Raises:
            SecureSumError: It is another agent's, the second one, or has a wrong length.
        """
        if part.agent != sender or sender not in self.plan.members or sender in self._contents:
            raise SecureSumError(f"Agent {sender} sent a part that is another agent's, or a second one.")
        expected = self.plan.size * WORD.itemsize if self._is_vector(sender) else KEY_BYTES
        if len(part.content) != expected:
            raise SecureSumError(
                f"Agent {sender} sent a part of {len(part.content)} bytes, and it has to be {expected}."
            )
        self._contents[sender] = part.content

    def present(self) -> tuple[int, ...]:
        """Return the agents whose parts are here; those that all parties have are in the sum."""
        return tuple(sorted(self._contents))

    def add(self, included: Sequence[int], own: np.ndarray | None = None) -> PartialSum:
        """Return the sum of the parts of these agents, once.

        Args:
            included: The agents whose parts all parties have, ascending.
            own: The last part of the party's own vector, uint32 `[size]`, if it is one of these agents.

        Raises:
            SecureSumError: Parts are missing, or it has added before.
            TooFewAgentsError: They are fewer than the minimum.
        """
        self._check_once(included, {*self._contents, *(() if own is None else (self.party,))})
        total = np.zeros(self.plan.size, np.uint32) if own is None else own.copy()
        masks, bound = [], () if self.plan.aggregators else tuple(included)
        for agent in included:
            if own is not None and agent == self.party:
                continue
            if self._is_vector(agent):
                add(total, np.frombuffer(self._contents[agent], WORD))
            else:
                masks.append(Mask(self.plan.key(self._contents[agent], agent, self.party, bound), True))
        apply_masks(total, masks)
        return PartialSum(self.party, tuple(included), total)

    def _check_once(self, included: Sequence[int], there: Collection[int]) -> None:
        if self._done:
            raise SecureSumError(
                f"Party {self.party} was asked for a second sum: two of them differ by single vectors."
            )
        if tuple(sorted(set(included))) != tuple(included) or not set(included) <= set(there):
            raise SecureSumError(f"Party {self.party} was asked to add parts of agents whose parts it does not have.")
        if len(included) < self.plan.minimum:
            raise TooFewAgentsError(
                f"A sum of {len(included)} agents was asked for, and the plan asks for {self.plan.minimum} or more."
            )
        self._done = True

    def _is_vector(self, agent: int) -> bool:
        """Whether an agent's part for this party is a vector: agents take aggregators in turns."""
        turns = self.plan.aggregators
        return turns > 0 and self.plan.members.index(agent) % turns == self.party


class SplittingPeer:
    """An agent that splits its vector among all agents, and adds what they send.

    It keeps the last part of its own vector until it is known which agents are in the sum.

    Args:
        plan: The plan of the sum.
        agent: Its number.
    """

    def __init__(self, plan: AdditivePlan, agent: int) -> None:
        self.plan, self.agent = plan, agent
        self._adder, self._own = PartAdder(plan, agent), OwnVector(plan, agent)

    def split(self, values: np.ndarray) -> dict[int, VectorPart]:
        """Return a part of 32 bytes for each other agent.

        Args:
            values: int32 or uint32 `[size]`.

        Raises:
            ValueError: The vector has another type or length than the plan.
            SecureSumError: It has split a vector before.
        """
        return self._own.split(values, [other for other in self.plan.members if other != self.agent])

    def receive(self, sender: int, part: VectorPart) -> None:
        """Take a part, as `PartAdder.receive`."""
        self._adder.receive(sender, part)

    def present(self) -> tuple[int, ...]:
        """Return the agents whose parts are here, with this one if it has split a vector."""
        own = (self.agent,) if self._own.there else ()
        return tuple(sorted((*self._adder.present(), *own)))

    def add(self, included: Sequence[int]) -> PartialSum:
        """Return the sum of the parts of these agents and of the last part of the own vector, once.

        Args:
            included: The agents whose parts all of them have, ascending; from here on all of them have to stay.

        Raises:
            SecureSumError: Parts or the own vector are missing, or it has added before.
            TooFewAgentsError: They are fewer than the minimum.
        """
        return self._adder.add(included, self._own.rest(included))


def combined(plan: AdditivePlan, sums: Sequence[PartialSum]) -> np.ndarray:
    """Return the sum of the vectors, from the sums of all parties.

    Raises:
        TooFewAgentsError: A party's sum is missing.
        SecureSumError: They are sums over different agents.
    """
    if any(each.included != sums[0].included for each in sums):
        raise SecureSumError("Parties added parts of different agents: their sums don't give a sum of vectors.")
    expected = tuple(range(plan.aggregators)) or (sums[0].included if sums else plan.members)
    if tuple(sorted(each.party for each in sums)) != expected:
        raise TooFewAgentsError(
            f"Sums of {len(sums)} parties came, and all {len(expected)} are needed: additive shares have no threshold."
        )
    total = np.zeros(plan.size, np.uint32)
    for each in sums:
        add(total, as_ring(each.values))
    return total
