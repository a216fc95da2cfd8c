"""Who is who in secure sums: long-lived X25519 keys, which agents know from elsewhere than the coordinator.

    own key, key of the other one --X25519, HKDF-SHA256(numbers, keys)--> root --> a channel for each sum

Two agents agree once on a root that nobody else has, and the keys of their channels follow from it
(`fedrl.secure.channel`). So what they send each other through a coordinator needs no signature. A coordinator that
could say which key belongs to whom could be all of an agent's neighbours, and read its vector.

What signatures have besides: whoever steals the key of an agent can pose as the others to this agent alone, which has
no secret from the thief any more (key-compromise impersonation). And the coordinator can't check a box: an agent that
makes one up is found by the neighbour that it is for, which leaves the sum.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from fedrl.core.errors import SecureSumError
from fedrl.secure.channel import Channel, agreed
from fedrl.secure.extra import check_cryptography
from fedrl.secure.masks import KEY_BYTES, derived_key

MOST_PAIRS = 64
"""For how many agents keys are kept. With more neighbours than that, which change, most would not be used again."""


class Directory:
    """The public keys of all agents.

    Args:
        keys: 32 bytes for each agent.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        check_cryptography()
        self._keys = dict(keys)

    def add(self, agent: int, key: bytes) -> None:
        """Take the public key of an agent, in place of an earlier one.

        Raises:
            SecureSumError: It is no X25519 key.
        """
        if len(key) != KEY_BYTES:
            raise SecureSumError(
                f"The key of agent {agent} is no X25519 key: it has {len(key)} bytes, not {KEY_BYTES}."
            )
        self._keys[agent] = key

    def key(self, agent: int) -> bytes:
        """Return the public key of an agent.

        Raises:
            SecureSumError: The agent is unknown.
        """
        if agent not in self._keys:
            raise SecureSumError(
                f"Agent {agent} has no key in the directory of agents, so what it says can't be checked."
            )
        return self._keys[agent]


class Identity:
    """An agent's own key, and the directory that it trusts.

    Args:
        agent: Number of the agent.
        key: Its private key, an `X25519PrivateKey` of `cryptography`.
        directory: The public keys of all agents.
    """

    def __init__(self, agent: int, key: Any, directory: Directory) -> None:
        self.agent, self.directory = agent, directory
        self._key, self._public = key, key.public_key().public_bytes_raw()
        self._roots: dict[int, tuple[bytes, bytes]] = {}
        self._contexts: set[bytes] = set()

    def root(self, other: int) -> bytes:
        """Return the 32 bytes on which this agent and another one agree, and which nobody else has.

        Raises:
            SecureSumError: The other one is unknown, or its key is none.
        """
        public = self.directory.key(other)
        found = self._roots.get(other)
        if found is None or found[0] != public:
            if len(self._roots) >= MOST_PAIRS:
                self._roots.clear()
            found = self._roots[other] = public, self._agreed(other, public)
        return found[1]

    def _agreed(self, other: int, public: bytes) -> bytes:
        ends = sorted(((self.agent, self._public), (other, public)))
        purpose = b"agents" + b"".join(struct.pack("<I", agent) + key for agent, key in ends)
        return derived_key(agreed(self._key, public, f"key of agent {other}"), purpose)

    def channel(self, other: int, purpose: bytes, fresh: bytes = b"") -> Channel:
        """Return this agent's end of a channel to another one, through a coordinator that can't open its boxes.

        Args:
            other: Number of the other agent.
            purpose: What the channel is for, the same at both ends; for one purpose an agent opens one channel.
            fresh: What both agree on by keys that are drawn for this channel, if there are such.

        Raises:
            SecureSumError: The other one is unknown, or its key is none.
        """
        return Channel(fresh + self.root(other), purpose, self.agent < other)

    def enter(self, context: bytes) -> None:
        """Note that the agent takes part in a sum, once.

        The note is in memory: an agent that restarts has to note on disk for which versions it has sent a vector.

        Raises:
            SecureSumError: It has taken part in the same sum before.
        """
        if context in self._contexts:
            raise SecureSumError(
                f"Agent {self.agent} was asked to take part twice in one sum: two masked vectors of one update could "
                "be subtracted. A sum that was given up has to have another context."
            )
        self._contexts.add(context)


def new_identities(agents: tuple[int, ...]) -> dict[int, Identity]:
    """Return identities of agents that know each other's keys, for simulations and tests.

    >>> identities = new_identities((0, 1))
    >>> identities[0].root(1) == identities[1].root(0)
    True
    """
    check_cryptography()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    keys = {agent: X25519PrivateKey.generate() for agent in agents}
    directory = Directory({agent: key.public_key().public_bytes_raw() for agent, key in keys.items()})
    return {agent: Identity(agent, key, directory) for agent, key in keys.items()}
