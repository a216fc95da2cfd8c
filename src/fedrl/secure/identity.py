"""Who is who in secure sums: long-lived X25519 keys, which agents know from elsewhere than the coordinator.

    own key, key of the other one --X25519, HKDF-SHA256(numbers, keys)-->  a tag key for each direction, a root
                                                                           root --> a channel for each sum

Two agents authenticate their adverts to each other by tags (`fedrl.secure.channel`) under keys that they agree on once.
So an advert needs no signature: each neighbour checks the tag that is for it, which costs a hash. A coordinator that
could say which key belongs to whom could be all of an agent's neighbours, and read its vector.

What signatures have besides: whoever steals the key of an agent can pose as the others to this agent alone, which has
no secret from the thief any more (key-compromise impersonation). And the coordinator can't check tags: an agent that
makes one up is found by the neighbour that it is for, which leaves the sum, as it does for a wrong box.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from fedrl.core.errors import SecureSumError
from fedrl.secure.channel import Channel, TagKeys, agreed
from fedrl.secure.extra import check_cryptography
from fedrl.secure.masks import KEY_BYTES, derived_keys

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
        self._pairs: dict[int, tuple[bytes, TagKeys, bytes]] = {}
        self._contexts: set[bytes] = set()

    def tag_keys(self, other: int) -> TagKeys:
        """Return the keys by which this agent and another one authenticate what they send each other.

        Raises:
            SecureSumError: The other one is unknown, or its key is none.
        """
        return self._pair(other)[1]

    def channel(self, other: int, purpose: bytes) -> Channel:
        """Return this agent's end of a channel to another one, through a coordinator that can't open its boxes.

        Args:
            other: Number of the other agent.
            purpose: What the channel is for, the same at both ends; for one purpose an agent opens one channel.

        Raises:
            SecureSumError: The other one is unknown, or its key is none.
        """
        return Channel(self._pair(other)[2], purpose, self.agent < other)

    def _pair(self, other: int) -> tuple[bytes, TagKeys, bytes]:
        public = self.directory.key(other)
        found = self._pairs.get(other)
        if found is None or found[0] != public:
            if len(self._pairs) >= MOST_PAIRS:
                self._pairs.clear()
            found = self._pairs[other] = self._agreed(other, public)
        return found

    def _agreed(self, other: int, public: bytes) -> tuple[bytes, TagKeys, bytes]:
        ends = sorted(((self.agent, self._public), (other, public)))
        purpose = b"agents" + b"".join(struct.pack("<I", agent) + key for agent, key in ends)
        *keys, root = derived_keys(agreed(self._key, public, f"key of agent {other}"), purpose, 3)
        return public, TagKeys(*(keys if self.agent < other else reversed(keys))), root

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
    >>> tag = identities[0].tag_keys(1).tag(b"hello")
    >>> identities[1].tag_keys(0).fits(tag, b"hello")
    True
    """
    check_cryptography()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    keys = {agent: X25519PrivateKey.generate() for agent in agents}
    directory = Directory({agent: key.public_key().public_bytes_raw() for agent, key in keys.items()})
    return {agent: Identity(agent, key, directory) for agent, key in keys.items()}
