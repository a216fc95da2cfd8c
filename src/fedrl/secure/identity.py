"""Who signs in a secure sum: long-lived Ed25519 keys, which agents know from elsewhere than the coordinator.

A coordinator that could say which key belongs to whom could be all of an agent's neighbours, and read its vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.core.errors import SecureSumError
from fedrl.secure.extra import check_cryptography

SIGNATURE_BYTES = 64


class Directory:
    """The public keys of all agents.

    Args:
        keys: 32 bytes for each agent.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        check_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._keys = {agent: Ed25519PublicKey.from_public_bytes(key) for agent, key in keys.items()}

    def add(self, agent: int, key: bytes) -> None:
        """Take the public key of an agent, in place of an earlier one.

        Raises:
            SecureSumError: It is no Ed25519 key.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            self._keys[agent] = Ed25519PublicKey.from_public_bytes(key)
        except ValueError as fault:
            raise SecureSumError(f"The key of agent {agent} is no Ed25519 key: {fault}.") from None

    def verify(self, agent: int, message: bytes, signature: bytes, what: str) -> None:
        """Refuse a message that an agent did not sign.

        Raises:
            SecureSumError: The agent is unknown, or the signature is another one's or of another message.
        """
        from cryptography.exceptions import InvalidSignature

        if agent not in self._keys:
            raise SecureSumError(f"Agent {agent} has no key in the directory of agents, so {what} can't be checked.")
        try:
            self._keys[agent].verify(signature, message)
        except InvalidSignature:
            raise SecureSumError(
                f"The signature under {what} of agent {agent} is wrong: it was forged, or made for another sum or for "
                "another plan of it."
            ) from None


class Identity:
    """An agent's own key, and the directory that it trusts.

    Args:
        agent: Number of the agent.
        key: Its private key, an `Ed25519PrivateKey` of `cryptography`.
        directory: The public keys of all agents.
    """

    def __init__(self, agent: int, key: Any, directory: Directory) -> None:
        self.agent, self.directory = agent, directory
        self._key = key
        self._contexts: set[bytes] = set()

    def sign(self, message: bytes) -> bytes:
        """Return the agent's signature under a message."""
        return self._key.sign(message)

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
    >>> identities[1].directory.verify(0, b"hello", identities[0].sign(b"hello"), "a greeting")
    """
    check_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys = {agent: Ed25519PrivateKey.generate() for agent in agents}
    directory = Directory({agent: key.public_key().public_bytes_raw() for agent, key in keys.items()})
    return {agent: Identity(agent, key, directory) for agent, key in keys.items()}
