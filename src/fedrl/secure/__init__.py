"""Secure sums: the server, or whoever adds, learns the sum of the agents' updates and no single one of them.

    grid  --integers-->  masks, shares, graph  -->  agent, coordinator  -->  drive   all of it in one process
                         plan: what all know        additive                groups  a sum for each group
                         ckks                       encrypted

`agent` and `coordinator` are the protocol with one server, `additive` the one without an all-seeing party at all,
`encrypted` the one in which agents share a key that the server lacks.
"""

from fedrl.secure.additive import AdditivePlan
from fedrl.secure.agent import SumAgent
from fedrl.secure.ckks import EncryptionKey, new_encryption_key
from fedrl.secure.coordinator import SumCoordinator
from fedrl.secure.drive import OpenedSum, secure_sum
from fedrl.secure.drive_additive import additive_sum
from fedrl.secure.drive_encrypted import encrypted_sum
from fedrl.secure.encrypted import (
    CiphertextAdder,
    EncryptedSum,
    EncryptedSumPlan,
    EncryptedVector,
    decrypt,
    encrypt,
)
from fedrl.secure.grid import ring_sum
from fedrl.secure.groups import partition
from fedrl.secure.identity import Directory, Identity
from fedrl.secure.plan import SumPlan, context_of, sum_plan

__all__ = [
    "AdditivePlan",
    "CiphertextAdder",
    "Directory",
    "EncryptedSum",
    "EncryptedSumPlan",
    "EncryptedVector",
    "EncryptionKey",
    "Identity",
    "OpenedSum",
    "SumAgent",
    "SumCoordinator",
    "SumPlan",
    "additive_sum",
    "context_of",
    "decrypt",
    "encrypt",
    "encrypted_sum",
    "new_encryption_key",
    "partition",
    "ring_sum",
    "secure_sum",
    "sum_plan",
]
