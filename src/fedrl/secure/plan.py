"""What all parties of one secure sum know before it begins. Its digest is in every advert, key and commitment."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

from fedrl.core.errors import ConfigError
from fedrl.secure.graph import circulant, default_degree, default_threshold, random_order

PROTOCOL = b"fedrl secure sum 3"
LARGEST_NUMBER = 2**31 - 1


def context_of(
    run: str,
    version: int,
    federation: bytes,
    broadcast: bytes = b"",
    attempt: int = 0,
    part: str = "",
    orders: bytes = b"",
) -> bytes:
    """Return what makes one sum unlike every other one, as bytes.

    Args:
        run: Identity of the run.
        version: Version of the parameters that the agents trained from.
        federation: Digest of the federation, so that both ends mean the same by an entry of the vector.
        broadcast: Digest of the parameters that an agent was sent. Agents that were sent different ones reject each
            other's keys; else a coordinator could send parameters from which all but one of them learn nothing.
        attempt: A number that no other sum of the version has.
        part: What is summed, if a version has several sums: the number of a group.
        orders: Digest of what each member was ordered to do: `fedrl.secure.orders.orders_digest`.

    >>> context_of("a", 1, b"") == context_of("a", 2, b"")
    False
    """
    parts = [PROTOCOL, run.encode(), federation, broadcast, part.encode(), orders, struct.pack("<QQ", version, attempt)]
    return b"".join(struct.pack("<I", len(each)) + each for each in parts)


@dataclass(frozen=True)
class SumPlan:
    """What all parties of one secure sum know before it begins: parties with different plans reject each other's keys.

    Attributes:
        context: What makes this sum unlike every other one: `context_of`.
        members: Numbers of the invited agents, ascending.
        size: Number of entries of a vector.
        degree: Number of neighbours of an agent in the graph.
        threshold: Number of shares that give a secret back.
        minimum: The least number of vectors in a sum that an agent helps to open.
        verified: Whether agents tell each other which set of survivors they were shown, in one more phase. It is
            needed where the coordinator may deviate from the protocol.
        seed: Public randomness for the order of agents in the graph; empty: the context is used.
    """

    context: bytes
    members: tuple[int, ...]
    size: int
    degree: int
    threshold: int
    minimum: int
    verified: bool = True
    seed: bytes = b""

    def __post_init__(self) -> None:
        count = len(self.members)
        ascending = all(a < b for a, b in zip(self.members, self.members[1:], strict=False))
        if count < 2 or not ascending or self.members[0] < 0 or self.members[-1] > LARGEST_NUMBER:
            raise ConfigError(
                f"A secure sum was planned for {count} agents. It needs two or more, whose numbers ascend and are "
                "not negative: the sum of one agent is its own vector."
            )
        if not 1 <= self.degree <= count - 1 or (self.degree % 2 and self.degree < count - 1):
            raise ConfigError(
                f"degree is {self.degree} among {count} agents. An agent has half of its neighbours before and half "
                f"after it. Use an even number, or {count - 1} for all."
            )
        if not 2 <= self.threshold <= self.degree + 1:
            raise ConfigError(
                f"threshold is {self.threshold}, and a secret has {self.degree + 1} holders. With one share each "
                f"holder knows the secret, and more than there are never come. Use 2 to {self.degree + 1}."
            )
        least = verified_threshold(count, self.degree)
        if self.verified and self.threshold < least:
            raise ConfigError(
                f"threshold is {self.threshold} of {self.degree + 1} holders in a verified sum. A coordinator that "
                "shows half of the holders another set of agents than the others would have both secrets of an agent, "
                "and one that leaves out the neighbours on one side would have sums of parts of the agents. "
                f"Use {least} or more, or verified=False if the coordinator keeps to the protocol."
            )
        if not 2 <= self.minimum <= count or not 1 <= self.size <= LARGEST_NUMBER:
            raise ConfigError(
                f"minimum is {self.minimum} of {count} agents, with {self.size} entries. A sum of fewer than two "
                f"vectors hides nothing. Use a minimum of 2 to {count}, and one entry or more."
            )

    @cached_property
    def digest(self) -> bytes:
        """The hash of the plan."""
        numbers = (self.size, self.degree, self.threshold, self.minimum, self.verified, len(self.members))
        parts = [PROTOCOL, self.context, self.seed, struct.pack("<6I", *numbers)]
        parts.append(struct.pack(f"<{len(self.members)}I", *self.members))
        return hashlib.sha256(b"".join(struct.pack("<I", len(each)) + each for each in parts)).digest()

    @cached_property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """The neighbours of each agent, ascending."""
        return circulant(random_order(self.members, self.seed or self.context), self.degree)

    @cached_property
    def _points(self) -> dict[int, dict[int, int]]:
        return {
            owner: {holder: point for point, holder in enumerate(sorted((owner, *others)), start=1)}
            for owner, others in self.neighbours.items()
        }

    def points(self, owner: int) -> dict[int, int]:
        """Return at which point each holder of an agent's secrets has its share: its neighbours and itself.

        An agent holds a share of its own seed. Else the `threshold` agents that are left would often be one too few:
        each of them would need so many besides itself.
        """
        return self._points[owner]


def verified_threshold(agents: int, degree: int) -> int:
    """Return the least threshold of a sum whose coordinator may deviate and has no agent that helps it.

    More than half of the holders: else it could ask some for the seed of an agent, and the others for its mask key. In
    a sparse graph one more: else an agent would take part with the `degree / 2` neighbours of one side alone, and a
    coordinator that leaves out those between two parts would have the sum of each part.

    >>> verified_threshold(7, 6), verified_threshold(30, 6)
    (4, 5)
    """
    return (degree + 1) // 2 + 1 + (degree < agents - 1)


def sum_plan(
    context: bytes,
    members: tuple[int, ...],
    size: int,
    *,
    degree: int | None = None,
    threshold: int | None = None,
    minimum: int | None = None,
    verified: bool = True,
    seed: bytes = b"",
) -> SumPlan:
    """Return a plan with the usual degree, threshold and minimum where none are given.

    Args:
        context: What makes this sum unlike every other one: `context_of`.
        members: Numbers of the invited agents, ascending.
        size: Number of entries of a vector.
        degree: Number of neighbours of an agent. `default_degree` if None.
        threshold: Number of shares that give a secret back. `default_threshold` if None, and for a verified sum at
            least the one that it needs.
        minimum: The least number of vectors in a sum. The threshold if None.
        verified: Whether agents compare which set of agents they were shown.
        seed: Public randomness for the order of agents in the graph; empty: the context is used.

    Raises:
        ConfigError: No sum has these numbers.

    >>> plan = sum_plan(b"example", tuple(range(10)), 4)
    >>> plan.degree, plan.threshold, plan.minimum
    (9, 6, 6)
    """
    degree = default_degree(len(members)) if degree is None else degree
    if threshold is None:
        needed = verified_threshold(len(members), degree) if verified else 0
        threshold = max(default_threshold(degree), needed)
    minimum = threshold if minimum is None else minimum
    return SumPlan(context, members, size, degree, threshold, minimum, verified, seed)
