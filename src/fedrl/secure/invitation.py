"""Invitations to a secure sum over a network: what a coordinator says of it, and what an agent knows of it by itself.

    coordinator   plan, credentials  --invitation-->  Invitation
    agent         Invitation, Terms, its job  --accepted-->  the same plan, or a sentence about what differs

An agent takes from an invitation the members, their orders and the number of the attempt alone. Orders are compared
with the rule of the federation, and all else with its own federation, job and broadcast.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from fedrl.core.errors import SecureSumError
from fedrl.secure.credential import MOST_BYTES
from fedrl.secure.messages import COUNT
from fedrl.secure.orders import ORDER, JobOrder, check_orders, orders_digest, packed_orders
from fedrl.secure.plan import context_of
from fedrl.secure.protocols import PROTOCOLS, NetworkPlan
from fedrl.wire.secure_sum import Invitation

ENTRY = struct.Struct("<IH")
"""Number of an agent, and the bytes of its credential, which follow."""
MOST_REQUEST = 1 << 22
"""The largest invitation in bytes, whatever number of agents the coordinator says that there are."""


class Terms(NamedTuple):
    """What one end knows of all sums of a run by itself.

    Attributes:
        run: Identity of the run.
        agents: Number of agents of the federation.
        federation: Digest of the federation (`fedrl.federation.wire_digest`), hexadecimal.
        entries: Number of entries of a vector.
        minimum: The least number of vectors in a sum.
        verified: Whether agents compare which sets of agents they were shown.
        weights: The weight that the aggregator gives to an agent with 1, 2, ... local steps, up to the most of a job.
        protocol: Name of the protocol, one of `fedrl.secure.protocols.PROTOCOLS`.
    """

    run: str
    agents: int
    federation: str
    entries: int
    minimum: int
    verified: bool
    weights: tuple[float, ...]
    protocol: str = "masks"

    def plan(self, version: int, broadcast: str, attempt: int, orders: Mapping[int, JobOrder]) -> NetworkPlan:
        """Return the plan of a sum with the usual degree and threshold.

        Args:
            version: Version of the broadcast from which all members trained.
            broadcast: SHA-256 of that broadcast, hexadecimal.
            attempt: A number that no other sum of the version has.
            orders: The order of each member.

        Raises:
            ConfigError: No sum has these numbers.
            SecureSumError: They are no orders.
        """
        digests = bytes.fromhex(self.federation), bytes.fromhex(broadcast)
        context = context_of(self.run, version, *digests, attempt, orders=orders_digest(orders))
        members = tuple(sorted(orders))
        return PROTOCOLS[self.protocol].plan(context, members, self.entries, self.minimum, self.verified)

    def largest_reply(self) -> int:
        """Return the largest message of an agent in a sum, or before it about its key, in bytes.

        >>> Terms("", 10, "", 10_000, 2, True, ()).largest_reply(), Terms("", 10, "", 10, 2, True, ()).largest_reply()
        (40017, 4096)
        """
        return max(PROTOCOLS[self.protocol].largest(self.entries, self.agents)[0], MOST_BYTES)

    def largest_request(self) -> int:
        """Return the largest message to an agent in a sum, in bytes: an invitation, or what follows it.

        An agent has the number of entries from its own federation, and the number of agents from the coordinator.
        """
        protocol = PROTOCOLS[self.protocol]
        rows = COUNT.size + (COUNT.size + ORDER.size) * self.agents
        credentials = rows + (protocol.near(self.agents) + 1) * (ENTRY.size + MOST_BYTES)
        of_agents = min(credentials + protocol.largest(1, self.agents)[1], MOST_REQUEST)
        return of_agents + protocol.largest(self.entries, 2)[1]


class AgentJob(NamedTuple):
    """The job of an agent whose vector is summed.

    Attributes:
        agent: Number of the agent.
        job: Number of the job.
        version: Version of the broadcast from which it trained.
        broadcast: SHA-256 of the broadcast that it has received, hexadecimal.
        order: Its order.
    """

    agent: int
    job: int
    version: int
    broadcast: str
    order: JobOrder


def invitation(
    plan: NetworkPlan,
    terms: Terms,
    of: AgentJob,
    attempt: int,
    credentials: Mapping[int, bytes],
    orders: Mapping[int, JobOrder],
    adverts: bytes = b"",
    own: bytes = b"",
) -> Invitation:
    """Return the invitation of an agent.

    Args:
        plan: The plan.
        terms: What the coordinator knows of all sums.
        of: The agent and its job.
        attempt: A number that no other sum of the version has.
        credentials: Credentials of neighbours that this connection has not had yet, by number.
        orders: The order of each member.
        adverts: The message with the keys of neighbours, if all members have said theirs; else empty.
        own: The keys that the agent has said, if so.
    """
    members = COUNT.pack(len(plan.members)) + struct.pack(f"<{len(plan.members)}I", *plan.members)
    rows = [ENTRY.pack(agent, len(data)) + data for agent, data in sorted(credentials.items())]
    return Invitation(
        job=of.job,
        version=of.version,
        attempt=attempt,
        entries=plan.size,
        degree=plan.degree,
        threshold=plan.threshold,
        minimum=plan.minimum,
        verified=terms.verified,
        federation=terms.federation,
        broadcast=of.broadcast,
        protocol=terms.protocol,
        adverts=len(adverts),
        own=hashlib.sha256(own).hexdigest() if adverts else "",
        content=b"".join([members, packed_orders(orders), *rows, adverts]),
    )


def accepted(given: Invitation, terms: Terms, mine: AgentJob) -> NetworkPlan:
    """Return the plan of a sum to which an agent is invited, as the agent makes it itself.

    Args:
        given: The invitation.
        terms: What the agent knows of all sums.
        mine: The agent and its last job.

    Raises:
        SecureSumError: The invitation differs from what the agent knows; the sentence says where.
    """
    orders, _ = contents(given, terms.agents)
    for what, here, there in (
        ("job", mine.job, given.job),
        ("version", mine.version, given.version),
        ("federation", terms.federation, given.federation),
        ("broadcast", mine.broadcast, given.broadcast),
        ("number of entries", terms.entries, given.entries),
        ("protocol", terms.protocol, given.protocol),
    ):
        if here != there:
            raise _differs(what, here, there)
    if given.minimum < terms.minimum:
        raise _differs("minimum of agents", f"{terms.minimum} or more", given.minimum)
    if given.adverts > len(given.content):
        raise SecureSumError(f"An invitation announces {given.adverts} bytes of keys, and was cut off.")
    if terms.verified and not given.verified:
        raise _differs("comparison of survivors (verified)", terms.verified, given.verified)
    if mine.agent not in orders or len(orders) < given.minimum:
        missing = "it is not among them itself" if mine.agent not in orders else f"{given.minimum} are needed"
        raise SecureSumError(
            f"Agent {mine.agent} was invited to a sum of {len(orders)} agents, and {missing}: it would not hide the "
            "vector of this agent."
        )
    if orders[mine.agent] != mine.order:
        raise _differs("order (local steps, share, last sum)", _said(mine.order), _said(orders[mine.agent]))
    check_orders(orders, terms.agents, terms.weights)
    own = terms._replace(minimum=given.minimum, verified=given.verified)
    plan = own.plan(mine.version, mine.broadcast, given.attempt, orders)
    for what, here, there in (("degree", plan.degree, given.degree), ("threshold", plan.threshold, given.threshold)):
        if here != there:
            raise _differs(what, here, there)
    return plan


def _said(order: JobOrder) -> tuple[int, float, int, str]:
    return order.steps, order.share, order.last_sum[0], order.last_sum[1].hex()


def _differs(what: str, here: object, there: object) -> SecureSumError:
    return SecureSumError(
        f"The {what} of the sum is {there!s:.70} in the invitation and {here!s:.70} at this agent, which takes no part "
        "in another sum than that of its own federation."
    )


def contents(given: Invitation, agents: int) -> tuple[dict[int, JobOrder], dict[int, bytes]]:
    """Return the order of each member, and the credentials of an invitation.

    Args:
        given: The invitation.
        agents: Number of agents of the federation.

    Raises:
        SecureSumError: They are none.
    """
    try:
        return _read(given.content[: max(len(given.content) - given.adverts, 0)], agents)
    except struct.error as fault:
        raise SecureSumError(f"An invitation of {len(given.content)} bytes was cut off ({fault}).") from None


def _read(data: bytes, agents: int) -> tuple[dict[int, JobOrder], dict[int, bytes]]:
    (count,), at = COUNT.unpack_from(data), COUNT.size
    if not 2 <= count <= agents:
        raise SecureSumError(f"An invitation names {count} agents, and a sum has 2 to {agents} in this federation.")
    members = struct.unpack_from(f"<{count}I", data, at)
    if any(a >= b for a, b in pairwise(members)) or members[-1] >= agents:
        raise SecureSumError(f"An invitation names agents twice, out of order, or beyond the {agents} that there are.")
    at += COUNT.size * count
    orders = {}
    for place, agent in enumerate(members):
        steps, share, *last = ORDER.unpack_from(data, at + place * ORDER.size)
        orders[agent] = JobOrder(steps, share, (last[0], last[1]))
    at += ORDER.size * count
    found: dict[int, bytes] = {}
    while at < len(data):
        agent, size = ENTRY.unpack_from(data, at)
        at += ENTRY.size + size
        if agent not in members or agent in found or at > len(data):
            raise SecureSumError(f"An invitation has a credential of agent {agent} twice, of nobody, or cut off.")
        found[agent] = data[at - size : at]
    return orders, found
