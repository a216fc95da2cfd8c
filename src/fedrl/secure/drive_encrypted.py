"""A whole encrypted sum in one process: all agents, the coordinator, and who leaves when. For simulations and tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrl.core.errors import TooFewAgentsError
from fedrl.secure.ckks import EncryptionKey, new_encryption_key
from fedrl.secure.drive import CostMeter, OpenedSum, check_rows
from fedrl.secure.encrypted import CiphertextAdder, EncryptedSumPlan, decrypt, encrypt
from fedrl.secure.messages import COUNT

ENCRYPTED_PHASES = ("vectors", "opening")
"""When an agent may leave: before it sends its vector, or before it is asked to open the sum."""


def encrypted_sum(
    values: np.ndarray,
    plan: EncryptedSumPlan,
    leaves: Mapping[int, str] | None = None,
    key: EncryptionKey | None = None,
    meter: CostMeter | None = None,
) -> OpenedSum:
    """Add the rows of a matrix under encryption, all parties in one process.

    Args:
        values: int32 or uint32 `[agents, size]`, a row for each member of the plan.
        plan: The plan of the sum.
        leaves: When an agent leaves, one of `ENCRYPTED_PHASES`.
        key: The key of the agents; a new one if None.
        meter: Where costs are added up, also those of a sum that is given up.

    Raises:
        TooFewAgentsError: Fewer vectors arrived than the minimum, or nobody is left to open the sum.
        SecureSumError: An entry is so large that the sum might not fit.

    >>> plan = EncryptedSumPlan((0, 1, 2), size=2, minimum=2)
    >>> encrypted_sum(np.array([[1, 2], [30, 40], [500, 600]], np.int32), plan, {1: "vectors"}).total.tolist()
    [501, 602]
    """
    check_rows(values, plan.members)
    leaves, meter = leaves or {}, CostMeter() if meter is None else meter
    key = new_encryption_key() if key is None else key
    coordinator = CiphertextAdder(plan)
    meter.add("vectors")  # it has begun, also if nobody answers
    for agent, row in zip(plan.members, values, strict=True):
        if leaves.get(agent) == "vectors":
            continue
        with meter.timed("vectors", "agents_s"):
            vector = encrypt(plan, key, agent, row)
        meter.came("vectors", agent, COUNT.size + len(vector.content))
        with meter.timed("vectors", "coordinator_s"):
            coordinator.receive(agent, vector)
    with meter.timed("opening", "coordinator_s"):
        found = coordinator.sum()
    # One after the other is asked to open it, until one is there.
    for opener in found.included:
        meter.add("opening", down_bytes=-(-len(plan.members) // 8) + len(found.content))
        meter.heard += 1
        if opener not in leaves:
            break
    else:
        raise TooFewAgentsError("All agents left before one of them had opened the encrypted sum.")
    with meter.timed("opening", "agents_s"):
        total = decrypt(plan, key, found)
    meter.came("opening", opener, total.nbytes)
    return OpenedSum(total, found.included, meter.costs)
