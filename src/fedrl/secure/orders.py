"""The orders of a sum: how many local steps each member was to take, with which share, and from which state on.

A coordinator that deviates could order work such that the sum says most of one agent: SCAFFOLD multiplies its
statistics by the share, so with a share of zero for all but one, the sum of statistics is that of the one. Agents can't
see each other's tasks. So each is invited with the orders of all members, and checks three things:

    its own order          is that of the task for which it has trained        `accepted` of `fedrl.secure.invitation`
    the whole list         has a digest in the context of the plan             agents with another list reject its keys
    the shares             are p_k = w(n_k) / W with one W for all             `check_orders`

A coordinator could also tell one agent that its update was rejected and the others that theirs were merged: by the
sums of two rounds it would have what that agent alone has in its state. So an order says what the agent was told of the
last sum in which its vector was; those that were in one sum have to have been told the same of it (`check_verdicts`).

The first two make the list true for every member that keeps to the protocol, and the third one makes it that of the
federation: w is the weight of its aggregator, n_k are the local steps of agent k, and W is the sum of the weights of
all agents, of which the weights of the members are a part.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedrl.core.errors import SecureSumError

ORDER = struct.Struct("<IfI8s")
"""Local steps, share, and version and digest of the last sum, as on the wire."""
LAST_SUM = struct.Struct("<I8s")
NO_SUM = (2**32 - 1, bytes(8))
"""In place of version and digest, of an agent whose vector was in no sum, as far as it knows."""
ROUNDING = 1e-5
"""Shares are numbers of float32, whose relative error is 6e-8; sums of weights add up to more of it."""


class JobOrder(NamedTuple):
    """The order of a job.

    Attributes:
        steps: Local steps.
        share: Share of the agent among all agents: a number of float32.
        last_sum: What the agent was told of the last sum in which its vector was: the version, and the first eight
            bytes of the digest of its plan if its update was merged, else zeros.
    """

    steps: int
    share: float
    last_sum: tuple[int, bytes] = NO_SUM


def as_text(last_sum: tuple[int, bytes]) -> str:
    """Return what an agent was told of a sum as 24 hexadecimal digits; "" for none.

    >>> as_text((3, b"12345678")), of_text(as_text((3, b"12345678"))), of_text("") == NO_SUM
    ('030000003132333435363738', (3, b'12345678'), True)
    """
    return "" if last_sum == NO_SUM else LAST_SUM.pack(*last_sum).hex()


def of_text(text: str) -> tuple[int, bytes]:
    """Return what `as_text` wrote.

    Raises:
        SecureSumError: It did not write that.
    """
    try:
        version, digest = LAST_SUM.unpack(bytes.fromhex(text)) if text else NO_SUM
        return int(version), bytes(digest)
    except (ValueError, struct.error):
        raise SecureSumError(f"{text!r:.40} does not say what an agent was told of its last sum.") from None


def packed_orders(orders: Mapping[int, JobOrder]) -> bytes:
    """Return the orders of members as bytes, by ascending numbers of the members.

    Raises:
        SecureSumError: They are no orders: a number is negative or too large.
    """
    try:
        return b"".join(ORDER.pack(*orders[k][:2], *orders[k].last_sum) for k in sorted(orders))
    except (struct.error, OverflowError) as fault:
        raise SecureSumError(f"An order of the sum has numbers that no task has: {fault}.") from None


def orders_digest(orders: Mapping[int, JobOrder]) -> bytes:
    """Return the SHA-256 of the orders, which the context of a plan has beside the members.

    >>> orders_digest({0: JobOrder(1, 0.5)}) == orders_digest({0: JobOrder(1, 0.25)})
    False
    """
    return hashlib.sha256(packed_orders(orders)).digest()


def check_orders(orders: Mapping[int, JobOrder], agents: int, weights: Sequence[float]) -> None:
    """Refuse orders that no coordinator of this federation gives.

    Args:
        orders: The order of each member.
        agents: Number of agents of the federation.
        weights: The weight that its aggregator gives to an agent with 1, 2, ... local steps.

    Raises:
        SecureSumError: Steps or shares are not those of the rule.

    >>> check_orders({0: JobOrder(2, 0.5), 1: JobOrder(1, 0.25)}, 3, [10.0, 20.0])
    >>> check_orders({0: JobOrder(2, 0.0), 1: JobOrder(1, 0.25)}, 3, [10.0, 20.0])
    Traceback (most recent call last):
    fedrl.core.errors.SecureSumError: Agent 0 was ordered 2 local steps with the share 0, and by the rule of this...
    """
    for agent, order in orders.items():
        if not 1 <= order.steps <= len(weights):
            raise SecureSumError(
                f"Agent {agent} was ordered {order.steps} local steps, and this federation takes 1 to {len(weights)}: "
                "the coordinator orders work that no agent of it does."
            )
    own = {agent: weights[order.steps - 1] for agent, order in orders.items()}
    least, most = (sum(own.values()) + (agents - len(orders)) * each for each in (min(weights), max(weights)))
    # W as the share of the first member says it; it has to be possible, and that of all.
    first = next(iter(orders))
    total = own[first] / orders[first].share if orders[first].share > 0.0 else most
    total = min(max(total, least), most)
    for agent, order in orders.items():
        expected = own[agent] / total
        if not abs(order.share - expected) <= ROUNDING * expected:
            raise SecureSumError(
                f"Agent {agent} was ordered {order.steps} local steps with the share {order.share:g}, and by the rule "
                f"of this federation its share among {agents} agents is {expected:g} beside the orders of the others: "
                "with other shares a sum could say most of a single agent."
            )


def check_verdicts(orders: Mapping[int, JobOrder], known: Mapping[int, tuple[int, bytes]]) -> None:
    """Refuse orders of agents that were told something else of a sum than this one, which was in it, too.

    Whoever was in a later sum since is not compared by this agent, but by those that were in that one.

    Args:
        orders: The order of each member.
        known: What this agent was told of the last sum in which both were, by the number of the other agent.

    Raises:
        SecureSumError: Somebody was told otherwise.

    >>> merged, rejected = (3, b"12345678"), (3, bytes(8))
    >>> check_verdicts({1: JobOrder(1, 0.5, merged), 5: JobOrder(1, 0.5, rejected)}, {1: merged})
    >>> check_verdicts({1: JobOrder(1, 0.5, rejected)}, {1: merged})
    Traceback (most recent call last):
    fedrl.core.errors.SecureSumError: Agent 1 was told that its update of version 3 was not merged, and this agent th...
    """
    for agent, (version, digest) in sorted(known.items()):
        if agent in orders and orders[agent].last_sum[0] == version and orders[agent].last_sum[1] != digest:
            said = [f"was {'merged' if any(each) else 'not merged'}" for each in (orders[agent].last_sum[1], digest)]
            raise SecureSumError(
                f"Agent {agent} was told that its update of version {version} {said[0]}, and this agent that its own "
                f"{said[1]}, although both were in one sum: the coordinator tells agents different verdicts, by which "
                "sums of two rounds would say most of a single agent."
            )
