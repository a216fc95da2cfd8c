"""The secrets of an agent for one sum by masks: drawn before it is known who takes part, and used once.

    drawn when a job is done --public keys--> in the message that says so --> neighbours, with the invitation
                             --take(), once--> the agent's machine of one sum

An advert says nothing of a sum, and needs no signature or tag. What binds it is the channel to each neighbour
(`fedrl.secure.channel`): its keys follow from both adverts, the plan, and the certified keys of both. So a box that
opens says that both ends have the same plan and each other's true adverts, and masks are made after all boxes have
opened.
"""

from __future__ import annotations

import os
from typing import Any

from fedrl.core.errors import SecureSumError
from fedrl.secure.extra import check_cryptography
from fedrl.secure.messages import KEY_PARTS, PUBLIC, SHARE, SumKeys
from fedrl.secure.shares import commitment
from fedrl.secure.transcript import committed_seed

ADVERT_BYTES = sum(KEY_PARTS)


class FreshKeys:
    """Two X25519 keys, for boxes and for masks, and the seed of an agent's own mask.

    Args:
        agent: Number of the agent.

    Attributes:
        public: What others need of them.

    >>> keys = FreshKeys(0)
    >>> advert_of(0, keys.content) == keys.public
    True
    """

    def __init__(self, agent: int) -> None:
        check_cryptography()
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        channel, mask, seed = X25519PrivateKey.generate(), X25519PrivateKey.generate(), os.urandom(SHARE)
        channel_key, mask_key = (key.public_key().public_bytes_raw() for key in (channel, mask))
        committed = commitment(seed, committed_seed(agent, channel_key, mask_key))
        self.public = SumKeys(agent, channel_key, mask_key, committed)
        self._secrets: tuple[Any, Any, bytes] | None = (channel, mask, seed)

    def __repr__(self) -> str:
        return "FreshKeys(...)"  # never a key

    @property
    def content(self) -> bytes:
        """The public keys as bytes, without the number of the agent."""
        return b"".join(self.public[1:])

    @property
    def taken(self) -> bool:
        """Whether they were used in a sum."""
        return self._secrets is None

    def take(self) -> tuple[Any, Any, bytes]:
        """Return the key of channels, the mask key and the seed, once.

        Raises:
            SecureSumError: They were taken before.
        """
        secrets, self._secrets = self._secrets, None
        if secrets is None:
            raise SecureSumError(
                f"The keys of agent {self.public.agent} were used in a sum before: masks of two sums would be equal."
            )
        return secrets


def advert_of(agent: int, content: bytes) -> SumKeys:
    """Return the public keys of an agent from these bytes.

    Raises:
        SecureSumError: They have another length.
    """
    if len(content) != ADVERT_BYTES:
        raise SecureSumError(
            f"The keys of agent {agent} for a sum have {len(content)} bytes, and {ADVERT_BYTES} are three of 32."
        )
    return SumKeys(agent, content[:PUBLIC], content[PUBLIC : 2 * PUBLIC], content[2 * PUBLIC :])
