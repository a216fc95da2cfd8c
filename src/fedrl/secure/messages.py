"""The messages of a secure sum, and their bytes.

    agent                                   coordinator
    Advert         ---------------------->              fresh public keys
                   <----------------------  AdvertList  those of the neighbours, and who advertised
    SealedShares   ---------------------->              a box for each neighbour, and commitments
                   <----------------------  Delivery    the boxes from the neighbours, and who sent some
    MaskedValues   ---------------------->              the vector with its masks
                   <----------------------  SurvivorList   whose vectors arrived
    SurvivorTags   ---------------------->              a tag for each neighbour: it was shown this set of agents
                   <----------------------  TagList     those from the neighbours
    OpenedShares   ---------------------->              one share of each neighbour, and its own

Messages of other protocols that go over a network are with their machines (`relayed`, `encrypted_ends`), and have the
same head and fields.

Every length follows from the plan and from a count that is compared with the plan before anything is read. Agents are
in ascending order, each once; sets of agents are bitmaps over the plan's members.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fedrl.core.errors import WireError
from fedrl.secure.channel import TAG
from fedrl.secure.masks import KEY_BYTES
from fedrl.secure.ring import WORD

PUBLIC, HASH, SHARE = 32, 32, 32
BOX = 2 * SHARE + 16
"""Bytes of a box: a share of each secret, and the tag that authenticates them."""
PART_BOX = KEY_BYTES + 16
"""Bytes of a box with a part of a vector (`fedrl.secure.additive`), and the tag that authenticates it."""
HEAD = struct.Struct("<4sB8s")
COUNT = struct.Struct("<I")
MAGIC = b"FSS3"


class SumKeys(NamedTuple):
    """The keys of an agent for one sum.

    Attributes:
        agent: Its number.
        channel_key: X25519 key by which a neighbour and it agree on keys for boxes and tags.
        mask_key: X25519 key by which a neighbour and it agree on a mask.
        seed_commitment: Commitment to the seed of its own mask.
    """

    agent: int
    channel_key: bytes
    mask_key: bytes
    seed_commitment: bytes


class Advert(NamedTuple):
    """What an agent says of itself at first.

    Attributes:
        keys: Its keys.
    """

    keys: SumKeys

    @property
    def agent(self) -> int:
        """Its number."""
        return self.keys.agent


class AdvertList(NamedTuple):
    """The keys of an agent's neighbours.

    Attributes:
        present: All agents that advertised.
        adverts: The keys of each neighbour among them.
    """

    present: tuple[int, ...]
    adverts: tuple[SumKeys, ...]


class SealedShares(NamedTuple):
    """The shares of an agent's two secrets.

    Attributes:
        agent: Its number.
        boxes: For each neighbour, the encrypted shares of seed and mask key.
        commitments: For each holder, itself as well, the commitments to both shares, one after the other.
    """

    agent: int
    boxes: tuple[tuple[int, bytes], ...]
    commitments: tuple[tuple[int, bytes], ...]


class Delivery(NamedTuple):
    """The boxes for an agent.

    Attributes:
        present: All agents that sent boxes.
        boxes: Those from each neighbour among them.
    """

    present: tuple[int, ...]
    boxes: tuple[tuple[int, bytes], ...]


class MaskedValues(NamedTuple):
    """The masked vector of an agent.

    Attributes:
        agent: Its number.
        values: uint32 `[size]`.
    """

    agent: int
    values: np.ndarray


class SurvivorList(NamedTuple):
    """The agents whose masked vectors arrived.

    Attributes:
        present: Their numbers.
    """

    present: tuple[int, ...]


class SurvivorTags(NamedTuple):
    """An agent's tags under the sets of agents that it was shown.

    Attributes:
        agent: Its number.
        tags: For each neighbour whose vector arrived, the tag that this neighbour can check.
    """

    agent: int
    tags: tuple[tuple[int, bytes], ...]


class TagList(NamedTuple):
    """The tags for an agent, each under the sets of agents that a neighbour was shown.

    Attributes:
        tags: That from each neighbour.
    """

    tags: tuple[tuple[int, bytes], ...]


class OpenedShares(NamedTuple):
    """The shares by which the coordinator removes masks.

    Attributes:
        agent: Number of the holder.
        shares: Of each owner: of its seed if its vector arrived, of its mask key if not.
    """

    agent: int
    shares: tuple[tuple[int, bytes], ...]


SumMessage: TypeAlias = (
    Advert | AdvertList | SealedShares | Delivery | MaskedValues | SurvivorList | SurvivorTags | TagList | OpenedShares
)
KINDS: tuple[type[Any], ...] = (
    *(Advert, AdvertList, SealedShares, Delivery, MaskedValues),
    *(SurvivorList, SurvivorTags, TagList, OpenedShares),
)
ROWS = {"boxes": BOX, "commitments": 2 * HASH, "tags": TAG, "shares": SHARE, "parts": PART_BOX}
SIZED = ("vector_ciphertexts", "sum_ciphertexts")
"""Fields whose bytes are a property of the plan of the same name with `_bytes` after it."""
KEY_PARTS = (PUBLIC, PUBLIC, HASH)


@runtime_checkable
class AnyPlan(Protocol):
    """What messages follow from, of every protocol's plan."""

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the invited agents, ascending."""

    @property
    def size(self) -> int:
        """Number of entries of a vector."""

    @property
    def degree(self) -> int:
        """Number of neighbours of an agent."""

    @property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """The neighbours of each agent, ascending."""

    @property
    def digest(self) -> bytes:
        """The hash of the plan."""


def encoded(message: Any, plan: AnyPlan, kinds: tuple[type[Any], ...] = KINDS) -> bytes:
    """Return a message as bytes; `kinds` are those of its protocol."""
    parts = [HEAD.pack(MAGIC, kinds.index(type(message)), plan.digest[:8])]
    values: tuple[Any, ...] = message
    for name, value in zip(message._fields, values, strict=True):
        if name == "agent":
            parts.append(COUNT.pack(value))
        elif name == "present":
            parts.append(_bitmap(value, plan))
        elif name == "values":
            parts.append(np.ascontiguousarray(value, WORD).tobytes())
        elif name == "adverts":
            parts += [COUNT.pack(len(value)), *(_key_bytes(each) for each in value)]
        elif name == "keys":
            parts.append(_key_bytes(value))
        elif name in ROWS:
            parts += [COUNT.pack(len(value)), *(COUNT.pack(agent) + content for agent, content in value)]
        else:
            parts.append(value)
    return b"".join(parts)


def encoded_size(message: SumMessage, plan: AnyPlan) -> int:
    """Return the bytes of a message.

    >>> from fedrl.secure.plan import SumPlan
    >>> plan = SumPlan(b"example", (0, 1, 2), 1000, 2, 2, 2)
    >>> encoded_size(MaskedValues(0, np.zeros(1000, np.uint32)), plan)
    4017
    """
    if isinstance(message, MaskedValues):  # the large one, without a copy
        return HEAD.size + COUNT.size + message.values.nbytes
    return len(encoded(message, plan))


def decoded(data: bytes, plan: AnyPlan, kinds: tuple[type[Any], ...] = KINDS) -> Any:
    """Return the message of these bytes.

    Args:
        data: The bytes of one message.
        plan: The plan of the receiver, which limits every length.
        kinds: The kinds of messages of its protocol.

    Raises:
        WireError: They are no message, or one of another sum.

    >>> from fedrl.secure.plan import SumPlan
    >>> plan = SumPlan(b"example", (0, 1, 2), 1, 2, 2, 2)
    >>> decoded(encoded(SurvivorList((0, 2)), plan), plan)
    SurvivorList(present=(0, 2))
    """
    if len(data) < HEAD.size:
        raise WireError(f"A message of a secure sum has {len(data)} bytes, fewer than its head: it was cut off.")
    magic, kind, digest = HEAD.unpack_from(data)
    if magic != MAGIC or kind >= len(kinds):
        raise WireError("Bytes came that are no message of a secure sum: the other end speaks another protocol.")
    if digest != plan.digest[:8]:
        raise WireError(
            f"A message {kinds[kind].__name__} of another secure sum, or of another plan of this one, came."
        )
    return _Reading(data, plan, kinds[kind]).message()


class _Reading:
    """Reads the fields of one message in order."""

    def __init__(self, data: bytes, plan: AnyPlan, kind: type[Any]) -> None:
        self.data, self.plan, self.kind, self.at = data, plan, kind, HEAD.size

    def message(self) -> Any:
        names = self.kind._fields
        fields = [self.field(name) for name in names]
        if self.at != len(self.data):
            raise WireError(f"{self.kind.__name__} has {len(self.data) - self.at} bytes too many: it is damaged.")
        return self.kind(*fields)

    def field(self, name: str) -> Any:
        alone: dict[str, Callable[[], Any]] = {"agent": self.agent, "present": self.members, "keys": self.keys}
        if name in alone:
            return alone[name]()
        if name == "values":
            return np.frombuffer(self.bytes(self.plan.size * WORD.itemsize), WORD)
        if name in SIZED:
            return self.bytes(getattr(self.plan, f"{name}_bytes"))
        if name == "adverts":
            return self.ascending([self.keys() for _ in range(self.count())])
        return self.ascending([(self.agent(), self.bytes(ROWS[name])) for _ in range(self.count())])

    def bytes(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise WireError(
                f"{self.kind.__name__} ends after {len(self.data)} bytes in the middle of a field: it was cut off."
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def agent(self) -> int:
        (agent,) = COUNT.unpack(self.bytes(COUNT.size))
        if agent not in self.plan.neighbours:
            raise WireError(f"{self.kind.__name__} names agent {agent}, which was not invited to this sum.")
        return int(agent)

    def count(self) -> int:
        (count,) = COUNT.unpack(self.bytes(COUNT.size))
        if count > self.plan.degree + 1:
            raise WireError(
                f"{self.kind.__name__} announces {count} entries, and an agent has {self.plan.degree} neighbours here."
            )
        return int(count)

    def keys(self) -> SumKeys:
        return SumKeys(self.agent(), *(self.bytes(size) for size in KEY_PARTS))

    def ascending(self, rows: list[Any]) -> tuple[Any, ...]:
        if any(a[0] >= b[0] for a, b in pairwise(rows)):
            raise WireError(f"{self.kind.__name__} names agents twice or out of order.")
        return tuple(rows)

    def members(self) -> tuple[int, ...]:
        members = self.plan.members
        bits = int.from_bytes(self.bytes(-(-len(members) // 8)), "little")
        if bits >> len(members):
            raise WireError(f"{self.kind.__name__} names more agents than were invited to this sum.")
        return tuple(member for place, member in enumerate(members) if bits >> place & 1)


def _key_bytes(keys: SumKeys) -> bytes:
    return COUNT.pack(keys.agent) + b"".join(keys[1:])


def _bitmap(present: tuple[int, ...], plan: AnyPlan) -> bytes:
    found = set(present)
    bits = sum(1 << place for place, member in enumerate(plan.members) if member in found)
    return bits.to_bytes(-(-len(plan.members) // 8), "little")
