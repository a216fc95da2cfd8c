"""What both ends of a secure sum compute in the same way: purposes of keys, texts under tags, digests of sets."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from fedrl.secure.messages import SumKeys
from fedrl.secure.plan import SumPlan

SEED, MASK_KEY = b"seed", b"mask key"
"""The two secrets of an agent. Who has both can read its masked vector."""


def advert_text(plan: SumPlan, keys: SumKeys) -> bytes:
    """Return what an advert is in one sum; what is derived from it in another sum has another plan."""
    return b"advert" + plan.digest + struct.pack("<I", keys.agent) + b"".join(keys[1:])


def set_digest(before: bytes, present: Sequence[int]) -> bytes:
    """Return a digest of a set of agents and of all sets before it.

    Args:
        before: The digest of the sets of earlier phases; at first that of the plan.
        present: The agents, ascending.
    """
    return hashlib.sha256(b"set" + before + struct.pack(f"<{len(present)}I", *present)).digest()


def share_purpose(plan: SumPlan, secret: bytes, owner: int, agent: int) -> bytes:
    """Return what the commitment to the share of a secret is for, which an agent holds for its owner."""
    return b"share of " + secret + plan.digest + struct.pack("<II", owner, agent)


def committed_seed(owner: int, channel_key: bytes, mask_key: bytes) -> bytes:
    """Return what the commitment to a seed is for, which is drawn together with these keys."""
    return b"seed beside" + struct.pack("<I", owner) + channel_key + mask_key


def seed_purpose(plan: SumPlan, owner: int) -> bytes:
    """Return what the mask from a seed is for."""
    return b"own mask" + plan.digest + struct.pack("<I", owner)


def pair_purpose(plan: SumPlan, first: SumKeys, second: SumKeys) -> bytes:
    """Return what the common key of two agents is for: their mask. Both give the same, in either order."""
    return b"pair mask" + _of_both(plan, first, second)


def channel_purpose(plan: SumPlan, first: SumKeys, second: SumKeys) -> bytes:
    """Return what the keys of a channel are for: boxes and tags between two agents, in one sum. Both give the same."""
    return b"channel" + _of_both(plan, first, second)


def _of_both(plan: SumPlan, first: SumKeys, second: SumKeys) -> bytes:
    one, other = (first, second) if first.agent < second.agent else (second, first)
    return advert_text(plan, one) + advert_text(plan, other)


def survivors_text(digest: bytes) -> bytes:
    """Return what the tag of an agent is under, which was shown the sets of agents of this digest."""
    return b"survivors" + digest
