"""Differential privacy: mechanisms, what they cost, budgets.

    mechanisms  --Noise(event, clip, at, unit, relation)-->  pricing  --one round's event-->  ledger
    stages that clip and add noise                           amplification, composition       spent, remaining

The order in which a data officer asks is that of `docs/privacy.md`.
"""

from fedrl.privacy.adaptive_clip import adaptive_gaussian
from fedrl.privacy.adaptive_noise import progress_gaussian
from fedrl.privacy.distributed import distributed_skellam
from fedrl.privacy.factorised import factorised_gaussian
from fedrl.privacy.mechanisms import central_gaussian, central_laplace, local_gaussian, local_laplace

__all__ = [
    "adaptive_gaussian",
    "central_gaussian",
    "central_laplace",
    "distributed_skellam",
    "factorised_gaussian",
    "local_gaussian",
    "local_laplace",
    "progress_gaussian",
]
