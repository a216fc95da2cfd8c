"""What two neighbours share in one sum: keys by which they send each other boxes and tags through the coordinator.

    X25519 of both channel keys, root of both agents
        --HKDF-SHA256(label, both adverts)-->  box key, tag key    from the lower number
                                               box key, tag key    from the higher number

The root follows from the certified keys of both agents (`fedrl.secure.identity`), and channel keys are fresh for each
sum. So a coordinator that puts a channel key of its own in place of an agent's has no key of the channel, and agents
that know different adverts or plans have different ones: a box that opens authenticates both adverts, with all that is
in them, and no signature or tag has to come with them.

A box hides shares and authenticates them. A tag says of a set of agents: this is the one that I was shown. It is an
HMAC and no signature, because its receiver alone relies on it and has to convince nobody else (Bonawitz et al., 2017,
have every agent sign the set, and every agent check all signatures). A tag is as hard to make up:

- Only both ends of a channel have its keys, and each knows which of both tag keys is its own. So a tag that fits comes
  from the neighbour: not from the coordinator, and not from the receiver itself as in a mirror.
- The keys follow from channel keys that are fresh for each sum, and from both adverts, which name the plan. So a tag of
  another sum or of another attempt does not fit.
- The root is in the keys: a coordinator that puts a channel key of its own in place of a neighbour's has none of them.
- A neighbour that colludes can confirm different sets to different agents, and could sign them just as well.

References: Krawczyk and Eronen (2010), HKDF, https://doi.org/10.17487/RFC5869; Krawczyk et al. (1997), HMAC, which
allows to cut its output to a half, https://doi.org/10.17487/RFC2104
"""

from __future__ import annotations

import hmac
from typing import Any, NamedTuple

from fedrl.core.errors import SecureSumError
from fedrl.secure.masks import derived_keys

TAG = 16
"""Bytes of a tag. An agent judges one tag of each neighbour in a sum, so nobody can try many."""
NONCE = bytes(12)
"""The nonce of a box. The key of a box encrypts this box alone."""


class TagKeys(NamedTuple):
    """The keys of the tags between an agent and a neighbour.

    Attributes:
        sent: 32 bytes: of the tag to the neighbour.
        heard: 32 bytes: of the tag from it.
    """

    sent: bytes
    heard: bytes

    def __repr__(self) -> str:
        return "TagKeys(...)"  # never a key

    def tag(self, text: bytes) -> bytes:
        """Return the tag to the neighbour under a text."""
        return hmac.digest(self.sent, text, "sha256")[:TAG]

    def fits(self, tag: bytes, text: bytes) -> bool:
        """Return whether a tag is the neighbour's under this text, in a time that does not depend on where it differs.

        >>> ours, theirs = TagKeys(b"a" * 32, b"b" * 32), TagKeys(b"b" * 32, b"a" * 32)
        >>> theirs.fits(ours.tag(b"text"), b"text"), ours.fits(ours.tag(b"text"), b"text")
        (True, False)
        """
        return hmac.compare_digest(hmac.digest(self.heard, text, "sha256")[:TAG], tag)


class Channel:
    """One end of the channel between two neighbours.

    Args:
        secret: What both agree on by their channel keys.
        purpose: Which channel of which sum it is, the same at both ends.
        lower: Whether this is the end with the lower number.

    Attributes:
        tags: The keys of its tags.
    """

    def __init__(self, secret: bytes, purpose: bytes, lower: bool) -> None:
        keys = derived_keys(secret, purpose, 4)
        mine, other = (keys[:2], keys[2:]) if lower else (keys[2:], keys[:2])
        (self._sealing, sent), (self._opening, heard) = mine, other
        self.tags = TagKeys(sent, heard)

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Return the box to the neighbour with this content, which opens with the same `bound` alone."""
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        return ChaCha20Poly1305(self._sealing).encrypt(NONCE, plain, bound)

    def open(self, box: bytes, bound: bytes) -> bytes | None:
        """Return the content of a box from the neighbour; None if it is another one's or was bound to something else.

        >>> here, there = Channel(bytes(32), b"example", True), Channel(bytes(32), b"example", False)
        >>> there.open(here.seal(b"shares", b"set"), b"set"), here.open(here.seal(b"shares", b"set"), b"set")
        (b'shares', None)
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        try:
            return ChaCha20Poly1305(self._opening).decrypt(NONCE, box, bound)
        except InvalidTag:
            return None


def agreed(key: Any, public: bytes, whose: str) -> bytes:
    """Return the secret on which a private key and another one's public key agree, by X25519.

    Args:
        key: An `X25519PrivateKey` of `cryptography`.
        public: 32 bytes.
        whose: Which key of whom it is, for the error.

    Raises:
        SecureSumError: The public key is of small order: with it, everybody would know the secret.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        secret: bytes = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as fault:
        raise SecureSumError(f"The {whose} is no X25519 key: {fault}.") from None
    return secret
