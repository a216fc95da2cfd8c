"""Learning algorithms, each useful alone, and the parts they are made of."""

from fedrl.learners.algorithms.a2c import a2c
from fedrl.learners.algorithms.ppo import ppo
from fedrl.learners.algorithms.q_table import q_table
from fedrl.learners.algorithms.reinforce import reinforce
from fedrl.learners.parts.networks import mlp, network
from fedrl.learners.parts.optimizers import adam, chain, corrected, proximal, rmsprop, sgd
from fedrl.learners.wrappers.acceptance import gated
from fedrl.learners.wrappers.embedding import adapting, embedded
from fedrl.learners.wrappers.interpolation import apfl, interpolated
from fedrl.learners.wrappers.mixture import mixture
from fedrl.learners.wrappers.normalize import normalize
from fedrl.learners.wrappers.personal import personal

__all__ = [
    "a2c",
    "adam",
    "adapting",
    "apfl",
    "chain",
    "corrected",
    "embedded",
    "gated",
    "interpolated",
    "mixture",
    "mlp",
    "network",
    "normalize",
    "personal",
    "ppo",
    "proximal",
    "q_table",
    "reinforce",
    "rmsprop",
    "sgd",
]
