"""The bytes of a secure sum in each phase, to and from an agent, if everybody stays: for clocks and tables.

They follow from the plan alone. Where agents leave, later messages have fewer entries.
"""

from __future__ import annotations

from typing import NamedTuple

from fedrl.secure.additive import AdditivePlan
from fedrl.secure.channel import TAG
from fedrl.secure.ckks import SUM_BYTES, VECTOR_BYTES, ciphertexts_of
from fedrl.secure.encrypted import EncryptedSumPlan
from fedrl.secure.masks import KEY_BYTES
from fedrl.secure.messages import BOX, COUNT, HASH, HEAD, KEY_PARTS, SHARE
from fedrl.secure.plan import SumPlan
from fedrl.secure.ring import WORD


class PhaseBytes(NamedTuple):
    """The bytes of one phase.

    Attributes:
        name: The phase, of `fedrl.secure.coordinator.PHASES`, `fedrl.secure.drive_additive.ADDITIVE_PHASES` or
            `fedrl.secure.drive_encrypted.ENCRYPTED_PHASES`.
        down: Bytes of the message to an agent, after which it answers; 0 if there is none.
        up: Bytes of its answer.
    """

    name: str
    down: int
    up: int


def mask_phases(plan: SumPlan) -> tuple[PhaseBytes, ...]:
    """Return the phases of a sum with masks.

    >>> [phase.up for phase in mask_phases(SumPlan(b"example", (0, 1, 2), 1000, 2, 2, 2))]
    [113, 397, 4017, 61, 129]
    """
    head, near, members = HEAD.size, plan.degree, -(-len(plan.members) // 8)
    who, keys = COUNT.size, COUNT.size + sum(KEY_PARTS)

    def rows(count: int, size: int) -> int:
        return COUNT.size + count * (who + size)

    opened, tagged = head + who + rows(near + 1, SHARE), head + rows(near, TAG)
    phases = (
        PhaseBytes("adverts", 0, head + keys),
        PhaseBytes(
            "shares",
            head + members + COUNT.size + near * keys,
            head + who + rows(near, BOX) + rows(near + 1, 2 * HASH),
        ),
        PhaseBytes("masked", head + members + rows(near, BOX), head + who + plan.size * WORD.itemsize),
    )
    if not plan.verified:
        return (*phases, PhaseBytes("opening", head + members, opened))
    return (
        *phases,
        PhaseBytes("tags", head + members, tagged + who),
        PhaseBytes("opening", tagged, opened),
    )


def additive_phases(plan: AdditivePlan) -> tuple[PhaseBytes, ...]:
    """Return the phases of a sum by additive shares in which agents send.

    >>> additive_phases(AdditivePlan(b"example", (0, 1, 2), size=1000, minimum=2, aggregators=2))
    (PhaseBytes(name='parts', down=0, up=4040),)
    """
    whole = COUNT.size + plan.size * WORD.itemsize
    if plan.aggregators:
        return (PhaseBytes("parts", 0, (plan.aggregators - 1) * (COUNT.size + KEY_BYTES) + whole),)
    others = len(plan.members) - 1
    parts = PhaseBytes("parts", 0, others * (COUNT.size + KEY_BYTES))
    return (parts, PhaseBytes("sums", 0, whole))


def encrypted_phases(plan: EncryptedSumPlan) -> tuple[PhaseBytes, ...]:
    """Return the phases of an encrypted sum. One agent opens it; a clock counts the time of the slowest that is there.

    >>> [(phase.down, phase.up) for phase in encrypted_phases(EncryptedSumPlan((0, 1, 2), size=1000, minimum=2))]
    [(0, 31204), (62001, 4000)]
    """
    count, members = ciphertexts_of(plan.size), -(-len(plan.members) // 8)
    return (
        PhaseBytes("vectors", 0, COUNT.size + count * VECTOR_BYTES),
        PhaseBytes("opening", members + count * SUM_BYTES, plan.size * WORD.itemsize),
    )
